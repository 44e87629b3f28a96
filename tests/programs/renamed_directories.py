"""The programs of `test_renamed_directories.py`.

Another user can exchange a directory, and a link to where root has a mount or a pin of the same name.
"""

from __future__ import annotations

import errno
import os
import signal
import time
from pathlib import Path

import native
from hooks import after, before, replaced
from mounting import MAP, mounts_below, own_mount_namespace, run

from usernsproc import Namespace, UsernsError, _core, _system_calls, create_userns, idmapped_mount
from usernsproc.__main__ import main

AT_FDCWD, EXCHANGE = -100, 2
MODULES = {"_core": _core, "_system_calls": _system_calls, "os": os}
LAZY = 2


def exchange(one: str | Path, other: str | Path) -> None:
    native.must(native.libc.renameat2(AT_FDCWD, os.fsencode(one), AT_FDCWD, os.fsencode(other), EXCHANGE))


class Mounts:
    """Mounts in a mount namespace that the program enters. The target is below the user's directory."""

    def __init__(self) -> None:
        work = own_mount_namespace()
        self.source = work / "source"
        self.user, self.precious = work / "user", work / "precious"
        for folder in (self.source / "a" / "deep", self.user / "d" / "target", self.precious / "target"):
            folder.mkdir(parents=True)
        (self.user / "link").symlink_to(self.precious)
        run("mount", "-t", "tmpfs", "precious", self.precious / "target")
        (self.precious / "target" / "a" / "deep").mkdir(parents=True)
        run("mount", "-t", "tmpfs", "precious-a", self.precious / "target" / "a")
        self.target = self.user / "d" / "target"
        self.unharmed = mounts_below(self.precious)

    def swap(self) -> None:
        exchange(self.user / "d", self.user / "link")

    def assert_unmounted(self) -> None:
        """Check that nothing is mounted below the user's directory, and all is below the precious one."""
        assert mounts_below(self.user) == []
        assert mounts_below(self.precious) == self.unharmed

    def shared(self) -> list[str]:
        """Return the shared mount points below the precious directory."""
        with open("/proc/self/mountinfo") as table:
            lines = [line for line in table if f" {self.precious}" in line]
        return [line.split()[4] for line in lines if " shared:" in line]


def unmount(recursive: bool, lazy: bool) -> None:
    scene = Mounts()
    run("mount", "-t", "tmpfs", "a", scene.source / "a")
    (scene.source / "a" / "deep").mkdir()
    for call in (1, 2):
        mount = idmapped_mount(scene.source, scene.target, (MAP, MAP), recursive=recursive)
        assert len(mounts_below(scene.user)) == 1 + recursive
        with before(_system_calls, "umount2", scene.swap, call=call):
            mount.unmount(lazy=lazy)
        scene.assert_unmounted()
        assert repr(mount).endswith("unmounted>")
        if (scene.user / "d").is_symlink():
            scene.swap()


def unmount_with_a_swap_before_each_call(where: str) -> None:
    module, name = where.split(".")
    scene = Mounts()
    run("mount", "-t", "tmpfs", "a", scene.source / "a")
    run("mount", "--make-rshared", scene.precious / "target")
    shared, call, has_reached = scene.shared(), 0, True

    def swap() -> None:
        nonlocal has_reached
        scene.swap()
        has_reached = True

    while has_reached:
        call += 1
        mount = idmapped_mount(scene.source, scene.target, (MAP, MAP), recursive=True, propagation="unbindable")
        assert len(mounts_below(scene.user)) == 2
        has_reached, failed = False, None
        with before(MODULES[module], name, swap, call=call):
            try:
                mount.unmount()
            except UsernsError as error:
                failed = error
        if failed is not None:
            assert failed.step == "umount"
            assert len(mounts_below(scene.user)) == 2, mounts_below(scene.user)
            mount.unmount()
        scene.assert_unmounted()
        assert scene.shared() == shared
        if has_reached:
            scene.swap()
    assert call > 1


