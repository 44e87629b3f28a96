"""The programs of `test_unmount.py`."""

from __future__ import annotations

import ctypes
import errno
import gc
import mmap
import os
import resource
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from io import TextIOWrapper
from pathlib import Path
from typing import Any

import native
from hooks import replaced
from leaks import descriptors
from mounting import MAP, has_maps, make_file_system, mounts_below, own_mount_namespace, owners, run

from usernsproc import Mount, UsernsError, _system_calls, idmapped_mount

MAPS = (MAP, MAP)
NR_STATMOUNT = 457
STATX_MNT_ID_UNIQUE = 0x4000


class Scene:
    """A mount namespace that the program enters, with a source and a target."""

    def __init__(self) -> None:
        self.work = own_mount_namespace()
        self.source, self.target = make_file_system("tmpfs", self.work), self.work / "target"
        self.target.mkdir()

    def make_submounts(self) -> None:
        """Mount four file systems below the source."""
        for name in ("a", "b"):
            (self.source / name).mkdir()
            run("mount", "-t", "tmpfs", name, self.source / name)
            (self.source / name / "deep").mkdir()
            run("mount", "-t", "tmpfs", f"{name}-deep", self.source / name / "deep")

    def mount(self, **options: Any) -> Mount:
        return idmapped_mount(self.source, self.target, MAPS, **options)

    def mounted(self) -> list[str]:
        return sorted(mounts_below(self.target))

    def refused(self, mount: Mount, **options: bool) -> tuple[str, str | None, str]:
        """Return the name of the errno, the cause and the note. The same must be mounted as before."""
        before = self.mounted()
        try:
            mount.unmount(**options)
        except UsernsError as error:
            assert error.step == "umount"
            assert error.errno is not None
            assert "still mounted" in error.__notes__[0]
            assert self.mounted() == before
            return errno.errorcode[error.errno], error.cause, error.__notes__[0]
        raise AssertionError("it was unmounted")


def keep_it_busy_in_each_way() -> None:
    scene = Scene()
    target, refused = scene.target, scene.refused
    shutil.copy("/bin/sleep", scene.source / "sleep")
    mount = scene.mount()
    with open(target / "of-0"):
        assert refused(mount)[:2] == ("EBUSY", "mount-in-use")
        assert f"process {os.getpid()} (python: fd/" in refused(mount)[2]
    os.chdir(target)
    assert f"process {os.getpid()} (python: cwd)" in refused(mount)[2]
    os.chdir("/")
    with open(target / "of-0") as file:
        mapped = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)
        # mmap keeps a duplicate of the descriptor
    assert "fd/" in refused(mount)[2]
    mapped.close()
    native.libc.mmap.restype = ctypes.c_void_p
    with open(target / "of-0") as file:
        address = native.libc.mmap(None, 4096, mmap.PROT_READ, mmap.MAP_PRIVATE, file.fileno(), 0)
    assert "map_files/" in refused(mount)[2]
    native.libc.munmap(ctypes.c_void_p(address), 4096)
    child = subprocess.Popen([target / "sleep", "10"])
    assert f"process {child.pid} (sleep: exe)" in refused(mount)[2]
    child.kill()
    child.wait()
    mount.unmount()
    assert scene.mounted() == []


def leave_the_block_of_a_busy_mount() -> None:
    scene = Scene()
    kept: list[TextIOWrapper] = []
    mount = scene.mount()
    try:
        with mount:
            kept.append(open(scene.target / "of-0"))  # noqa: SIM115 -- it is to stay open
            raise KeyError("the block's own")
    except UsernsError as error:
        assert error.cause == "mount-in-use"
        assert isinstance(error.__cause__, KeyError)
    else:
        raise AssertionError("the block ended without")
    try:
        os.rmdir(scene.target)
    except OSError as error:
        assert error.errno == errno.EBUSY
    assert (scene.source / "of-0").exists()
    kept[0].close()
    mount.unmount()
    os.rmdir(scene.target)


def unmount_lazily() -> None:
    scene = Scene()
    scene.make_submounts()
    with scene.mount(recursive=True) as mount, open(scene.target / "of-0") as file:
        mount.unmount(lazy=True)
        assert scene.mounted() == []
        assert list(scene.target.iterdir()) == []
        assert file.read() == "of 0"
    mount.unmount()
    mount.unmount(lazy=True)
    assert repr(mount) == f"<Mount at {scene.target}, unmounted>"


