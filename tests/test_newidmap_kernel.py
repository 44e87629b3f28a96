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
from usernsproc._maps.writer import Maps
from usernsproc._maps.presets import unchanged
from usernsproc._proc import pid_of
from usernsproc._maps.tool import find_tool, run_tool
from usernsproc._maps.tool_rules import TOOLS
from test_idmap_kernel import RandomMaps

def ours(step, triples, caller):
    try:
        given = IdMap(triples)
        return 0, Maps.given(*((given, None) if step == "uid_map" else (None, given)), None, caller)
    except IdMapPermissionError as error:
        return error.errno, None
    except IdMapError:
        return 22, None

def refused_by_the_tool(step, triples):
    def run(pid, pidfd):
        tool = find_tool(TOOLS[step])
        ended = run_tool(tool, str(pid_of(pidfd)), *(str(number) for triple in triples for number in triple))
        written.append(open(f"/proc/{pid}/{step}").read())
        return ended
    written = []
    _core.create_userns(None, None, None, run).close()
    return not written[0]

seed, maps, step = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
rng, caller, verdicts = random.Random(seed), Caller.now(), Counter()
own = unchanged(subids()[step == "gid_map"].inverse())
for number, triples in zip(range(maps), RandomMaps(rng, own, caller.uid if step == "uid_map" else caller.gid)):
    errno, wanted = ours(step, triples, caller)
    where = f"IDMAP_SEED={seed}, map {number} {triples}: ours {errno}"
    if errno:
        assert refused_by_the_tool(step, triples), where
    else:
        try:
            between = wanted.write_by_tool if wanted.by_tool else None
            userns = _core.create_userns(wanted.setgroups, wanted.uid_text, wanted.gid_text, between)
        except (MapToolError, _core.Failure) as error:
            raise AssertionError(f"{where}, {error!r}, {getattr(error, 'stderr', '')}") from None
        userns.close()
    verdicts[f"{errno} {bool(wanted and wanted.by_tool)}"] += 1
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
