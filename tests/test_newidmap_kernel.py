"""The library's verdict on a map compared with that of newuidmap and newgidmap, for random maps.

They refuse what the library refuses, and write what it accepts. `test_idmap_kernel.py`, whose
maps these are, does the same for the kernel.
"""

from __future__ import annotations

import json
import os
from errno import EINVAL, EPERM

import pytest
from programs import newidmap_kernel
from test_idmap_kernel import AT_LEAST, SEED
from unprivileged import SUITES, UID, as_unprivileged_user, shadow

MAPS = 800
LINES = "\n".join(
    f"{UID}:{first}:{count}"
    for first, count in ((0, 900), (100000, 65536), (165536, 10), (2**31 - 1, 2), (2**32 - 6, 5), (300000, 1))
)


@pytest.mark.root
@pytest.mark.parametrize("suite", SUITES)
@pytest.mark.parametrize("step", ["uid_map", "gid_map"])
def test_the_library_and_the_tools_agree_on_every_map(step: str, suite: str) -> None:
    printed = as_unprivileged_user(
        newidmap_kernel.compare,
        SEED,
        MAPS,
        step,
        subuid=LINES,
        subgid=LINES,
        env={"PATH": f"{shadow(suite)}:{os.environ['PATH']}"},
    )
    verdicts = json.loads(printed)
    assert sum(verdicts.values()) == MAPS
    for verdict in ("0 True", "0 False", f"{EPERM} False", f"{EINVAL} False"):
        assert verdicts.get(verdict, 0) > AT_LEAST / 4, verdicts