def unmount_below_an_odd_name() -> None:
    scene = Scene()
    scene.make_submounts()
    odd, renamed = scene.target / "a b \\040\tc", scene.target / " d\n"
    (odd / "t").mkdir(parents=True)
    with idmapped_mount(scene.source, odd / "t", MAPS, recursive=True):
        os.rename(odd, renamed)
    assert list((renamed / "t").iterdir()) == []
    assert scene.mounted() == []
    assert len(mounts_below(scene.source)) == 4


def unmount_a_tree() -> None:
    scene = Scene()
    scene.make_submounts()
    with scene.mount(recursive=True):
        assert len(scene.mounted()) == 5
    assert scene.mounted() == []
    assert len(mounts_below(scene.source)) == 4


def unmount_a_tree_with_a_busy_mount(busy: str) -> None:
    scene = Scene()
    target = scene.target
    scene.make_submounts()
    (scene.source / busy / "file").touch()
    mount = scene.mount(recursive=True)
    with open(target / busy / "file"):
        for _ in range(2):
            assert scene.refused(mount)[:2] == ("EBUSY", "mount-in-use")
            assert f"process {os.getpid()}" in scene.refused(mount)[2]
            for name in (".", "a", "a/deep", "b", "b/deep"):
                assert owners(target / name) == (100000, 100000), name
                assert os.path.ismount(target / name)
    mount.unmount()
    assert scene.mounted() == []


def unbindable() -> list[str]:
    """Return the mount points of unbindable mounts."""
    with open("/proc/self/mountinfo") as table:
        return sorted(line.split()[4] for line in table if " unbindable " in line)


def unmount_an_unbindable_tree() -> None:
    scene = Scene()
    scene.make_submounts()
    mount = scene.mount(recursive=True, propagation="unbindable")
    before = unbindable()
    assert len(before) == 5
    with open(scene.target / "of-0"):
        assert scene.refused(mount)[1] == "mount-in-use"
        assert unbindable() == before
    mount.unmount()
    assert scene.mounted() == []


def unmount_at_the_limit_of_descriptors() -> None:
    scene = Scene()
    scene.make_submounts()
    mount = scene.mount(recursive=True)
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    before, failures = scene.mounted(), 0
    for more in range(1, 20):
        highest = max(int(fd) for fd in descriptors())
        resource.setrlimit(resource.RLIMIT_NOFILE, (highest + more, limits[1]))
        try:
            mount.unmount()
            failed = False
        except OSError as error:
            assert error.errno == errno.EMFILE, error
            failed = True
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
        if not failed:
            break
        assert scene.mounted() == before
        failures += 1
    assert failures >= 4
    assert scene.mounted() == []


def mount_below_since() -> None:
    scene = Scene()
    scene.make_submounts()
    for recursive in (False, True):
        mount = scene.mount(recursive=recursive)
        where = scene.target / "a" / "deep" if recursive else scene.target / "a"
        run("mount", "-t", "ramfs", "later", where)
        name, cause, note = scene.refused(mount)
        assert (name, cause) == ("EBUSY", "has-submounts")
        assert f"{where} (ramfs)" in note
        run("umount", where)
        mount.unmount()
        assert scene.mounted() == []


def mount_over_it() -> None:
    scene = Scene()
    scene.make_submounts()
    for recursive in (False, True):
        mount = scene.mount(recursive=recursive)
        run("mount", "-t", "ramfs", "over", scene.target)
        for lazy in (False, True):
            name, cause, note = scene.refused(mount, lazy=lazy)
            assert (name, cause) == ("EBUSY", "mounted-over")
            assert f"{scene.target} (ramfs)" in note
        run("umount", scene.target)
        mount.unmount()
        assert scene.mounted() == []


def rename_the_parent(recursive: bool) -> None:
    scene = Scene()
    before, renamed = scene.work / "before", scene.work / "after"
    scene.make_submounts()
    (before / "target").mkdir(parents=True)
    with idmapped_mount(scene.source, before / "target", MAPS, recursive=recursive):
        os.rename(before, renamed)
        (before / "target").mkdir(parents=True)
        run("mount", "-t", "tmpfs", "other", before / "target")
        assert owners(renamed / "target" / "of-0") == (100000, 100000)
    assert mounts_below(renamed) == []
    assert len(mounts_below(before)) == 1


def move_the_mount() -> None:
    scene = Scene()
    elsewhere = scene.work / "elsewhere"
    elsewhere.mkdir()
    with scene.mount() as mount:
        run("mount", "--move", scene.target, elsewhere)
        assert owners(elsewhere / "of-0") == (100000, 100000)
        assert has_maps(mount, MAP)
    assert mounts_below(elsewhere) == []