def command_umount(options: str) -> None:
    scene = Mounts()
    idmapped_mount(scene.source, scene.target, (MAP, MAP))
    with before(_system_calls, "umount2", scene.swap):
        assert main(["umount", *options.split(), str(scene.target)]) == 0
    scene.assert_unmounted()


def interrupt_an_attach() -> None:
    scene = Mounts()

    def interrupt() -> None:
        scene.swap()
        raise KeyboardInterrupt

    with after(_system_calls, "move_mount", interrupt):
        try:
            idmapped_mount(scene.source, scene.target, (MAP, MAP))
        except KeyboardInterrupt as error:
            assert not hasattr(error, "__notes__"), error.__notes__
    scene.assert_unmounted()


def attach() -> None:
    scene = Mounts()
    with before(_system_calls, "move_mount", scene.swap):
        mount = idmapped_mount(scene.source, scene.target, (MAP, MAP))
    scene.swap()
    assert len(mounts_below(scene.user)) == 1
    assert mounts_below(scene.precious) == scene.unharmed
    mount.unmount()


def put_a_tree_back() -> None:
    scene = Mounts()
    source = scene.source
    run("mount", "-t", "tmpfs", "deep", source / "a" / "deep")
    (scene.precious / "deep").mkdir()
    mount = idmapped_mount(source, scene.target, (MAP, MAP), recursive=True)

    def replace() -> None:
        os.rename(source / "a", source / "b")
        os.symlink(scene.precious, source / "a")

    directory = os.open(scene.target, os.O_RDONLY)
    with before(_system_calls, "umount2", replace, call=2):  # the one of the topmost mount, which is busy
        try:
            mount.unmount()
        except UsernsError as error:
            assert error.cause == "mount-in-use", error
            assert any("could not be put back" in note for note in error.__notes__), error.__notes__
        else:
            raise AssertionError("it was unmounted")
    os.close(directory)
    assert mounts_below(scene.precious) == scene.unharmed
    assert len(mounts_below(scene.user)) == 1
    mount.unmount()
    scene.assert_unmounted()


def unmount_while_mount_points_are_exchanged() -> None:
    """A process of another mount namespace exchanges them; in that one, nothing is mounted there."""
    scene = Mounts()
    other = scene.user / "d" / "other"
    other.mkdir()
    run("mount", "-t", "tmpfs", "other", other)
    mount = idmapped_mount(scene.source, scene.target, (MAP, MAP))

    def exchange_elsewhere() -> None:
        pid = os.fork()
        if pid == 0:
            native.unshare(native.CLONE_NEWNS)
            for point in (other, scene.target):
                native.must(native.libc.umount2(os.fsencode(point), LAZY))
            exchange(other, scene.target)
            os._exit(0)
        assert os.waitpid(pid, 0)[1] == 0

    with before(_system_calls, "umount2", exchange_elsewhere):
        try:
            mount.unmount()
        except UsernsError as error:
            assert (error.errno, error.cause) == (errno.EBUSY, "mount-moved"), error
            assert "still mounted" in error.__notes__[0]
        else:
            raise AssertionError("success was reported")
    [left] = mounts_below(scene.user)
    assert left.startswith(f"{other} ")
    assert "idmapped" in left
    mount.unmount()
    assert mounts_below(scene.user) == []


def race() -> None:
    scene = Mounts()
    os.chown(scene.user, 1000, 1000)
    os.chown(scene.user / "d", 1000, 1000)
    pid = os.fork()
    if pid == 0:
        try:
            os.setresgid(1000, 1000, 1000)
            os.setresuid(1000, 1000, 1000)
            os.chdir(scene.user)
            while True:
                exchange("d", "link")
        finally:
            os._exit(1)
    try:
        end, below_user = time.monotonic() + 3, 0
        with create_userns(MAP, MAP) as userns:
            while time.monotonic() < end:
                mount = idmapped_mount(scene.source, scene.target, userns)
                below_user += mount.target.startswith(str(scene.user))
                mount.unmount()
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    assert below_user > 100, below_user
    scene.assert_unmounted()


