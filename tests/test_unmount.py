"""Taking mounts away: completely, or not at all and with a reason. What is still there is never passed over."""

from __future__ import annotations

from collections.abc import Callable
from textwrap import dedent

import pytest

pytestmark = [pytest.mark.root, pytest.mark.kernel("6.3")]

Script = Callable[..., str]

PREPARE = """
    import errno, gc
    import native
    from mounting import *
    from usernsproc import UsernsProcess, create_userns, idmapped_mount
    work = own_mount_namespace()
    source, target = make_file_system("tmpfs", work), work / "target"
    target.mkdir()

    def make_submounts():
        for name in ("a", "b"):
            (source / name).mkdir()
            run("mount", "-t", "tmpfs", name, source / name)
            (source / name / "deep").mkdir()
            run("mount", "-t", "tmpfs", name + "-deep", source / name / "deep")

    def refused(mount, **options):
        '''The cause; and the same is mounted as before.'''
        before = sorted(mounts_below(target))
        try:
            mount.unmount(**options)
        except UsernsError as error:
            assert error.step == "umount"
            assert "still mounted" in error.__notes__[0]
            assert sorted(mounts_below(target)) == before
            return errno.errorcode[error.errno], error.cause, error.__notes__[0]
        raise AssertionError("it was unmounted")
"""


@pytest.fixture
def mounting(script: Script) -> Script:
    return lambda source: script(dedent(PREPARE) + dedent(source))


def test_who_keeps_it_busy_is_told(mounting: Script) -> None:
    """An open file, a working directory, a running program, a mapping: of this process or another."""
    mounting("""
        import mmap, shutil
        shutil.copy("/bin/sleep", source / "sleep")
        mount = idmapped_mount(source, target, (MAP, MAP))
        with open(target / "of-0"):
            assert refused(mount)[:2] == ("EBUSY", "mount-in-use")
            assert f"process {os.getpid()} (python: fd/" in refused(mount)[2]
        os.chdir(target)
        assert f"process {os.getpid()} (python: cwd)" in refused(mount)[2]
        os.chdir("/")
        with open(target / "of-0") as file:
            mapped = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)
            # mmap keeps a descriptor of its own
        assert "fd/" in refused(mount)[2]
        mapped.close()
        libc = native.libc
        libc.mmap.restype = native.ctypes.c_void_p
        with open(target / "of-0") as file:
            address = libc.mmap(None, 4096, 1, 2, file.fileno(), 0)
        assert "map_files/" in refused(mount)[2]
        libc.munmap(native.ctypes.c_void_p(address), 4096)
        child = subprocess.Popen([target / "sleep", "10"])
        assert f"process {child.pid} (sleep: exe)" in refused(mount)[2]
        child.kill(), child.wait()
        mount.unmount()
        assert mounts_below(target) == []
    """)


def test_a_busy_mount_raises_out_of_its_with_block(mounting: Script) -> None:
    """And what deletes afterwards stops at it: `rmdir` fails."""
    mounting("""
        try:
            with idmapped_mount(source, target, (MAP, MAP)) as mount:
                file = open(target / "of-0")
                raise KeyError("the block's own")
        except UsernsError as error:
            assert error.cause == "mount-in-use"
            assert isinstance(error.__cause__, KeyError)
        else:
            raise AssertionError
        try:
            os.rmdir(target)
        except OSError as error:
            assert error.errno == errno.EBUSY
        assert (source / "of-0").exists()
        file.close()
        mount.unmount()
        os.rmdir(target)
    """)


def test_lazily_only_when_asked(mounting: Script) -> None:
    mounting("""
        make_submounts()
        with idmapped_mount(source, target, (MAP, MAP), recursive=True) as mount:
            with open(target / "of-0") as file:
                mount.unmount(lazy=True)
                assert mounts_below(target) == []
                assert list(target.iterdir()) == []
                assert file.read() == "of 0"
        mount.unmount(), mount.unmount(lazy=True)
        assert repr(mount) == f"<Mount at {target}, unmounted>"
    """)


