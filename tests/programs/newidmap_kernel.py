"""The library's verdict on random maps, and that of newuidmap or newgidmap."""

from __future__ import annotations

import json
import random
from collections import Counter
from errno import EINVAL
from pathlib import Path

from test_idmap_kernel import RandomMaps, Triple

from usernsproc import IdMap, IdMapError, IdMapPermissionError, MapToolError, _core, subids
from usernsproc._caller import Caller
from usernsproc._helper import Ended, find_tool, run_tool
from usernsproc._maps.presets import unchanged
from usernsproc._maps.side import SIDES, Side
from usernsproc._maps.writer import Maps
from usernsproc._proc import pid_of
from usernsproc._setup.calls import SETUP_OF_HOLDER
from usernsproc._spawn import HIDDEN, start


def verdict_of_the_library(side: Side, triples: list[Triple], caller: Caller) -> tuple[int, Maps | None]:
    try:
        return 0, Maps.resolve_one(side, IdMap(triples), None, caller)
    except IdMapPermissionError as error:
        return error.errno or 0, None
    except IdMapError:
        return EINVAL, None


def is_refused_by_the_tool(side: Side, triples: list[Triple]) -> bool:
    written: list[str] = []

    def write(child: _core.Child) -> Ended:
        tool = find_tool(side.tool)
        assert tool
        ended = run_tool(tool, str(pid_of(child.pidfd)), *(str(number) for triple in triples for number in triple))
        written.append(Path(f"/proc/{child.pid}/{side.file}").read_text())
        return ended

    with start(None, setup=SETUP_OF_HOLDER, signals=HIDDEN, hook=write):
        pass
    return not written[0]


def create(maps: Maps) -> None:
    def write(child: _core.Child) -> None:
        maps.write_via_newidmap(child.pid, child.pidfd)

    with start(None, maps=maps.for_core, setup=SETUP_OF_HOLDER, signals=HIDDEN, hook=write):
        pass


def compare(seed: int, count: int, step: str) -> None:
    """Print the number of each verdict, by whether the tool had to write the map."""
    rng, caller, verdicts = random.Random(seed), Caller.now(), Counter[str]()
    [side] = (side for side in SIDES if side.file == step)
    own = unchanged(subids()[SIDES.index(side)].inverse())
    random_maps = RandomMaps(rng, own, side.id_of(caller))
    for number, triples in zip(range(count), random_maps, strict=False):
        errno, maps = verdict_of_the_library(side, triples, caller)
        where = f"IDMAP_SEED={seed}, map {number} {triples}: ours {errno}"
        if maps is None:
            assert is_refused_by_the_tool(side, triples), where
        else:
            try:
                create(maps)
            except (MapToolError, _core.Failure) as error:
                raise AssertionError(f"{where}, {error!r}, {getattr(error, 'stderr', '')}") from None
        verdicts[f"{errno} {bool(maps and maps.via_newidmap)}"] += 1
    print(json.dumps(verdicts))