class Pins:
    """Pins in a mount namespace of a new user namespace, both entered. The path is below the user's directory."""

    def __init__(self, folder: str) -> None:
        with create_userns("root", "root") as mine:
            mine.enter()
        native.unshare(native.CLONE_NEWNS)
        native.must(native.libc.mount(None, b"/", None, native.MS_REC | native.MS_PRIVATE, None))
        self.folder = folder
        self.user, self.precious = f"{folder}/user", f"{folder}/precious"
        os.makedirs(f"{self.user}/d")
        os.mkdir(self.precious)
        os.symlink(self.precious, f"{self.user}/link")
        self.path = f"{self.user}/d/pin"
        self.pinned = f"{self.precious}/pinned"
        with create_userns("root", "root") as other:
            other.pin(self.pinned)

    def swap(self) -> None:
        exchange(f"{self.user}/d", f"{self.user}/link")

    def table(self) -> list[str]:
        """Return the mount points in the folder."""
        with open("/proc/self/mountinfo") as table:
            points = [line.split()[4] for line in table]
        return [point for point in points if point.startswith(self.folder)]


def unpin(folder: str, replacement: str) -> None:
    """Unpin while the other directory has *replacement* at the same name: a `file`, a `pin` or `nothing`."""
    scene = Pins(folder)
    with create_userns("root", "root") as userns:
        userns.pin(scene.path)
        if replacement == "file":
            Path(scene.precious, "pin").touch()
        elif replacement == "pin":
            userns.pin(f"{scene.precious}/pin")
    there, mounted = os.listdir(scene.precious), [p for p in scene.table() if p.startswith(scene.precious)]
    with after(_system_calls, "umount2", scene.swap):
        Namespace.unpin(scene.path)
    scene.swap()
    assert os.listdir(scene.precious) == there
    assert scene.table() == mounted
    assert os.listdir(f"{scene.user}/d") == []


def interrupt_a_pin(folder: str, is_there: bool) -> None:
    scene = Pins(folder)
    if is_there:
        Path(scene.path).touch()

    def interrupt() -> None:
        scene.swap()
        raise KeyboardInterrupt

    with create_userns("root", "root") as userns:
        userns.pin(f"{scene.precious}/pin")
        with after(_system_calls, "move_mount", interrupt):
            try:
                userns.pin(scene.path)
            except KeyboardInterrupt as error:
                assert not hasattr(error, "__notes__"), error.__notes__
        scene.swap()
    assert sorted(scene.table()) == [f"{scene.precious}/pin", scene.pinned]
    assert os.path.exists(scene.path) == is_there


def pin(folder: str) -> None:
    scene = Pins(folder)
    with before(_system_calls, "open_tree", scene.swap), create_userns("root", "root") as userns:
        userns.pin(scene.path)
    scene.swap()
    assert scene.table() == [scene.pinned, scene.path]


def replace_the_file_of_a_pin(folder: str) -> None:
    scene = Pins(folder)

    def replace(*_: object) -> None:
        os.rename(scene.path, f"{scene.path}.moved")
        Path(scene.path).touch()
        raise OSError(errno.EINVAL, "injected")

    with replaced(_system_calls, "move_mount", replace), create_userns("root", "root") as userns:
        try:
            userns.pin(scene.path)
        except UsernsError as error:
            assert (error.step, error.errno) == ("move_mount", errno.EINVAL)
    assert sorted(os.listdir(f"{scene.user}/d")) == ["pin", "pin.moved"]
    assert scene.table() == [scene.pinned]


def command_create(folder: str) -> None:
    scene = Pins(folder)
    with create_userns("root", "root") as userns:
        userns.pin(f"{scene.precious}/pin")
    occupied = f"{folder}/occupied"
    os.mkdir(occupied)
    pins = ["--pin-uts", scene.path, "--pin", occupied]
    with before(_system_calls, "open_tree", scene.swap, call=2):
        assert main(["create", "--map", "root", *pins]) == 125
    scene.swap()
    assert os.listdir(f"{scene.user}/d") == []
    assert sorted(scene.table()) == [f"{scene.precious}/pin", scene.pinned]
