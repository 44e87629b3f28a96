"""The programs of `test_pin.py`.

They mount in a mount namespace of their own; an unprivileged user, as root of a user namespace.
"""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import native
from alone import command, environment
from errors import error_of
from hooks import after, replaced
from leaks import descriptors

from usernsproc import (
    Namespace,
    UsernsError,
    UsernsProcess,
    _system_calls,
    check_output,
    create_userns,
    idmapped_mount,
    run,
)

MS_BIND = 4096


def own_map() -> str:
    """Return what the preset `root` is for a caller with this ID."""
    return f"0:{os.geteuid()}:1"


def mountinfo() -> str:
    return Path("/proc/self/mountinfo").read_text()


def mount(source: str, target: str, kind: bytes | None, flags: int = 0) -> None:
    native.must(native.libc.mount(os.fsencode(source), os.fsencode(target), kind, flags, None))


def mount_tmpfs(target: str) -> None:
    mount("tmpfs", target, b"tmpfs")


def is_pinned(path: str) -> bool:
    return os.path.exists(path) and os.stat(path).st_dev == os.stat("/proc/self/ns/user").st_dev


def injected(failure: str, number: int) -> BaseException:
    return KeyboardInterrupt() if failure == "interrupt" else OSError(number, "injected")


class Place:
    """An empty folder, in a new mount namespace that the program enters, and the path of a pin in it."""

    def __init__(self, folder: str) -> None:
        if os.geteuid():
            with create_userns("root", "root") as mine:
                mine.enter()
        # Since Linux 6.18 each CPU numbers mount namespaces for itself, and one with a smaller number
        # counts as the older one.
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
        native.unshare(native.CLONE_NEWNS)
        native.must(native.libc.mount(None, b"/", None, native.MS_REC | native.MS_PRIVATE, None))
        self.folder = folder
        self.path = f"{folder}/pin"
        self.before = mountinfo()

    def names(self) -> list[str]:
        return os.listdir(self.folder)

    def assert_nothing_left(self) -> None:
        self.assert_left([])

    def assert_left(self, names: list[str]) -> None:
        """Check that these files are there, and no further mount."""
        assert self.names() == names, self.names()
        assert mountinfo() == self.before, mountinfo()

    def pin_a_new_one(self) -> None:
        with create_userns("root", "root") as userns:
            userns.pin(self.path)


def pin_and_unpin(folder: str) -> None:
    place = Place(folder)
    with create_userns("root", "root") as userns:
        userns.pin(place.path)
        inode = userns.inode
    for _ in range(2):
        with Namespace.open(place.path) as again:
            assert (again.kind, again.inode, str(again.uid_map)) == ("user", inode, own_map())
    Namespace.unpin(place.path)
    place.assert_nothing_left()


def nsenter_pins_of_a_process_that_has_exited(folder: str) -> None:
    place = Place(folder)
    path = place.path
    with UsernsProcess(uid_map="root", namespaces=["net", "uts"]) as holder:
        for kind in ("user", "net", "uts"):
            with holder.namespace(kind) as namespace:
                namespace.pin(f"{path}.{kind}")
    nsenter = ["nsenter", f"--user={path}.user", f"--net={path}.net", f"--uts={path}.uts", "--preserve-credentials"]
    nsenter += ["sh", "-c", "cat /proc/self/uid_map; readlink /proc/self/ns/net; id -u"]
    printed = subprocess.run(nsenter, capture_output=True, text=True, check=True).stdout.split()
    with Namespace.open(f"{path}.net") as net, Namespace.open(f"{path}.user") as userns:
        assert printed == ["0", str(os.geteuid()), "1", f"net:[{net.inode}]", "0"], printed
        assert net.owner() == userns
    for kind in ("user", "net", "uts"):
        Namespace.unpin(f"{path}.{kind}")
    place.assert_nothing_left()


def pin_on_an_empty_file(folder: str) -> None:
    place = Place(folder)
    Path(place.path).touch()
    with create_userns("root", "root") as userns:
        userns.pin(place.path)
        assert is_pinned(place.path)
    Namespace.unpin(place.path)
    place.assert_nothing_left()


def pin_what_is_pinned_elsewhere(folder: str) -> None:
    place = Place(folder)
    second = f"{place.path}2"
    place.pin_a_new_one()
    with Namespace.open(place.path) as userns:
        userns.pin(second)
    Namespace.unpin(place.path)
    with Namespace.open(second) as userns:
        assert str(userns.uid_map) == own_map()
    Namespace.unpin(second)
    place.assert_nothing_left()


