"""Our verdict on a map against that of newuidmap and newgidmap, over random maps.

What we refuse they refuse; what we accept they write. As `test_idmap_kernel.py`, whose
maps these are, has it for what the kernel itself decides.
"""

from __future__ import annotations

import json
import os
from errno import EINVAL, EPERM

import pytest
from ordinary import SUITES, UID, as_ordinary_user, shadow
from test_idmap_kernel import AT_LEAST, SEED

MAPS = 800
LINES = "\n".join(
    f"{UID}:{first}:{count}"
    for first, count in ((0, 900), (100000, 65536), (165536, 10), (2**31 - 1, 2), (2**32 - 6, 5), (300000, 1))
)

COMPARE = """
import json, random, sys
from collections import Counter
from usernsproc import IdMap, IdMapError, MapToolError, _core, subids
from usernsproc._caller import Caller
from usernsproc._errors import IdMapPermissionError
from usernsproc._helper import find_tool, run_tool
from usernsproc._maps.presets import unchanged
from usernsproc._maps.side import GID, UID
from usernsproc._maps.writer import Maps
from usernsproc._proc import pid_of
from test_idmap_kernel import RandomMaps

def ours(side, triples, caller):
    try:
        given = IdMap(triples)
        return 0, Maps.resolve_one(side, given, None, caller)
    except IdMapPermissionError as error:
        return error.errno, None
    except IdMapError:
        return 22, None

def refused_by_the_tool(side, triples):
    def run(pid, pidfd):
        tool = find_tool(side.tool)
        ended = run_tool(tool, str(pid_of(pidfd)), *(str(number) for triple in triples for number in triple))
        written.append(open(f"/proc/{pid}/{side.file}").read())
        return ended
    written = []
    _core.create_userns(None, None, None, run).close()
    return not written[0]

seed, maps, side = int(sys.argv[1]), int(sys.argv[2]), UID if sys.argv[3] == "uid_map" else GID
rng, caller, verdicts = random.Random(seed), Caller.now(), Counter()
own = unchanged(subids()[side is GID].inverse())
for number, triples in zip(range(maps), RandomMaps(rng, own, side.id_of(caller))):
    errno, wanted = ours(side, triples, caller)
    where = f"IDMAP_SEED={seed}, map {number} {triples}: ours {errno}"
    if errno:
        assert refused_by_the_tool(side, triples), where
    else:
        try:
            between = wanted.write_via_newidmap if wanted.via_newidmap else None
            userns = _core.create_userns(*wanted.for_core, between)
        except (MapToolError, _core.Failure) as error:
            raise AssertionError(f"{where}, {error!r}, {getattr(error, 'stderr', '')}") from None
        userns.close()
    verdicts[f"{errno} {bool(wanted and wanted.via_newidmap)}"] += 1
print(json.dumps(verdicts))
"""


@pytest.mark.root
@pytest.mark.parametrize("suite", SUITES)
@pytest.mark.parametrize("step", ["uid_map", "gid_map"])
def test_we_and_the_tools_agree_on_every_map(step: str, suite: str) -> None:
    printed = as_ordinary_user(
        COMPARE,
        str(SEED),
        str(MAPS),
        step,
        subuid=LINES,
        subgid=LINES,
        env={"PATH": f"{shadow(suite)}:{os.environ['PATH']}"},
    )
    verdicts = json.loads(printed)
    assert sum(verdicts.values()) == MAPS
    for verdict in ("0 True", "0 False", f"{EPERM} False", f"{EINVAL} False"):
        assert verdicts.get(verdict, 0) > AT_LEAST / 4, verdicts
