"""Whole trees of mounts, their attributes and their propagation."""

from __future__ import annotations

from collections.abc import Callable
from textwrap import dedent

import pytest

from usernsproc import idmapped_mount

pytestmark = [pytest.mark.root, pytest.mark.kernel("6.3")]

Script = Callable[..., str]

PREPARE = """
    import errno
    from mounting import *
    from usernsproc import UsernsError, idmapped_mount, open_idmapped
    work = own_mount_namespace()
    source, target = make_file_system("ext4", work), work / "target"
    target.mkdir()
    (source / "sub").mkdir()
    (source / "sub" / "covered").touch()
    run("mount", "-t", "tmpfs", "tmpfs", source / "sub")
    (source / "sub" / "deep").mkdir()
    run("mount", "-t", "tmpfs", "-o", "mode=711", "tmpfs", source / "sub" / "deep")
"""


@pytest.fixture
def tree(script: Script) -> Script:
    """With a source that has two mounts below it, at `sub` and `sub/deep`."""
    return lambda source: script(dedent(PREPARE) + dedent(source))


def test_a_recursive_mount_shifts_all_of_the_tree(tree: Script) -> None:
    tree("""
        with idmapped_mount(source, target, (MAP, MAP), recursive=True):
            assert owners(target / "of-1000") == (101000, 101000)
            assert owners(target / "sub") == (100000, 100000)
            assert owners(target / "sub" / "deep") == (100000, 100000)
            assert (target / "sub" / "deep").stat().st_mode & 0o777 == 0o711
            assert len(mounts_below(target)) == 3
            assert all("idmapped" in mount for mount in mounts_below(target))
        assert mounts_below(target) == []
        assert len(mounts_below(source)) == 2
    """)


def test_without_recursive_the_submounts_stay_away(tree: Script) -> None:
    tree("""
        with idmapped_mount(source, target, (MAP, MAP)):
            assert len(mounts_below(target)) == 1
            assert (target / "sub" / "covered").exists()
    """)


def test_one_that_cannot_makes_all_of_it_fail_and_is_named(tree: Script) -> None:
    """And every mount of the source is as it was."""
    tree("""
        (source / "sub" / "deep" / "proc").mkdir()
        run("mount", "-t", "proc", "proc", source / "sub" / "deep" / "proc")
        before = mounts_below(work)
        culprit = str(source / "sub" / "deep" / "proc")
        for function, arguments in ((idmapped_mount, (source, target)), (open_idmapped, (source,))):
            error = failure(function, *arguments, (MAP, MAP), recursive=True, read_only=True)
            assert (error.step, error.errno, error.cause) == ("mount_setattr", errno.EINVAL, "no-idmap-support")
            assert error.filename == culprit
            assert f"the proc at {culprit} cannot be idmapped" in error.__notes__[0]
        assert mounts_below(work) == before
        with idmapped_mount(source, target, (MAP, MAP)):  # which leaves it away
            assert owners(target / "of-0") == (100000, 100000)
    """)


def test_attributes_are_those_of_the_whole_tree(tree: Script) -> None:
    tree("""
        options = dict(read_only=True, nosuid=True, nodev=True, noexec=True)
        with idmapped_mount(source, target, (MAP, MAP), recursive=True, **options):
            assert len(mounts_below(target)) == 3
            for mount in mounts_below(target):
                assert mount.split()[1].startswith("ro,nosuid,nodev,noexec"), mount
            for path in (target / "new", target / "sub" / "new", target / "sub" / "deep" / "new"):
                assert create_as(100000, path) == errno.EROFS
        assert not any("nosuid" in mount for mount in mounts_below(source))
        with idmapped_mount(source, target, (MAP, MAP), recursive=True):
            assert not any("ro," in mount or "nosuid" in mount for mount in mounts_below(target))
    """)


