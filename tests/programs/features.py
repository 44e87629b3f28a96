"""System calls that a filter hides."""

from __future__ import annotations

import errno

import native

from usernsproc._diagnosis.features import read_features

KERNEL = native.KERNEL
version = native.kernel_version
NUMBERS = {"openat2": 437, "open_tree": 428, "mount_setattr": 442, "open_tree_attr": 467, "statmount": 457}


FOR_ROOT = ("mount_setattr", "open_tree_attr")


def without(call: str, error: str) -> None:
    """Print the features that change."""
    before = list(read_features(has_userns=False))
    native.refuse_system_call(NUMBERS[call], getattr(errno, error))
    after = list(read_features(has_userns=False))
    for old, new in zip(before, after, strict=True):
        if old != new:
            assert (old.available, new.available) == (True, False), (old, new)
            assert old.used != new.used
            print(new.name)