def pin_on_a_pin(folder: str) -> None:
    place = Place(folder)
    path = place.path
    with create_userns("root", "root") as userns, create_userns("root", "root") as other:
        userns.pin(path)
        for one in (userns, other):
            error = error_of(one.pin, path)
            assert isinstance(error, FileExistsError)
            assert (error.step, error.cause, error.filename) == ("mount_point", "already-pinned", path)
            assert "unpin" in error.__notes__[0]
            assert os.stat(path).st_ino == userns.inode
    Namespace.unpin(path)
    place.assert_nothing_left()


def pin_where_there_is_no_place(folder: str, path: str, number: int) -> None:
    place = Place(folder)

    def look() -> list[tuple[str, tuple[int, ...]]]:
        return [(name, tuple(os.lstat(os.path.join(folder, name))[:7])) for name in place.names()]

    there = look()
    with create_userns("root", "root") as userns:
        error = error_of(userns.pin, path)
    assert (error.errno, error.step, error.filename) == (number, "mount_point", path)
    assert error.cause == ("not-a-mount-point" if number == errno.EEXIST else None)
    assert look() == there
    assert mountinfo() == place.before


def pin_while_a_call_fails(folder: str, call: str, failure: str) -> None:
    place = Place(folder)
    there = place.names()

    def fail(*_: object) -> None:
        raise injected(failure, errno.ENOMEM)

    with replaced(_system_calls, call, fail), create_userns("root", "root") as userns:
        try:
            userns.pin(place.path)
        except UsernsError as error:
            assert (error.errno, error.step) == (errno.ENOMEM, call)
        except KeyboardInterrupt:
            pass
        else:
            raise AssertionError("it did not fail")
    place.assert_left(there)


def pin_while_the_kernel_refuses(folder: str, number: int, step: str) -> None:
    place = Place(folder)
    with create_userns("root", "root") as userns:
        before = descriptors()
        native.refuse_system_call(number, errno.EDOM)
        error = error_of(userns.pin, place.path)
        assert (error.errno, error.step, error.cause) == (errno.EDOM, step, None)
        assert descriptors() == before
    place.assert_nothing_left()


def interrupt_just_after_the_mount(folder: str) -> None:
    place = Place(folder)
    there = place.names()

    def interrupt() -> None:
        assert is_pinned(place.path)
        raise KeyboardInterrupt

    with after(_system_calls, "move_mount", interrupt), create_userns("root", "root") as userns:
        try:
            userns.pin(place.path)
        except KeyboardInterrupt:
            pass
    place.assert_left(there)


def interrupt_at_any_moment(folder: str) -> None:
    place = Place(folder)

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    signal.signal(signal.SIGALRM, interrupt)
    interrupted = 0
    with create_userns("root", "root") as userns:
        for i in range(600):
            pinned = False
            try:
                signal.setitimer(signal.ITIMER_REAL, 1e-6 * (1 + i % 200))
                userns.pin(place.path)
                pinned = True
                time.sleep(1)  # the rest of the 200 microseconds
            except KeyboardInterrupt:
                interrupted += 1
            finally:
                signal.setitimer(signal.ITIMER_REAL, 0)
            # It may have come after the last step: then it is pinned.
            if is_pinned(place.path):
                Namespace.unpin(place.path)
            else:
                assert not pinned
            place.assert_nothing_left()
        assert interrupted > 50, interrupted


def unpin_while_the_call_fails(folder: str, failure: str) -> None:
    place = Place(folder)

    def fail(*_: object) -> None:
        raise injected(failure, errno.EBUSY)

    place.pin_a_new_one()
    with replaced(_system_calls, "umount2", fail):
        try:
            Namespace.unpin(place.path)
        except UsernsError as error:
            assert (error.errno, error.step, error.filename) == (errno.EBUSY, "umount", place.path)
        except KeyboardInterrupt:
            pass
        else:
            raise AssertionError("it did not fail")
    assert is_pinned(place.path)
    Namespace.unpin(place.path)
    place.assert_nothing_left()


def nothing(_: str) -> None:
    pass


def create_file(path: str) -> None:
    Path(path).touch()


def mount_on_directory(path: str) -> None:
    os.mkdir(path)
    mount_tmpfs(path)


def mount_on_file(path: str) -> None:
    create_file(path)
    mount("/etc/passwd", path, None, MS_BIND)


