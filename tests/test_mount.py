"""Idmapped mounts on a real ext4 file system, in a mount namespace of the test's own."""

from __future__ import annotations

from collections.abc import Callable
from textwrap import dedent

import pytest

Script = Callable[..., str]

PREPARE = """
    import errno, os, pathlib, subprocess, tempfile
    import native
    from leaks import descriptors, state, state_again
    from usernsproc import Namespace, UsernsError, UsernsProcess, create_userns, idmapped_mount

    native.unshare(native.CLONE_NEWNS)
    subprocess.run(["mount", "--make-rprivate", "/"], check=True)
    work = pathlib.Path(tempfile.mkdtemp())
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", str(work)], check=True)
    disk, source, target = work / "disk", work / "disk" / "source", work / "target"
    disk.mkdir()
    target.mkdir()
    with open(work / "image", "wb") as image:
        image.truncate(16 << 20)
    subprocess.run(["mkfs.ext4", "-q", str(work / "image")], check=True)
    subprocess.run(["mount", "-o", "loop", str(work / "image"), str(disk)], check=True)
    source.mkdir()
    source.chmod(0o777)
    (source / "of-0").touch()
    (source / "of-1000").touch()
    os.chown(source / "of-1000", 1000, 1000)
    MAP = "0:100000:65536"

    def owners(path):
        status = os.stat(path)
        return status.st_uid, status.st_gid

    def create_as(uid, path):
        pid = os.fork()
        if pid == 0:
            try:
                os.setgroups([])
                os.setresgid(uid, uid, uid)
                os.setresuid(uid, uid, uid)
                open(path, "x").close()
            except OSError as error:
                os._exit(error.errno)
            os._exit(0)
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

    def failure(*arguments, **options):
        before = state()
        try:
            idmapped_mount(*arguments, **options)
        except UsernsError as error:
            assert state() == before
            return error
        raise AssertionError("it was mounted")
"""

FINISH = """
    subprocess.run(["umount", str(disk)], check=True)
    os.chdir("/")
    subprocess.run(["umount", str(work)], check=True)
    work.rmdir()
"""


@pytest.fixture
def mounting(script: Script) -> Callable[[str], str]:
    def run(source: str) -> str:
        return script(dedent(PREPARE) + dedent(source) + dedent(FINISH))

    return run


@pytest.mark.root
@pytest.mark.kernel("5.12")
def test_a_shifted_directory(mounting: Callable[[str], str]) -> None:
    """Owners seen through the mount, owners on disk after writing, and nothing left."""
    mounting("""
        before = state()
        with create_userns(MAP, MAP) as userns, idmapped_mount(source, target, userns) as mount:
            assert mount.target == str(target)
            assert owners(target / "of-0") == (100000, 100000)
            assert owners(target / "of-1000") == (101000, 101000)
            assert create_as(100007, target / "new") == 0
            assert owners(target / "new") == (100007, 100007)
            assert owners(source / "new") == (7, 7)
            assert repr(mount) == f"<Mount at {target}>"
        assert state() == before
        assert list(target.iterdir()) == []
        subprocess.run(["umount", str(disk)], check=True)
        subprocess.run(["mount", "-o", "loop", str(work / "image"), str(disk)], check=True)
        assert owners(source / "new") == (7, 7)
    """)


@pytest.mark.root
@pytest.mark.kernel("5.12")
def test_the_namespace_may_be_closed_once_it_is_mounted(mounting: Callable[[str], str]) -> None:
    mounting("""
        userns = create_userns(MAP, MAP)
        with idmapped_mount(source, target, userns):
            userns.close()
            assert owners(target / "of-0") == (100000, 100000)
    """)


@pytest.mark.root
@pytest.mark.kernel("5.12")
def test_an_unmapped_id_cannot_create_files_through_it(mounting: Callable[[str], str]) -> None:
    mounting("""
        with idmapped_mount(source, target, (MAP, MAP)):
            assert create_as(0, target / "new") == errno.EOVERFLOW
            assert create_as(5, target / "new") == errno.EOVERFLOW
    """)