def test_a_tree_below_a_name_with_blanks_and_backslashes(mounting: Script) -> None:
    """The kernel escapes them in its table, in which the mounts are found after a rename."""
    mounting(r"""
        make_submounts()
        odd, renamed = target / "a b \\040\tc", target / " d\n"
        (odd / "t").mkdir(parents=True)
        with idmapped_mount(source, odd / "t", (MAP, MAP), recursive=True):
            os.rename(odd, renamed)
        assert list((renamed / "t").iterdir()) == []
        assert mounts_below(target) == []
        assert len(mounts_below(source)) == 4
    """)


def test_a_tree_goes_as_a_whole(mounting: Script) -> None:
    mounting("""
        make_submounts()
        with idmapped_mount(source, target, (MAP, MAP), recursive=True):
            assert len(mounts_below(target)) == 5
        assert mounts_below(target) == []
        assert len(mounts_below(source)) == 4
    """)


@pytest.mark.parametrize("busy", ["", "a", "a/deep", "b", "b/deep"])
def test_a_tree_with_a_busy_mount_stays_as_a_whole(script: Script, busy: str) -> None:
    """Also those that were unmounted before the busy one was met: they are there again, with their maps."""
    script(
        dedent(PREPARE)
        + dedent("""
        import sys
        busy = sys.argv[1]
        make_submounts()
        (source / busy / "file").touch()
        mount = idmapped_mount(source, target, (MAP, MAP), recursive=True)
        with open(target / busy / "file"):
            for _ in range(2):
                assert refused(mount)[:2] == ("EBUSY", "mount-in-use")
                assert f"process {os.getpid()}" in refused(mount)[2]
                for name in (".", "a", "a/deep", "b", "b/deep"):
                    assert owners(target / name) == (100000, 100000), name
                    assert os.path.ismount(target / name)
        mount.unmount()
        assert mounts_below(target) == []
    """),
        busy,
    )


def test_an_unbindable_tree_stays_unbindable_and_as_a_whole(mounting: Script) -> None:
    """Such mounts cannot be copied as they are."""
    mounting("""
        make_submounts()
        mount = idmapped_mount(source, target, (MAP, MAP), recursive=True, propagation="unbindable")
        def table():
            return sorted(line.split()[4] for line in open("/proc/self/mountinfo") if " unbindable " in line)
        before = table()
        assert len(before) == 5
        with open(target / "of-0"):
            assert refused(mount)[1] == "mount-in-use"
            assert table() == before
        mount.unmount()
        assert mounts_below(target) == []
    """)


def test_at_the_limit_of_descriptors_a_tree_stays_as_a_whole(mounting: Script) -> None:
    mounting("""
        import resource
        from leaks import descriptors
        make_submounts()
        mount = idmapped_mount(source, target, (MAP, MAP), recursive=True)
        limits = resource.getrlimit(resource.RLIMIT_NOFILE)
        before, failures = sorted(mounts_below(target)), 0
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
            assert sorted(mounts_below(target)) == before
            failures += 1
        assert failures >= 4
        assert mounts_below(target) == []
    """)


def test_what_was_mounted_below_it_since_is_named_and_stays(mounting: Script) -> None:
    mounting("""
        make_submounts()
        for recursive in (False, True):
            mount = idmapped_mount(source, target, (MAP, MAP), recursive=recursive)
            where = target / "a" if not recursive else target / "a" / "deep"
            run("mount", "-t", "ramfs", "later", where)
            name, cause, note = refused(mount)
            assert (name, cause) == ("EBUSY", "has-submounts")
            assert f"{where} (ramfs)" in note
            run("umount", where)
            mount.unmount()
            assert mounts_below(target) == []
    """)