def unmount_behind_its_back() -> None:
    scene = Scene()
    with scene.mount() as mount:
        run("umount", scene.target)
    assert repr(mount) == f"<Mount at {scene.target}, unmounted>"

    for _ in range(200):  # a number is given again at once, but perhaps to another program's mount
        first = scene.mount()
        assert has_maps(first, MAP)
        run("umount", scene.target)
        second = scene.mount()
        if first._id.number == second._id.number:
            break
        second.unmount()
    else:
        raise AssertionError("no number was given again")
    assert first._id.unique != second._id.unique
    first.unmount()
    assert len(scene.mounted()) == 1
    try:
        maps = first.uid_map
    except UsernsError as error:
        assert (error.step, error.errno, error.cause) == ("statmount", errno.ENOENT, "not-mounted")
    else:
        raise AssertionError(f"it has maps: {maps}")
    second.unmount()
    assert scene.mounted() == []


def unmount_a_submount_behind_its_back() -> None:
    scene = Scene()
    deep = scene.target / "a" / "deep"
    scene.make_submounts()
    mount = scene.mount(recursive=True)
    run("umount", deep)
    mount.unmount()
    assert scene.mounted() == []

    mount = scene.mount(recursive=True)
    run("umount", deep)
    run("mount", "-t", "ramfs", "later", deep)
    _, cause, note = scene.refused(mount)
    assert cause == "has-submounts"
    assert "ramfs" in note
    mount.unmount(lazy=True)


def status_of_copy(action: Callable[[], None]) -> int:
    """Return the exit status of a forked copy that runs the action."""
    pid = os.fork()
    if pid == 0:
        action()
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def unmount_from_another_mount_namespace() -> None:
    scene = Scene()
    mount = scene.mount()

    def unmount() -> None:
        native.unshare(native.CLONE_NEWNS)
        for lazy in (False, True):
            try:
                mount.unmount(lazy=lazy)
            except UsernsError as error:
                assert (error.errno, error.cause) == (errno.EINVAL, "other-mount-namespace")
            else:
                os._exit(1)
        assert len(scene.mounted()) == 1

    assert status_of_copy(unmount) == 0
    mount.unmount()


def unmount_after_a_chroot() -> None:
    scene = Scene()
    mount = scene.mount()
    jail = scene.work / "jail"
    (jail / "proc").mkdir(parents=True)
    run("mount", "-t", "proc", "proc", jail / "proc")

    def unmount() -> None:
        os.chroot(jail)
        os.chdir("/")
        try:
            mount.unmount()
        except UsernsError as error:
            os._exit(0 if (error.errno, error.cause) == (errno.EINVAL, "out-of-reach") else 2)
        os._exit(1)

    assert status_of_copy(unmount) == 0
    mount.unmount()


def unmount_without_statmount(refusal: str) -> None:
    """Refuse `statmount(2)` with the named errno; or, for "no unique IDs", behave as a kernel without these."""
    scene = Scene()
    if refusal == "no unique ids":
        mount_id = _system_calls.mount_id

        def without_unique_ids(*arguments: Any) -> int:
            return 0 if arguments[-1] == STATX_MNT_ID_UNIQUE else mount_id(*arguments)

        with replaced(_system_calls, "mount_id", without_unique_ids):
            unmount_in_each_way(scene, "ENOSYS")
    else:
        unmount_in_each_way(scene, refusal)


def unmount_in_each_way(scene: Scene, refusal: str) -> None:
    native.refuse_system_call(NR_STATMOUNT, getattr(errno, refusal))
    scene.make_submounts()
    with scene.mount(recursive=True) as mount:
        assert len(scene.mounted()) == 5
        try:
            maps = mount.uid_map
        except UsernsError as error:
            assert error.step == "statmount"
            assert error.cause == ("kernel-too-old" if refusal == "ENOSYS" else None)
        else:
            raise AssertionError(f"it has maps: {maps}")
        with open(scene.target / "of-0"):
            assert scene.refused(mount)[1] == "mount-in-use"
    assert scene.mounted() == []
    mount = scene.mount()
    run("mount", "-t", "ramfs", "over", scene.target)
    assert scene.refused(mount)[1] == "mounted-over"
    run("umount", scene.target)
    run("umount", scene.target)
    mount.unmount()


