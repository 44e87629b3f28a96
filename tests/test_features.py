"""What the doctor lists of the kernel is what the kernel has."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from alone import run_alone
from programs import features

from usernsproc._diagnosis.features import read_features

VERSIONS = {
    "openat2": "5.6",
    "mount_setattr": "5.12",
    "landlock": "5.13",
    "statmount": "6.8",
    "pidfd-namespaces": "6.11",
    "open_tree_attr": "6.15",
}


@pytest.mark.parametrize("name", VERSIONS)
def test_what_the_kernel_has_is_found(name: str) -> None:
    found = {feature.name: feature for feature in read_features(has_userns=True)}
    assert found[name].available is (features.version(VERSIONS[name]) <= features.KERNEL)


def test_without_user_namespaces_one_cannot_be_determined() -> None:
    names = [[feature.name for feature in read_features(has_userns=has)] for has in (True, False)]
    assert set(names[0]) - set(names[1]) == {"clone3"}


@pytest.mark.parametrize(
    "call",
    [
        "open_tree",
        *(
            pytest.param(name, marks=pytest.mark.kernel(VERSIONS[name]))
            for name in ("openat2", "mount_setattr", "statmount", "open_tree_attr")
        ),
    ],
)
@pytest.mark.parametrize("error", ["ENOSYS", "EPERM"])
def test_what_a_filter_hides_is_missing(call: str, error: str) -> None:
    """The text then names what the library does instead. EPERM of calls that require rights may mean their lack."""
    changed = run_alone(features.without, call, error).splitlines()
    assert changed == ([] if error == "EPERM" and call in features.FOR_ROOT else [call])


def test_each_is_documented() -> None:
    reference = (Path(__file__).parent.parent / "docs/reference.md").read_text()
    [row] = [line for line in reference.splitlines() if line.startswith("| `features[].name`")]
    names = [feature.name for feature in read_features(has_userns=True)]
    assert names == re.findall(r"`([a-z_0-9-]+)`", row)