def test_what_was_mounted_over_it_is_named_and_stays(mounting: Script) -> None:
    mounting("""
        make_submounts()
        for recursive in (False, True):
            mount = idmapped_mount(source, target, (MAP, MAP), recursive=recursive)
            run("mount", "-t", "ramfs", "over", target)
            for options in (dict(), dict(lazy=True)):
                name, cause, note = refused(mount, **options)
                assert (name, cause) == ("EBUSY", "mounted-over")
                assert f"{target} (ramfs)" in note
            run("umount", target)
            mount.unmount()
            assert mounts_below(target) == []
    """)


@pytest.mark.parametrize("recursive", [False, True])
def test_a_target_whose_parent_was_renamed_is_found(script: Script, recursive: bool) -> None:
    """And whatever is at its former path is left alone."""
    script(
        dedent(PREPARE)
        + dedent("""
        import sys
        make_submounts()
        (work / "before" / "target").mkdir(parents=True)
        with idmapped_mount(source, work / "before" / "target", (MAP, MAP), recursive=sys.argv[1] == "True"):
            os.rename(work / "before", work / "after")
            (work / "before" / "target").mkdir(parents=True)
            run("mount", "-t", "tmpfs", "other", work / "before" / "target")
            assert owners(work / "after" / "target" / "of-0") == (100000, 100000)
        assert mounts_below(work / "after") == []
        assert len(mounts_below(work / "before")) == 1
    """),
        str(recursive),
    )


def test_a_mount_that_was_moved_is_found(mounting: Script) -> None:
    mounting("""
        (work / "elsewhere").mkdir()
        with idmapped_mount(source, target, (MAP, MAP)) as mount:
            run("mount", "--move", target, work / "elsewhere")
            assert owners(work / "elsewhere" / "of-0") == (100000, 100000)
            assert tells(mount, MAP)
        assert mounts_below(work / "elsewhere") == []
    """)


@pytest.mark.kernel("6.8")
def test_one_that_somebody_else_unmounted_is_done_with(mounting: Script) -> None:
    """Even where another has got its number since, on the same target, from the same source."""
    mounting("""
        with idmapped_mount(source, target, (MAP, MAP)) as mount:
            run("umount", target)
        assert repr(mount) == f"<Mount at {target}, unmounted>"

        for _ in range(200):  # a number is given again at once, but perhaps to another program's mount
            first = idmapped_mount(source, target, (MAP, MAP))
            assert tells(first, MAP)
            run("umount", target)
            second = idmapped_mount(source, target, (MAP, MAP))
            if first._id.number == second._id.number:
                break
            second.unmount()
        else:
            raise AssertionError("no number was given again")
        assert first._id.unique != second._id.unique
        first.unmount()
        assert len(mounts_below(target)) == 1
        try:
            first.uid_map
        except UsernsError as error:
            assert (error.step, error.errno, error.cause) == ("statmount", errno.ENOENT, "not-mounted")
        else:
            raise AssertionError("it has maps")
        second.unmount()
        assert mounts_below(target) == []
    """)


def test_a_submount_that_somebody_else_unmounted_is_done_with(mounting: Script) -> None:
    """One that has got its number since, at the same place, is a stranger."""
    mounting("""
        make_submounts()
        mount = idmapped_mount(source, target, (MAP, MAP), recursive=True)
        run("umount", target / "a" / "deep")
        mount.unmount()
        assert mounts_below(target) == []

        mount = idmapped_mount(source, target, (MAP, MAP), recursive=True)
        run("umount", target / "a" / "deep")
        run("mount", "-t", "ramfs", "later", target / "a" / "deep")
        name, cause, note = refused(mount)
        assert cause == "has-submounts" and "ramfs" in note
        mount.unmount(lazy=True)
    """)