@pytest.mark.root
@pytest.mark.kernel("5.12")
def test_three_ranges_at_once(mounting: Callable[[str], str]) -> None:
    mounting("""
        ranges = "0:100000:10,1000:200000:1,10:300000:990"
        with idmapped_mount(source, target, (ranges, ranges)):
            assert owners(target / "of-0") == (100000, 100000)
            assert owners(target / "of-1000") == (200000, 200000)
            assert create_as(300005, target / "new") == 0
        assert owners(source / "new") == (15, 15)
    """)


@pytest.mark.root
@pytest.mark.kernel("5.12")
def test_read_only(mounting: Callable[[str], str]) -> None:
    mounting("""
        with idmapped_mount(source, target, (MAP, MAP), read_only=True):
            assert create_as(100001, target / "new") == errno.EROFS
            assert owners(target / "of-0") == (100000, 100000)
        subprocess.run(["mount", "--bind", "-o", "ro", str(source), str(source)], check=True)
        with idmapped_mount(source, target, (MAP, MAP)):
            assert create_as(100001, target / "new") == errno.EROFS
        with idmapped_mount(source, target, (MAP, MAP), read_only=False):
            assert create_as(100001, target / "new") == 0
        subprocess.run(["umount", str(source)], check=True)
    """)


@pytest.mark.root
@pytest.mark.kernel("5.12")
def test_a_single_file_and_relative_paths(mounting: Callable[[str], str]) -> None:
    mounting("""
        (work / "file").touch()
        os.chdir(work)
        with idmapped_mount("disk/source/of-0", "file", (MAP, MAP)) as mount:
            os.chdir("/")
            assert mount.target == str(work / "file")
            assert owners(work / "file") == (100000, 100000)
    """)


@pytest.mark.root
@pytest.mark.kernel("5.12")
def test_a_user_namespace_by_whatever_stands_for_it(mounting: Callable[[str], str]) -> None:
    """A namespace, a process, a descriptor, a path, a pair of maps."""
    mounting("""
        with UsernsProcess(uid_map=MAP, gid_map=MAP) as holder, holder.namespace() as userns:
            for userns_like in (userns, holder, userns.fileno(), userns.path, holder.namespace_path(), (MAP, MAP)):
                before = descriptors()
                with idmapped_mount(source, target, userns_like):
                    assert owners(target / "of-0") == (100000, 100000)
                assert descriptors() == before
    """)


@pytest.mark.root
@pytest.mark.kernel("5.12")
def test_what_cannot_be_mounted_is_told_apart_and_nothing_has_changed(mounting: Callable[[str], str]) -> None:
    mounting("""
        error = failure(work / "nothing", target, (MAP, MAP))
        assert (error.step, error.errno, error.filename) == ("open_tree", errno.ENOENT, str(work / "nothing"))
        error = failure(source, work / "nothing", (MAP, MAP))
        assert (error.step, error.errno, error.filename) == ("move_mount", errno.ENOENT, str(work / "nothing"))
        error = failure(source, work / "image", (MAP, MAP))
        assert (error.step, error.errno, error.cause) == ("move_mount", errno.EINVAL, "type-mismatch")
        error = failure("/proc", target, (MAP, MAP))
        assert (error.step, error.errno, error.cause) == ("mount_setattr", errno.EINVAL, "no-idmap-support")
        with UsernsProcess() as holder:
            assert failure(source, target, holder).cause == "map-missing"
            holder.write_uid_map("root")
            assert failure(source, target, holder).cause == "map-missing"
        with Namespace.current("net") as net:
            assert failure(source, target, net).cause == "not-a-user-namespace"
        with Namespace.current() as initial:
            assert failure(source, target, initial).cause == "initial-user-namespace"
    """)


@pytest.mark.root
@pytest.mark.kernel("5.12")
def test_a_busy_mount_stays(mounting: Callable[[str], str]) -> None:
    """It is not detached lazily, so that nobody deletes below what seems to be gone."""
    mounting("""
        mount = idmapped_mount(source, target, (MAP, MAP))
        with open(target / "of-0"):
            try:
                mount.unmount()
            except UsernsError as error:
                assert (error.step, error.errno) == ("umount", errno.EBUSY)
            else:
                raise AssertionError("it was unmounted")
            assert owners(target / "of-0") == (100000, 100000)
        mount.unmount()
        mount.unmount()
        assert repr(mount) == f"<Mount at {target}, unmounted>"
    """)