def test_each_attribute_does_what_it_says(tree: Script) -> None:
    """`True` sets it, `False` takes it away, `None` leaves it as the source's mount has it."""
    tree("""
        import shutil, stat
        shutil.copy("/bin/sh", source / "program")
        os.mknod(source / "null", 0o666 | stat.S_IFCHR, os.makedev(1, 3))
        (source / "null").chmod(0o666)
        (source / "program").chmod(0o4755)  # of user 0 on the disk, seen as 100000

        def effective():
            read, write = os.pipe()
            pid = os.fork()
            if pid == 0:
                os.dup2(write, 1)
                os.setgroups([]), os.setresgid(100005, 100005, 100005), os.setresuid(100005, 100005, 100005)
                os.execv(target / "program", ["sh", "-p", "-c", "grep ^Uid /proc/self/status"])
            os.waitpid(pid, 0), os.close(write)
            with open(read) as file:
                return file.read().split()[2]

        def open_device():
            return errno_as(100005, lambda: os.open(target / "null", os.O_RDWR))

        def can_execute():
            return errno_as(100005, lambda: os.execv(target / "program", ["sh", "-c", ""]))

        with idmapped_mount(source, target, (MAP, MAP), nosuid=False, nodev=False, noexec=False):
            assert (effective(), open_device(), can_execute()) == ("100000", 0, 0)
        with idmapped_mount(source, target, (MAP, MAP), nosuid=True):
            assert (effective(), open_device(), can_execute()) == ("100005", 0, 0)
        with idmapped_mount(source, target, (MAP, MAP), nodev=True):
            assert (effective(), open_device(), can_execute()) == ("100000", errno.EACCES, 0)
        with idmapped_mount(source, target, (MAP, MAP), noexec=True):
            assert (open_device(), can_execute()) == (0, errno.EACCES)
        with idmapped_mount(source, work / "target", (MAP, MAP), nosuid=True, nodev=True, noexec=True):
            (work / "second").mkdir()
            with idmapped_mount(target, work / "second", (MAP, MAP)):
                assert mounts_below(work / "second")[0].split()[1].startswith("rw,nosuid,nodev,noexec")
            with idmapped_mount(target, work / "second", (MAP, MAP), noexec=False, nodev=False):
                assert mounts_below(work / "second")[0].split()[1].startswith("rw,nosuid,relatime")
    """)


@pytest.mark.parametrize(
    ("propagation", "at_target", "at_source"),
    [("private", False, False), ("slave", True, False), ("shared", True, True), ("unbindable", False, False)],
)
def test_propagation(script: Script, propagation: str, at_target: bool, at_source: bool) -> None:
    """What is mounted later below one of the two is, or is not, seen below the other; also where
    the target lies below a shared mount, which makes what is mounted there shared."""
    source = """
        import sys
        from mounting import *
        from usernsproc import idmapped_mount
        propagation, at_target, at_source = sys.argv[1], sys.argv[2] == "True", sys.argv[3] == "True"
        work = own_mount_namespace()
        source = make_file_system("tmpfs", work)
        run("mount", "--make-shared", source.parent)
        (source / "one").mkdir(), (source / "two").mkdir()

        def is_mounted(path):
            return any(mount.split()[0] == str(path) for mount in mounts_below(path))

        def fields_of(path):
            [line] = [line.split() for line in open("/proc/self/mountinfo") if line.split()[4] == str(path)]
            return [field.split(":")[0] for field in line[6 : line.index("-")]]

        FIELDS = {"private": [], "slave": ["master"], "shared": ["shared"], "unbindable": ["unbindable"]}
        for parent in ("private", "shared"):
            run("mount", f"--make-{parent}", work)
            target = work / f"target-{parent}"
            target.mkdir()
            mount = idmapped_mount(source, target, (MAP, MAP), propagation=propagation)
            assert fields_of(target) == FIELDS[propagation], (parent, fields_of(target))
            run("mount", "-t", "tmpfs", "tmpfs", source / "one")
            run("mount", "-t", "tmpfs", "tmpfs", target / "two")
            assert is_mounted(source / "one") and is_mounted(target / "two")
            assert is_mounted(target / "one") == at_target, parent
            assert is_mounted(source / "two") == at_source, parent
            run("umount", target / "two")
            run("umount", source / "one")
            mount.unmount()
            if propagation == "unbindable":
                mount = idmapped_mount(source, target, (MAP, MAP), propagation=propagation)
                error = failure(idmapped_mount, target, work / "target-private", (MAP, MAP))
                assert (error.step, error.cause) == ("open_tree", "unbindable")
                mount.unmount()
    """
    script(source, propagation, str(at_target), str(at_source))


