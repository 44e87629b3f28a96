"""Idmapped mounts that are not mounted anywhere yet."""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable
from textwrap import dedent

import pytest

from usernsproc import DetachedMount

pytestmark = pytest.mark.kernel("5.12")

Script = Callable[..., str]

PREPARE = """
    import errno
    import native
    from leaks import state
    from mounting import *
    from usernsproc import DetachedMount, create_userns, lowlevel, open_idmapped
    work = own_mount_namespace()
    source, target = make_file_system("ext4", work), work / "target"
    target.mkdir()
"""


@pytest.fixture
def mounting(script: Script) -> Script:
    return lambda source: script(dedent(PREPARE) + dedent(source))


@pytest.mark.root
def test_it_is_seen_by_its_descriptor_alone(mounting: Script) -> None:
    mounting("""
        before = state()
        with open_idmapped(source, (MAP, MAP), read_only=True) as detached:
            assert state()["mounts"] == before["mounts"]
            status = os.stat("of-1000", dir_fd=detached.fileno())
            assert (status.st_uid, status.st_gid) == (101000, 101000)
            try:
                os.open("new", os.O_CREAT | os.O_WRONLY, dir_fd=detached.fileno())
            except OSError as error:
                assert error.errno == errno.EROFS
            assert repr(detached) == f"<DetachedMount fd {detached.fileno()}>"
        assert detached.closed and repr(detached) == "<DetachedMount closed>"
        detached.close()
        assert state() == before
    """)


@pytest.mark.root
def test_it_is_attached_once(mounting: Script) -> None:
    """A failed attempt leaves it as it is; after a successful one this object is closed."""
    mounting("""
        detached = open_idmapped(source, (MAP, MAP))
        for nowhere in (work / "nothing", work / "image-ext4"):
            before = state()
            try:
                detached.attach(nowhere)
            except UsernsError as error:
                assert error.step == "move_mount"
            else:
                raise AssertionError
            assert state() == before
        with detached.attach(target) as mount:
            assert detached.closed
            assert mount.target == str(target) and tells(mount, MAP)
            assert owners(target / "of-0") == (100000, 100000)
            try:
                detached.attach(target)
            except ValueError as error:
                assert "closed" in str(error)
            else:
                raise AssertionError
        assert mounts_below(target) == []
    """)


@pytest.mark.root
@pytest.mark.kernel("6.3")
def test_a_process_in_another_mount_namespace_attaches_it(mounting: Script) -> None:
    """The descriptor is passed to a container's process, which has no right to the file system."""
    mounting("""
        import socket
        ours, theirs = socket.socketpair()
        (source / "sub").mkdir()
        run("mount", "-t", "tmpfs", "tmpfs", source / "sub")
        with create_userns(MAP, MAP) as userns:
            pid = os.fork()
            if pid == 0:
                userns.enter()
                native.unshare(native.CLONE_NEWNS)
                os.setgid(0), os.setuid(0)
                _, [fd], _, _ = socket.recv_fds(theirs, 1, 1)
                with DetachedMount(fd, propagation="private") as detached, detached.attach(target) as mount:
                    assert detached.closed
                    assert owners(target / "of-0") == (0, 0)
                    assert owners(target / "of-1000") == (1000, 1000)
                    assert owners(target / "sub") == (0, 0)
                    (target / "new").touch()
                    assert owners(target / "new") == (0, 0)
                    assert tells(mount, "0:0:65536")
                    assert len(mounts_below(target)) == 2
                assert mounts_below(target) == []
                os._exit(0)
            with open_idmapped(source, userns, recursive=True) as detached:
                socket.send_fds(ours, [b"."], [detached.fileno()])
        assert os.waitpid(pid, 0)[1] == 0
        assert owners(source / "new") == (0, 0)
        assert mounts_below(target) == []
    """)


@pytest.mark.root
def test_a_mount_that_is_mounted_is_not_moved(mounting: Script) -> None:
    """Nor another part of it than its root."""
    mounting("""
        (work / "elsewhere").mkdir()
        fd = lowlevel.open_tree(-100, source.parent, os.O_CLOEXEC)
        with DetachedMount(fd) as not_detached:
            error = failure(not_detached.attach, target)
            assert (error.step, error.errno, error.cause) == ("move_mount", errno.EINVAL, "attached")
            native.refuse_system_call(457, errno.ENOSYS)  # statmount, which older kernels lack
            assert failure(not_detached.attach, target).cause == "attached"
        with open_idmapped(source.parent, (MAP, MAP)) as detached:
            inner = os.open("source", os.O_PATH | os.O_CLOEXEC, dir_fd=detached.fileno())
            with DetachedMount(inner) as part:
                error = failure(part.attach, target)
                assert (error.step, error.errno) == ("move_mount", errno.EINVAL)
    """)