@pytest.mark.root
@pytest.mark.kernel("5.12")
def test_the_mount_of_somebody_else_is_not_unmounted(mounting: Callable[[str], str]) -> None:
    mounting("""
        mount = idmapped_mount(source, target, (MAP, MAP))
        subprocess.run(["mount", "-t", "tmpfs", "tmpfs", str(target)], check=True)
        try:
            mount.unmount()
        except UsernsError as error:
            assert (error.errno, error.cause) == (errno.EBUSY, "mounted-over")
        else:
            raise AssertionError("it was unmounted")
        subprocess.run(["umount", str(target)], check=True)
        mount.unmount()
    """)


def test_an_ordinary_user_is_refused_with_the_step(script: Script) -> None:
    script("""
        import errno, os
        import native
        from usernsproc import UsernsError, create_userns, idmapped_mount
        if os.geteuid() == 0:
            os.setresgid(65533, 65533, 65533)
            os.setresuid(65533, 65533, 65533)
            native.prctl(native.PR_SET_DUMPABLE, 1)
        with create_userns("root", "root") as userns:
            try:
                idmapped_mount("/usr", "/mnt", userns)
            except PermissionError as error:
                assert (error.step, error.errno) == ("open_tree", errno.EPERM)
            else:
                raise AssertionError("it was mounted")
    """)


@pytest.mark.kernel("6.3")
def test_an_ordinary_user_mounts_a_tmpfs_in_a_mount_namespace_of_its_own(script: Script) -> None:
    """Where it is root, over a file system that it mounted there."""
    script("""
        import os, subprocess, tempfile
        import native
        from usernsproc import UsernsProcess, create_userns, idmapped_mount
        with create_userns("root", "root") as userns:
            userns.enter()
        native.unshare(native.CLONE_NEWNS)
        work = tempfile.mkdtemp()
        subprocess.run(["mount", "-t", "tmpfs", "tmpfs", work], check=True)
        os.mkdir(work + "/source")
        os.mkdir(work + "/target")
        with idmapped_mount(work + "/source", work + "/target", ("5:0:1", "6:0:1")):
            assert os.stat(work + "/target").st_uid == 65534  # 0 of the disk is not mapped
        subprocess.run(["umount", work], check=True)
        os.rmdir(work)
    """)


@pytest.mark.root
@pytest.mark.kernel("5.12")
def test_at_the_limit_of_descriptors_nothing_is_mounted(mounting: Callable[[str], str]) -> None:
    """Nor left mounted, when the call fails at the last moment."""
    mounting("""
        import resource
        from pathlib import Path
        limits = resource.getrlimit(resource.RLIMIT_NOFILE)
        mounts = Path("/proc/self/mountinfo").read_text()
        failures = 0
        for more in range(30):
            highest = max(int(fd) for fd in descriptors())
            resource.setrlimit(resource.RLIMIT_NOFILE, (highest + more, limits[1]))
            try:
                mount = idmapped_mount(source, target, (MAP, MAP))
            except OSError as error:
                assert error.errno == errno.EMFILE, error
                failures += 1
                mount = None
            resource.setrlimit(resource.RLIMIT_NOFILE, limits)
            if mount is not None:
                mount.unmount()
            assert Path("/proc/self/mountinfo").read_text() == mounts
            if mount is not None:
                break
        assert failures > 1
    """)


@pytest.mark.root
@pytest.mark.kernel("5.12")
def test_a_target_that_is_a_symbolic_link_is_followed(mounting: Callable[[str], str]) -> None:
    mounting("""
        (work / "link").symlink_to(target)
        with idmapped_mount(source, work / "link", (MAP, MAP)) as mount:
            assert mount.target == str(target)
            assert owners(target / "of-0") == (100000, 100000)
    """)