NOT_PINNED: dict[str, tuple[Callable[[str], None], str, int]] = {
    "nothing": (nothing, "", errno.ENOENT),
    "file": (create_file, "", errno.EINVAL),
    "directory with a mount": (mount_on_directory, "", errno.EINVAL),
    "file with a mount": (mount_on_file, "", errno.EINVAL),
    "namespace of procfs": (nothing, "/proc/self/ns/user", errno.EINVAL),
    "root": (nothing, "/", errno.EINVAL),
}
"""By name: how to prepare it, its path if that is not the path of the pin, and the errno of unpinning it."""


def unpin_what_is_not_pinned(folder: str, what: str) -> None:
    place = Place(folder)
    prepare, elsewhere, number = NOT_PINNED[what]
    prepare(place.path)
    path = elsewhere or place.path
    there, mounted = place.names(), mountinfo()
    error = error_of(Namespace.unpin, path)
    assert (error.errno, error.step, error.filename) == (number, "mount_point", path)
    assert error.cause == ("not-pinned" if number == errno.EINVAL else None)
    assert (place.names(), mountinfo()) == (there, mounted)


def unpin_by_a_link(folder: str) -> None:
    place = Place(folder)
    place.pin_a_new_one()
    link = f"{place.path}.link"
    os.symlink(place.path, link)
    assert error_of(Namespace.unpin, link).cause == "not-pinned"
    assert is_pinned(place.path)
    Namespace.unpin(place.path)


def unpin_what_is_open(folder: str) -> None:
    place = Place(folder)
    place.pin_a_new_one()
    with Namespace.open(place.path) as userns:
        Namespace.unpin(place.path)
        place.assert_nothing_left()
        assert str(userns.uid_map) == own_map()


def unpin_from_a_file_with_content(folder: str) -> None:
    place = Place(folder)
    file = Path(place.path)
    file.write_text("precious")
    with create_userns("root", "root") as userns:
        mount(userns.path, place.path, None, MS_BIND)
    Namespace.unpin(place.path)
    assert file.read_text() == "precious"
    assert mountinfo() == place.before


def unpin_where_the_file_cannot_be_removed(folder: str) -> None:
    place = Place(folder)
    path = place.path
    mount_tmpfs(folder)
    Path(path).touch()
    with create_userns("root", "root") as userns:
        mount("", folder, b"", native.MS_REMOUNT | native.MS_RDONLY)
        userns.pin(path)
    error = error_of(Namespace.unpin, path)
    assert (error.errno, error.step) == (errno.EROFS, "mount_point")
    assert "is unpinned" in error.__notes__[-1]
    assert not is_pinned(path)
    # and if it is missing, it cannot be created
    second = f"{path}2"
    error = error_of(Namespace.current().pin, second)
    assert (error.errno, error.step, error.filename) == (errno.EROFS, "mount_point", second)


def pin_a_mount_namespace(folder: str) -> None:
    place = Place(folder)
    with UsernsProcess(uid_map="root", namespaces=["mnt"]) as holder, holder.namespace("mnt") as mnt:
        mnt.pin(place.path)
    with Namespace.open(place.path) as again:
        assert again.kind == "mnt"
    Namespace.unpin(place.path)
    place.assert_nothing_left()


def pin_a_mount_namespace_into_itself(folder: str) -> None:
    place = Place(folder)
    with Namespace.current("mnt") as current:
        error = error_of(current.pin, place.path)
    assert (error.errno, error.step, error.cause) == (errno.ELOOP, "move_mount", "mount-loop")
    assert "made in" in error.__notes__[0]
    place.assert_nothing_left()


def pin_on_a_shared_mount(folder: str) -> None:
    place = Place(folder)
    path = place.path
    native.must(native.libc.mount(None, b"/", None, native.MS_REC | native.MS_SHARED, None))
    with (
        UsernsProcess(uid_map="root", namespaces=["mnt"], propagation="unchanged") as holder,
        holder.namespace("mnt") as mnt,
    ):
        error = error_of(mnt.pin, path)
        assert (error.errno, error.step, error.cause) == (errno.EINVAL, "move_mount", "shared-mount")
        assert error.filename == path
        assert "make-private" in error.__notes__[0]
        assert place.names() == []
        with holder.namespace("user") as userns:
            userns.pin(path)
    Namespace.unpin(path)
    assert place.names() == []


def print_how_unpin_fails(path: str) -> None:
    try:
        Namespace.unpin(path)
    except UsernsError as error:
        print(error.step, error.errno, error.cause)