@pytest.mark.root
def test_to_ask_for_its_maps_mounts_nothing_elsewhere(mounting: Script) -> None:
    """A copy of a shared mount is a peer of it: what is mounted on the one is mounted on the other."""
    mounting("""
        from usernsproc._mounts.mount import _statmount_copy
        native.must(native.libc.mount(None, bytes(source.parent), None, native.MS_SHARED, None))
        before = state()["mounts"]
        with open_idmapped(source, (MAP, MAP), propagation="shared") as detached:
            try:
                _statmount_copy(detached.fileno())
            except UsernsError as error:
                assert error.step == "statmount"
                assert native.KERNEL < (7, 0)
        assert state()["mounts"] == before
    """)


@pytest.mark.root
def test_the_kernel_tells_its_maps_or_the_error_says_since_when(mounting: Script) -> None:
    mounting("""
        with open_idmapped(source, (MAP, "5:6:7")) as detached:
            try:
                assert (str(detached.uid_map), str(detached.gid_map)) == (MAP, "5:6:7")
            except UsernsError as error:
                assert (error.step, error.cause) == ("statmount", "kernel-too-old")
                assert "7.0" in error.__notes__[0]
                assert native.KERNEL < (7, 0)
            else:
                assert native.KERNEL >= (7, 0)
            with detached.attach(target) as mount:
                assert tells(mount, MAP, "5:6:7")
    """)


@pytest.mark.root
@pytest.mark.kernel("7.0")
def test_its_maps_are_told_with_submounts_and_without(mounting: Script) -> None:
    """The kernel itself does only with them. Nothing is left of the copy that it is asked for."""
    mounting("""
        (source / "sub").mkdir()
        run("mount", "-t", "tmpfs", "tmpfs", source / "sub")
        for recursive in (True, False):
            with open_idmapped(source, (MAP, "5:6:7"), recursive=recursive) as detached:
                before = state()
                assert tells(detached, MAP, "5:6:7")
                assert state() == before
                inner = os.open(".", os.O_PATH | os.O_CLOEXEC, dir_fd=detached.fileno())
                with DetachedMount(inner) as again:
                    assert tells(again, MAP, "5:6:7")
        with DetachedMount(lowlevel.open_tree(-100, source, os.O_CLOEXEC | 1)) as plain:
            assert (list(plain.uid_map), list(plain.gid_map)) == ([], [])
        with open_idmapped(source, (MAP, MAP)) as detached:
            native.refuse_system_call(428, errno.EPERM)  # open_tree
            error = failure(lambda: detached.uid_map)
            assert (error.step, error.errno, error.cause) == ("statmount", errno.EPERM, None)
            assert "CAP_SYS_ADMIN" in error.__notes__[0]
    """)


@pytest.mark.root
@pytest.mark.parametrize("recursive", [False, pytest.param(True, marks=pytest.mark.kernel("6.3"))])
def test_an_interrupt_leaves_no_mount(script: Script, recursive: bool) -> None:
    """An exception of a signal handler, before or after any of the system calls."""
    script(
        dedent(PREPARE)
        + dedent("""
        import sys
        from usernsproc import _core, idmapped_mount
        recursive = sys.argv[1] == "True"
        for directory in (source / "a", source / "a" / "b"):
            directory.mkdir()
            run("mount", "-t", "tmpfs", "tmpfs", directory)
        run("mount", "--make-shared", work)  # so that all steps are taken

        with create_userns(MAP, MAP) as userns:
            before, points = state(), 0
            for name in ("open_tree", "mount_setattr", "move_mount", "umount2"):
                original = getattr(_core, name)
                for is_done in (False, True):
                    if name == "open_tree" and is_done:
                        continue  # its result would be lost to this test, not to the program
                    for number in range(100):
                        calls = []
                        def interrupted(*arguments):
                            calls.append(arguments)
                            if len(calls) != number + 1:
                                return original(*arguments)
                            if is_done:
                                original(*arguments)
                            raise KeyboardInterrupt
                        setattr(_core, name, interrupted)
                        try:
                            mount = idmapped_mount(source, target, userns, recursive=recursive)
                        except KeyboardInterrupt:
                            points += 1
                            setattr(_core, name, original)
                        else:
                            setattr(_core, name, original)
                            mount.unmount()
                        assert state() == before, (name, is_done, number)
                        if len(calls) <= number:
                            break
            assert points >= (20 if recursive else 9), points
    """),
        str(recursive),
    )


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