def drop_a_mount() -> None:
    scene = Scene()
    scene.mount()
    gc.collect()
    assert len(scene.mounted()) == 1


def delete_the_directory_of_a_busy_mount() -> None:
    scene = Scene()
    kept: list[TextIOWrapper] = []

    def use() -> None:
        directory = Path(tempfile.mkdtemp(dir=scene.work))
        try:
            with idmapped_mount(scene.source, directory, MAPS):
                kept.append(open(directory / "of-0"))  # noqa: SIM115 -- it is to stay open
        finally:
            os.rmdir(directory)

    try:
        use()
    except OSError as error:
        assert error.errno == errno.EBUSY
    else:
        raise AssertionError("nothing was said")
    assert (scene.source / "of-0").read_text() == "of 0"


def peer_groups(scene: Scene) -> list[list[str]]:
    """Return the mount points at and below the target, with the peer groups of each."""
    with open("/proc/self/mountinfo") as table:
        lines = [line.split() for line in table]
    below = [line for line in lines if line[4].startswith(str(scene.target))]
    return sorted([line[4], *line[6 : line.index("-")]] for line in below)


def unmount_below_a_shared_mount(propagation: str) -> None:
    scene = Scene()
    later = scene.source / "later"
    run("mount", "--make-shared", scene.source.parent)
    scene.make_submounts()
    before = sorted(mounts_below(scene.source))
    assert len(before) == 4
    for recursive in (False, True):
        mount = scene.mount(recursive=recursive, propagation=propagation)
        later.mkdir(exist_ok=True)
        run("mount", "-t", "tmpfs", "later", later)
        is_seen = f"{scene.target}/later rw,relatime" in scene.mounted()
        assert is_seen == (propagation != "private")
        if is_seen:
            assert scene.refused(mount)[1] == "has-submounts"
            mount.unmount(lazy=True)
            assert sorted(mounts_below(scene.source)) == sorted([*before, f"{later} rw,relatime"])
        else:
            mount.unmount()
        run("umount", later)
        mount = scene.mount(recursive=recursive, propagation=propagation)
        if recursive:
            there = peer_groups(scene)
            with open(scene.target / "of-0"):
                assert scene.refused(mount)[1] == "mount-in-use"
                assert sorted(mounts_below(scene.source)) == before
                assert peer_groups(scene) == there
        mount.unmount()
        assert scene.mounted() == []
        assert sorted(mounts_below(scene.source)) == before


def unmount_layers() -> None:
    scene = Scene()
    source, target = scene.source / "a", scene.target / "a"
    source.mkdir()
    for number in (1, 2, 3):
        run("mount", "-t", "tmpfs", f"layer-{number}", source)
        (source / f"layer-{number}").touch()
    mount = scene.mount(recursive=True)
    assert len(scene.mounted()) == 4
    with open(scene.target / "of-0"):
        assert scene.refused(mount)[1] == "mount-in-use"
    for number in (3, 2, 1):
        assert os.listdir(target) == [f"layer-{number}"]
        run("umount", target)
    mount.unmount()
    with scene.mount(recursive=True):
        pass
    assert scene.mounted() == []
    assert len(mounts_below(scene.source)) == 3
    # A mount that has to be made private first cannot be reached while another covers it.
    mount = scene.mount(recursive=True, propagation="unbindable")
    for lazy in (False, True):
        before = scene.mounted()
        try:
            mount.unmount(lazy=lazy)
        except UsernsError as error:
            assert (error.errno, error.cause, error.filename) == (errno.EBUSY, "mounted-over", str(target))
        else:
            raise AssertionError("it was unmounted")
        assert scene.mounted() == before


def interrupt_each_call() -> None:
    scene = Scene()
    scene.make_submounts()
    mount = scene.mount(recursive=True)
    before = scene.mounted()
    umount2 = _system_calls.umount2
    for failing in range(4):
        for is_done in (False, True):
            calls = 0

            def interrupted(*arguments: Any, failing: int = failing, is_done: bool = is_done) -> None:
                nonlocal calls
                calls += 1
                if calls != failing + 1 or is_done:
                    umount2(*arguments)
                if calls == failing + 1:
                    raise KeyboardInterrupt

            with replaced(_system_calls, "umount2", interrupted):
                try:
                    mount.unmount()
                except KeyboardInterrupt:
                    pass
                else:
                    raise AssertionError("it was not interrupted")
            assert scene.mounted() == before, (failing, is_done)
    mount.unmount()
    assert scene.mounted() == []