def unpin_with_fewer_rights(folder: str) -> None:
    """In a mount namespace of a new user namespace, a copy of this one."""
    place = Place(folder)
    place.pin_a_new_one()
    unpin = command(print_how_unpin_fails, place.path)
    printed = run(unpin, uid_map="root", namespaces=["mnt"], capture_output=True, env=environment())
    assert printed.stdout == b"umount 22 locked-mount\n", printed
    assert is_pinned(place.path)
    Namespace.unpin(place.path)
    place.assert_nothing_left()


def unpin_without_rights(folder: str) -> None:
    """In a new user namespace, in this mount namespace."""
    place = Place(folder)
    place.pin_a_new_one()
    unpin = command(print_how_unpin_fails, place.path)
    printed = run(unpin, uid_map="root", capture_output=True, env=environment())
    assert printed.stdout == b"umount 1 no-mount-rights\n", printed
    Namespace.unpin(place.path)
    place.assert_nothing_left()


def unprivileged_user_pins() -> None:
    with tempfile.TemporaryDirectory() as folder, create_userns("root", "root") as userns:
        path = f"{folder}/pin"
        error = error_of(userns.pin, path)
        assert isinstance(error, PermissionError)
        assert (error.step, error.cause) == ("open_tree", "no-mount-rights")
        assert error.filename == path
        assert "own" in error.__notes__[0]
        assert not os.path.exists(path)


def root_pins_without_rights(folder: str) -> None:
    path = f"{folder}/pin"
    with (
        create_userns("root", "root") as userns,
        UsernsProcess(uid_map="root", namespaces=["net"]) as holder,
        holder.namespace("net") as net,
    ):
        userns.enter()  # and so has no rights in the mount namespace
        error = error_of(net.pin, path)
        assert isinstance(error, PermissionError)
        assert (error.step, error.cause) == ("open_tree", "no-mount-rights")
    assert not os.path.exists(path)


def pin_read_and_unpin(path: str) -> None:
    """Do so in the caller's mount namespace. Print the map, and whether the file is still there."""
    with create_userns("root", "root") as userns:
        userns.pin(path)
    with Namespace.open(path) as userns:
        print(userns.uid_map)
    Namespace.unpin(path)
    print(os.path.exists(path))


def mount_with_a_pin(folder: str) -> None:
    place = Place(folder)
    mount_tmpfs(folder)
    source, target = Path(folder, "source"), Path(folder, "target")
    source.mkdir()
    target.mkdir()
    (source / "file").touch()
    with create_userns("0:100000:10", "0:200000:10") as userns:
        userns.pin(place.path)
    with idmapped_mount(source, target, place.path):
        status = os.stat(target / "file")
        assert (status.st_uid, status.st_gid) == (100000, 200000)
    Namespace.unpin(place.path)


def join_pins(folder: str) -> None:
    place = Place(folder)
    path = place.path
    with UsernsProcess(uid_map="root", namespaces=["net"]) as holder:
        for kind in ("user", "net"):
            with holder.namespace(kind) as namespace:
                namespace.pin(f"{path}.{kind}")
    shell = ["sh", "-c", "readlink /proc/self/ns/user /proc/self/ns/net"]
    printed = check_output(shell, join=[f"{path}.user", f"{path}.net"], text=True).split()
    for kind, link in zip(("user", "net"), printed, strict=True):
        assert link == f"{kind}:[{os.stat(f'{path}.{kind}').st_ino}]"
        Namespace.unpin(f"{path}.{kind}")
    place.assert_nothing_left()


def pin_a_thousand(folder: str) -> None:
    place = Place(folder)
    before = descriptors()
    for _ in range(4):
        paths = [f"{place.path}.{i}" for i in range(250)]
        for one in paths:
            with create_userns("root", "root") as userns:
                userns.pin(one)
        assert mountinfo().count(" nsfs ") == place.before.count(" nsfs ") + 250
        for one in paths:
            Namespace.unpin(one)
        place.assert_nothing_left()
    assert descriptors() == before


def pin_at_strange_names(folder: str) -> None:
    place = Place(folder)
    path = place.path
    with create_userns("root", "root") as userns:
        for name in (Path(path), os.fsencode(path) + b"\xff", f"{path} with\nspaces \\040"):
            userns.pin(name)
            Namespace.unpin(name)
    place.assert_nothing_left()


def pin_a_running_holder(folder: str) -> None:
    place = Place(folder)
    with UsernsProcess(uid_map="root") as holder:
        with holder.namespace() as userns:
            userns.pin(place.path)
        inode = os.stat(place.path).st_ino
        assert str(holder.uid_map) == own_map()
    assert os.stat(place.path).st_ino == inode
    assert is_pinned(place.path)
    Namespace.unpin(place.path)
    place.assert_nothing_left()