def test_a_mount_of_another_mount_namespace_does_not_count_as_gone(mounting: Script) -> None:
    """Here is a copy of it, with another number, and there it is still mounted."""
    mounting("""
        mount = idmapped_mount(source, target, (MAP, MAP))
        pid = os.fork()
        if pid == 0:
            native.unshare(native.CLONE_NEWNS)
            for options in (dict(), dict(lazy=True)):
                try:
                    mount.unmount(**options)
                except UsernsError as error:
                    assert (error.errno, error.cause) == (errno.EINVAL, "other-mount-namespace")
                else:
                    os._exit(1)
            assert len(mounts_below(target)) == 1
            os._exit(0)
        assert os.waitpid(pid, 0)[1] == 0
        mount.unmount()
    """)


def test_a_mount_out_of_sight_does_not_count_as_gone(mounting: Script) -> None:
    """After a chroot the kernel's table does not have it."""
    mounting("""
        mount = idmapped_mount(source, target, (MAP, MAP))
        jail = work / "jail"
        (jail / "proc").mkdir(parents=True)
        run("mount", "-t", "proc", "proc", jail / "proc")
        pid = os.fork()
        if pid == 0:
            os.chroot(jail)
            os.chdir("/")
            try:
                mount.unmount()
            except UsernsError as error:
                os._exit(0 if (error.errno, error.cause) == (errno.EINVAL, "out-of-reach") else 2)
            os._exit(1)
        assert os.waitpid(pid, 0)[1] == 0
        mount.unmount()
    """)


@pytest.mark.parametrize("refusal", ["ENOSYS", "EPERM", "no unique ids"])
def test_without_statmount_it_is_the_same(script: Script, refusal: str) -> None:
    """Linux before 6.8, or a seccomp profile that does not know it."""
    script(
        dedent(PREPARE)
        + dedent("""
        import sys
        refusal = sys.argv[1]
        if refusal == "no unique ids":
            from usernsproc import _core
            mount_id = _core.mount_id
            _core.mount_id = lambda *arguments: 0 if arguments[-1] == 0x4000 else mount_id(*arguments)
            refusal = "ENOSYS"
        native.refuse_system_call(457, getattr(errno, refusal))
        make_submounts()
        with idmapped_mount(source, target, (MAP, MAP), recursive=True) as mount:
            assert len(mounts_below(target)) == 5
            try:
                mount.uid_map
            except UsernsError as error:
                assert error.step == "statmount"
                assert error.cause == ("kernel-too-old" if refusal == "ENOSYS" else None)
            else:
                raise AssertionError("it has maps")
            with open(target / "of-0"):
                assert refused(mount)[1] == "mount-in-use"
        assert mounts_below(target) == []
        mount = idmapped_mount(source, target, (MAP, MAP))
        run("mount", "-t", "ramfs", "over", target)
        assert refused(mount)[1] == "mounted-over"
        run("umount", target)
        run("umount", target)
        mount.unmount()
    """),
        refusal,
    )


def test_a_dropped_mount_stays(mounting: Script) -> None:
    mounting("""
        idmapped_mount(source, target, (MAP, MAP))
        gc.collect()
        assert len(mounts_below(target)) == 1
    """)


def test_a_recursive_delete_stops_before_the_source(mounting: Script) -> None:
    """What a program does that makes a directory, mounts on it, and removes the directory."""
    mounting("""
        import tempfile
        def use():
            directory = tempfile.mkdtemp(dir=work)
            try:
                with idmapped_mount(source, directory, (MAP, MAP)):
                    global kept
                    kept = open(directory + "/of-0")
            finally:
                os.rmdir(directory)
        try:
            use()
        except OSError as error:
            assert error.errno == errno.EBUSY
        else:
            raise AssertionError("nothing was said")
        assert (source / "of-0").read_text() == "of 0"
    """)