@pytest.mark.parametrize("propagation", ["private", "slave", "unbindable"])
@pytest.mark.parametrize("recursive", [False, True])
def test_a_mount_below_a_shared_one_is_gone_everywhere_once_it_is_unmounted(
    script: Script, propagation: str, recursive: bool
) -> None:
    """A copy of it is in all mount namespaces that are peers, as of everything that is mounted there."""
    source = """
        import sys
        import native
        from leaks import state
        from mounting import *
        from usernsproc import idmapped_mount
        options = dict(propagation=sys.argv[1], recursive=sys.argv[2] == "True")
        work = own_mount_namespace()
        source, target = make_file_system("tmpfs", work), work / "target"
        target.mkdir(), (source / "sub").mkdir()
        run("mount", "-t", "tmpfs", "tmpfs", source / "sub")
        (source / "sub" / "deep").mkdir()
        run("mount", "-t", "tmpfs", "tmpfs", source / "sub" / "deep")
        run("mount", "--make-shared", work)
        question, ask = os.pipe()
        answer, reply = os.pipe()
        peer = os.fork()
        if peer == 0:  # in a mount namespace that is a peer of ours
            native.prctl(native.PR_SET_PDEATHSIG, 9)
            native.unshare(native.CLONE_NEWNS)
            while True:
                os.write(reply, str(len(mounts_below(target))).encode())
                os.read(question, 1)

        def number_in_peer():
            os.write(ask, b".")
            return int(os.read(answer, 1))

        assert os.read(answer, 1) == b"0"
        before = state()
        for use in range(2):
            mount = idmapped_mount(source, target, (MAP, MAP), **options)
            assert number_in_peer() == 1
            assert len(mounts_below(target)) == (3 if options["recursive"] else 1)
            assert all("idmapped" in entry for entry in mounts_below(target))
            if options["recursive"]:
                assert owners(target / "sub" / "deep") == (100000, 100000)
                with open(source / "sub" / "deep" / "file", "w"), open(target / "sub" / "deep" / "file"):
                    try:
                        mount.unmount()
                    except UsernsError as error:
                        assert error.cause == "mount-in-use", error.cause
                    else:
                        raise AssertionError
                assert number_in_peer() == 1
            mount.unmount(lazy=use == 1)
            assert number_in_peer() == 0
            assert state() == before
        os.kill(peer, 9)
        os.waitpid(peer, 0)
    """
    script(source, propagation, str(recursive))


def test_a_propagation_that_does_not_exist_is_refused() -> None:
    with pytest.raises(ValueError, match="propagation='none' is not one of private, shared, slave, unbindable"):
        idmapped_mount("/", "/", ("0:0:1", "0:0:1"), propagation="none")


def test_two_hundred_mounts_leave_nothing(script: Script) -> None:
    script("""
        import pathlib
        from leaks import state
        from mounting import *
        from usernsproc import create_userns, idmapped_mount
        work = own_mount_namespace()
        source = make_file_system("tmpfs", work)
        targets = [work / f"target-{number}" for number in range(200)]
        for target in targets:
            target.mkdir()
        before = state()
        with create_userns(MAP, MAP) as userns:
            mounts = [idmapped_mount(source, target, userns) for target in targets]
        assert pathlib.Path("/proc/self/mountinfo").read_text().count("idmapped") == 200
        assert all(owners(target / "of-0") == (100000, 100000) for target in targets)
        for mount in mounts:
            mount.unmount()
        for target in targets:
            with idmapped_mount(source, target, (MAP, MAP)):
                pass
        assert state() == before
    """)
