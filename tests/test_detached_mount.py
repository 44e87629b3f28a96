"""Idmapped mounts that are not mounted anywhere yet."""

from __future__ import annotations

import os
import pickle

import pytest
from alone import run_alone
from programs import detached_mount

from usernsproc import DetachedMount

pytestmark = pytest.mark.kernel("5.12")


@pytest.mark.root
def test_it_is_seen_by_its_descriptor_alone() -> None:
    run_alone(detached_mount.seen_by_its_descriptor_alone)


@pytest.mark.root
def test_it_is_attached_once() -> None:
    """A failed attempt leaves it as it is; after a successful one this object is closed."""
    run_alone(detached_mount.attached_once)


@pytest.mark.root
@pytest.mark.kernel("6.3")
def test_a_process_in_another_mount_namespace_attaches_it() -> None:
    """The descriptor is passed to a container's process, which has no right to the file system."""
    run_alone(detached_mount.attached_by_another_process)


@pytest.mark.root
def test_a_mount_that_is_mounted_is_not_moved() -> None:
    """No other part of it than its root is moved either."""
    run_alone(detached_mount.what_is_mounted_is_not_moved)


@pytest.mark.root
def test_to_ask_for_its_maps_mounts_nothing_elsewhere() -> None:
    """A copy of a shared mount is a peer of it: what is mounted on the one is mounted on the other."""
    run_alone(detached_mount.maps_of_a_shared_mount)


@pytest.mark.root
def test_the_kernel_shows_its_maps_or_the_error_says_since_when() -> None:
    run_alone(detached_mount.maps_or_an_error)


@pytest.mark.root
@pytest.mark.kernel("7.0")
def test_its_maps_are_read_with_submounts_and_without() -> None:
    """The kernel itself shows them only with submounts. Nothing is left of the copy that is queried."""
    run_alone(detached_mount.maps_with_submounts_and_without)


@pytest.mark.root
@pytest.mark.parametrize("recursive", [False, pytest.param(True, marks=pytest.mark.kernel("6.3"))])
def test_an_interrupt_leaves_no_mount(recursive: bool) -> None:
    """An exception of a signal handler, before or after any of the system calls."""
    run_alone(detached_mount.interrupts, recursive)


def test_it_owns_its_descriptor() -> None:
    fd = os.open("/", os.O_PATH | os.O_CLOEXEC)
    detached = DetachedMount(fd)
    assert (detached.fileno(), detached.closed) == (fd, False)
    with pytest.raises(TypeError, match="pickled"):
        pickle.dumps(detached)
    assert detached.detach() == fd
    with pytest.raises(ValueError, match="closed detached mount"):
        detached.fileno()
    os.close(fd)
    with pytest.raises(TypeError):
        DetachedMount("/")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="propagation"):
        DetachedMount(0, propagation="all")


def test_a_dropped_one_is_closed_with_a_warning() -> None:
    fd = os.open("/", os.O_PATH | os.O_CLOEXEC)
    with pytest.warns(ResourceWarning, match=f"unclosed <DetachedMount fd {fd}>"):
        DetachedMount(fd)
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(fd)