@pytest.mark.parametrize("propagation", ["private", "slave", "shared"])
def test_the_sources_submounts_stay_whatever_the_propagation(script: Script, propagation: str) -> None:
    """Below a mount that is shared with the source, to unmount here would be to unmount there."""
    script(
        dedent(PREPARE)
        + dedent("""
        import sys
        run("mount", "--make-shared", source.parent)
        make_submounts()
        before = sorted(mounts_below(source))
        assert len(before) == 4

        def table():
            lines = [line.split() for line in open("/proc/self/mountinfo") if line.split()[4].startswith(str(target))]
            return sorted([line[4], *line[6 : line.index("-")]] for line in lines)

        for recursive in (False, True):
            mount = idmapped_mount(source, target, (MAP, MAP), recursive=recursive, propagation=sys.argv[1])
            (source / "later").mkdir(exist_ok=True)
            run("mount", "-t", "tmpfs", "later", source / "later")
            is_seen = f"{target}/later rw,relatime" in mounts_below(target)
            assert is_seen == (sys.argv[1] != "private")
            if is_seen:
                assert refused(mount)[1] == "has-submounts"
                mount.unmount(lazy=True)
                assert sorted(mounts_below(source)) == sorted([*before, f"{source}/later rw,relatime"])
            else:
                mount.unmount()
            run("umount", source / "later")
            mount = idmapped_mount(source, target, (MAP, MAP), recursive=recursive, propagation=sys.argv[1])
            if recursive:
                there = table()
                with open(target / "of-0"):
                    assert refused(mount)[1] == "mount-in-use"
                    assert sorted(mounts_below(source)) == before
                    assert table() == there  # in the same peer groups as before
            mount.unmount()
            assert mounts_below(target) == []
            assert sorted(mounts_below(source)) == before
    """),
        propagation,
    )


def test_mounts_upon_each_other_go_and_come_back_in_their_order(mounting: Script) -> None:
    mounting("""
        (source / "a").mkdir()
        for number in (1, 2, 3):
            run("mount", "-t", "tmpfs", f"layer-{number}", source / "a")
            (source / "a" / f"layer-{number}").touch()
        mount = idmapped_mount(source, target, (MAP, MAP), recursive=True)
        assert len(mounts_below(target)) == 4
        with open(target / "of-0"):
            assert refused(mount)[1] == "mount-in-use"
        for number in (3, 2, 1):
            assert os.listdir(target / "a") == [f"layer-{number}"]
            run("umount", target / "a")
        mount.unmount()
        with idmapped_mount(source, target, (MAP, MAP), recursive=True):
            pass
        assert mounts_below(target) == [] and len(mounts_below(source)) == 3
        # One that would have to be made private first cannot be reached while another covers it.
        mount = idmapped_mount(source, target, (MAP, MAP), recursive=True, propagation="unbindable")
        for options in (dict(), dict(lazy=True)):
            before = sorted(mounts_below(target))
            try:
                mount.unmount(**options)
            except UsernsError as error:
                assert (error.errno, error.cause, error.filename) == (errno.EBUSY, "mounted-over", f"{target}/a")
            else:
                raise AssertionError
            assert sorted(mounts_below(target)) == before
    """)


def test_an_interrupt_after_a_submount_is_gone_puts_it_back(mounting: Script) -> None:
    """An exception of a signal handler between any two steps."""
    mounting("""
        from usernsproc import _core
        make_submounts()
        mount = idmapped_mount(source, target, (MAP, MAP), recursive=True)
        before = sorted(mounts_below(target))
        umount2 = _core.umount2
        for failing in range(4):
            for is_done in (False, True):
                calls = []
                def interrupted(*arguments):
                    calls.append(arguments)
                    if len(calls) == failing + 1:
                        if is_done:
                            umount2(*arguments)
                        raise KeyboardInterrupt
                    return umount2(*arguments)
                _core.umount2 = interrupted
                try:
                    mount.unmount()
                except KeyboardInterrupt:
                    pass
                else:
                    raise AssertionError
                _core.umount2 = umount2
                assert sorted(mounts_below(target)) == before, (failing, is_done)
        mount.unmount()
        assert mounts_below(target) == []
    """)
