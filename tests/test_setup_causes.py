"""Where a set-up step fails for a known reason, the error names the cause, and a note has the remedy."""

from __future__ import annotations

import copy
import pickle
from errno import EACCES, EINVAL, ELOOP, ENOENT, ENOSPC, EPERM, EROFS

import pytest
import unprivileged
from alone import run_alone
from programs import setup_causes

from usernsproc import UsernsError, run
from usernsproc.setup import Bind, Root


def test_masked_file_systems_of_the_kernel() -> None:
    """As in containers: a fresh one would show what is covered."""
    assert run_alone(setup_causes.masked).splitlines() == [
        f"0 Proc fsmount {EPERM} proc-masked",
        f"0 Sysfs fsmount {EPERM} sysfs-masked",
    ]


def test_targets_and_sources() -> None:
    assert run_alone(setup_causes.targets).splitlines() == [
        f"1 Proc openat2 {ELOOP} target-is-link",
        f"2 Tmpfs mkdirat {EROFS} mount-point-missing",
        f"2 Bind make_like {EROFS} mount-point-missing",
        f"2 Bind make_like {ENOSPC} file-system-full",
        f"0 Bind open_tree {EINVAL} locked-submounts",
        f"0 Bind open_tree {ENOENT} path-missing",
    ]


def test_layers_of_an_overlay() -> None:
    assert run_alone(setup_causes.overlays).splitlines() == [
        f"0 Overlay fsconfig {EINVAL} overlay-refused",
        f"0 Overlay fsconfig {ELOOP} overlay-overlaps",
    ]


def test_a_directory_of_another_user() -> None:
    output = unprivileged.as_unprivileged_user(setup_causes.denied)
    assert output.splitlines() == [f"0 Tmpfs mkdirat {EACCES} mount-point-missing"]


@pytest.mark.root
def test_a_root_that_is_not_a_mount_point() -> None:
    assert run_alone(setup_causes.chroot).splitlines() == [f"None propagation None {EINVAL} root-not-a-mount"]


def test_a_copy_of_the_error_keeps_everything() -> None:
    with pytest.raises(UsernsError) as caught:
        run(["true"], uid_map="root", setup=[Root("tmpfs"), Bind("/none", "/x")])
    error = caught.value
    assert isinstance(error, FileNotFoundError)
    assert str(error) == "setup[1] Bind: open_tree: No such file or directory: '/none' [ENOENT, path-missing]"
    for another in (pickle.loads(pickle.dumps(error)), copy.copy(error), copy.deepcopy(error)):
        assert (type(another), str(another), another.__notes__) == (type(error), str(error), error.__notes__)
        assert (another.setup_index, another.setup_step, another.call) == (1, "Bind('/none', target='/x')", "open_tree")
        assert (another.step, another.filename, another.errno) == ("Bind", "/none", ENOENT)
