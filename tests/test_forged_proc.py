"""`/proc` is proven, not believed: another user's mount namespace cannot lead a call to another process."""

from __future__ import annotations

from collections.abc import Callable

import forging
import pytest

Script = Callable[..., str]
each_forgery = pytest.mark.parametrize("forgery", forging.FORGERIES)
without_openat2 = pytest.mark.parametrize("errno", ["ENOSYS", "EPERM"])


@each_forgery
def test_a_forged_proc_is_refused(forgery: str, script: Script) -> None:
    """By every call that needs what is forged, with nothing done to the process that it names. The answers that the
    kernel gives without `/proc` are right."""
    script(
        """
        import sys
        from forging import *
        own_mount_namespace()
        scene = Scene()
        scene.assert_refused(*forge(sys.argv[1], scene))
        """,
        forgery,
    )


@each_forgery
def test_a_forged_proc_is_refused_without_openat2(forgery: str, script: Script) -> None:
    """Linux 5.4, or a seccomp filter: each component is looked at, which Linux 5.8 allows without a gap."""
    script(
        """
        import errno, sys
        from forging import *
        own_mount_namespace()
        scene = Scene()
        refuse_openat2(errno.ENOSYS)
        scene.assert_refused(*forge(sys.argv[1], scene))
        """,
        forgery,
    )


@without_openat2
def test_all_works_without_openat2(errno: str, script: Script) -> None:
    script(
        """
        import errno, sys
        from forging import *
        own_mount_namespace()
        scene = Scene()
        refuse_openat2(getattr(errno, sys.argv[1]))
        scene.assert_refused(*scene.attempts())
        assert str(scene.holder.uid_map) == str(scene.userns.uid_map) == f"0:{os.geteuid()}:1"
        """,
        errno,
    )


@pytest.mark.parametrize("openat2", ["is there", "ENOSYS"])
def test_without_the_requests_of_pidfds_namespaces_are_found_by_proven_links(openat2: str, script: Script) -> None:
    """Linux before 6.11. All works; with a forged /proc no namespace is given out."""
    script(
        """
        import errno, sys
        from forging import *
        from usernsproc import NamespaceKind
        own_mount_namespace()
        refuse_requests_of_pidfds()
        if sys.argv[1] != "is there":
            refuse_openat2(getattr(errno, sys.argv[1]))
        scene = Scene()
        scene.assert_refused(*scene.attempts())
        for kind in NamespaceKind:
            with Namespace.of(scene.joined, kind) as found, Namespace.current(kind) as own:
                assert (found != own) == (kind in ("user", "net")), kind
        forge("tmpfs over /proc", scene)
        scene.needs_proc = True
        scene.assert_refused()
        assert {outcome(find) for find in scene.namespaces().values()} == {"refused"}
        """,
        openat2,
    )


@pytest.mark.root
def test_root_in_a_hostile_mount_namespace_writes_nobodys_map(script: Script) -> None:
    """An unprivileged user forges /proc in a mount namespace of its own, and root enters that. Before, root wrote the
    map of a process of that user, which became root."""
    script("""
        import os, signal
        from forging import *
        def victim_and_forgery():
            native.prctl(native.PR_SET_DUMPABLE, 1)
            native.unshare(native.CLONE_NEWUSER)
            os.write(ready, b".")
            signal.pause()
        ready_end, ready = os.pipe()
        def child_of_user(function):
            pid = os.fork()
            if pid == 0:
                try:
                    os.setgroups([])
                    os.setresgid(1000, 1000, 1000)
                    os.setresuid(1000, 1000, 1000)
                    native.prctl(native.PR_SET_PDEATHSIG, signal.SIGKILL)
                    function()
                finally:
                    os._exit(1)
            assert os.read(ready_end, 1) == b"."
            return pid
        victim = child_of_user(victim_and_forgery)
        def forger():
            native.prctl(native.PR_SET_DUMPABLE, 1)
            native.unshare(native.CLONE_NEWUSER | native.CLONE_NEWNS)
            for name, text in ("setgroups", "deny"), ("uid_map", "0 1000 1"), ("gid_map", "0 1000 1"):
                Path(f"/proc/self/{name}").write_text(text)
            make_places()
            tmpfs_over_proc(victim)
            os.write(ready, b".")
            signal.pause()
        attacker = child_of_user(forger)
        maps = os.open(f"/proc/{victim}", os.O_PATH | os.O_DIRECTORY)
        with Namespace.of(attacker, "mnt") as mnt, mnt.enter():
            for what in (
                lambda: create_userns("all", "all"),
                lambda: create_userns("0:0:65536", "0:0:65536"),
                lambda: UsernsProcess(["/bin/true"], uid_map="all"),
                lambda: UsernsProcess(uid_map="all"),
            ):
                assert outcome(what) == "refused"
        with open(os.open("uid_map", os.O_RDONLY, dir_fd=maps)) as file:
            assert file.read() == ""
        for pid in victim, attacker:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
    """)


@pytest.mark.parametrize("openat2", ["is there", "ENOSYS"])
@pytest.mark.parametrize("name", ["uid_map", "gid_map", "setgroups"])
def test_the_file_of_another_process_over_that_of_the_right_one(name: str, openat2: str, script: Script) -> None:
    """A map is written to the process that it was meant for, or to none; and read from that one."""
    script(
        """
        import errno, sys
        from forging import *
        name, openat2 = sys.argv[1:]
        own_mount_namespace()
        scene = Scene()
        before = scene.setgroups_of_victim()
        if openat2 != "is there":
            refuse_openat2(getattr(errno, openat2))
        bind(f"/proc/{scene.victim.pid}/{name}", f"/proc/{scene.holder.pid}/{name}")
        holder = scene.holder
        write = {"uid_map": holder.write_uid_map, "gid_map": holder.write_gid_map, "setgroups": holder.write_setgroups}
        assert outcome(lambda: write[name]("deny" if name == "setgroups" else "root")) == "refused"
        if name != "setgroups":
            assert outcome(lambda: getattr(holder, name)) == "refused"
        scene.assert_victim_is_untouched()
        assert scene.setgroups_of_victim() == before
        """,
        name,
        openat2,
    )


@pytest.mark.parametrize("openat2", ["is there", "ENOSYS"])
def test_a_link_to_a_namespace_that_is_covered(openat2: str, script: Script) -> None:
    """Where the kernel has no other way than the link (Linux before 6.11, or a filter), what is mounted on it is
    refused, with a link to another namespace or with that namespace itself."""
    script(
        """
        import errno, sys
        from forging import *
        from usernsproc import _core
        own_mount_namespace()
        scene = Scene()
        victim_link = f"/proc/{scene.victim.pid}/ns/user"
        os.symlink(REAL / f"{scene.victim.pid}/ns/user", FAKE / "link")
        if sys.argv[1] != "is there":
            refuse_openat2(getattr(errno, sys.argv[1]))
        own, thread = f"/proc/{os.getpid()}/ns/user", f"/proc/thread-self/ns/user"
        cover_link(FAKE / "link", thread)
        cover_link(FAKE / "link", own)
        assert os.stat(own).st_ino == os.stat(thread).st_ino == os.stat(victim_link).st_ino, "forged in vain"
        for path in ("self/ns/user", "thread-self/ns/user"):
            try:
                _core.open_namespace_link(-1, path)
            except OSError as error:
                assert error.errno == errno.EXDEV
            else:
                raise AssertionError(f"{path} was believed")
        scene.assert_namespaces_are_right()
        native.refuse_system_call(434, errno.ENOSYS)  # pidfd_open(2)
        assert outcome(Namespace.current) == "refused"
        assert outcome(lambda: create_userns("root", "root")) == "refused"
        """,
        openat2,
    )


def test_the_own_map_is_not_believed(script: Script) -> None:
    """It is what the preset "all" passes on, and what maps are checked against."""
    script("""
        from forging import *
        with create_userns("root", "root") as own:
            own.enter()
        native.unshare(native.CLONE_NEWNS)
        make_places()
        (FAKE / "uid_map").write_text("0 0 4294967295")
        bind(FAKE / "uid_map", f"/proc/{os.getpid()}/uid_map")
        assert Path("/proc/self/uid_map").read_text() == "0 0 4294967295"
        for what in (
            lambda: create_userns("all", "all"),
            lambda: UsernsProcess(["/bin/true"], uid_map="all"),
            lambda: Namespace.current().uid_map,
        ):
            assert outcome(what) == "refused"
    """)


def test_the_table_of_mounts_is_not_believed(script: Script) -> None:
    script("""
        from forging import *
        own_mount_namespace()
        assert outcome(read_mounts) == "done"
        (FAKE / "mountinfo").write_text("")
        bind(FAKE / "mountinfo", f"/proc/{os.getpid()}/task/{os.getpid()}/mountinfo")
        assert outcome(read_mounts) == "refused"
        assert outcome(Namespace.list) == "refused"
    """)


def test_a_process_in_the_list_of_namespaces_is_not_believed(script: Script) -> None:
    script("""
        from forging import *
        own_mount_namespace()
        scene = Scene()
        (FAKE / "uid_map").write_text("0 12345 1")
        assert outcome(Namespace.list) == "done"
        bind(FAKE / "uid_map", f"/proc/{scene.joined.pid}/task/{scene.joined.pid}/uid_map")
        assert outcome(Namespace.list) == "refused"
    """)


def test_a_genuine_proc_of_another_pid_namespace(script: Script) -> None:
    """There the numbers are those of other processes, and this one is not to be seen: a number that fits by chance,
    or that another user has chosen, is not taken."""
    script("""
        import signal
        from forging import *
        from recycle import Stranger
        own_mount_namespace()
        NUMBERS = 40
        ready, done = os.pipe()
        with UsernsProcess() as holder:
            start = holder.pid + 100
        def in_other_pid_namespace():
            native.prctl(native.PR_SET_PDEATHSIG, signal.SIGKILL)
            mount(b"proc", "/proc")
            for number in range(NUMBERS):
                Stranger(start + number)
            os.write(done, b".")
            signal.pause()
        outer = os.fork()
        if outer == 0:
            try:
                native.prctl(native.PR_SET_PDEATHSIG, signal.SIGKILL)
                native.unshare(native.CLONE_NEWPID)
                if os.fork() == 0:
                    in_other_pid_namespace()
                signal.pause()
            finally:
                os._exit(1)
        assert os.read(ready, 1) == b"."
        assert not os.path.exists("/proc/self")
        maps = [os.open(f"/proc/{start + number}/uid_map", os.O_RDONLY) for number in range(NUMBERS)]
        for _ in range(300):  # each takes the next number
            try:
                create_userns("root", "root")
            except UsernsError as error:
                assert (error.step, error.cause) == ("open_proc", "no-proc"), error.step
            else:
                raise AssertionError("it was taken for another process")
        assert {os.pread(fd, 100, 0) for fd in maps} == {b""}
        os.kill(outer, signal.SIGKILL)
        os.waitpid(outer, 0)
    """)


@pytest.mark.parametrize("options", ["hidepid=2", "ro", "subset=pid", "hidepid=ptraceable"])
def test_a_genuine_proc_with_options_is_accepted(options: str, script: Script) -> None:
    script(
        """
        import sys
        from forging import *
        own_mount_namespace()
        native.unshare(native.CLONE_NEWPID)  # whose procfs its first process may mount
        child = os.fork()
        if child == 0:
            options = sys.argv[1]
            flags = native.MS_RDONLY if options == "ro" else 0
            data = None if options == "ro" else options.encode()
            native.must(native.libc.mount(b"proc", b"/proc", b"proc", flags, data))
            if options == "ro":
                with UsernsProcess() as holder:
                    assert str(holder.uid_map) == ""
                    with Namespace.of(holder) as userns, Namespace.current() as own:
                        assert userns != own
                assert read_mounts() and Namespace.list()
            else:
                with create_userns("root", "root") as userns:
                    assert str(userns.uid_map) == f"0:{os.geteuid()}:1"
                with UsernsProcess(uid_map="root") as holder:
                    assert str(holder.uid_map) == f"0:{os.geteuid()}:1"
                assert UsernsProcess(["/bin/true"], uid_map="root").wait() == 0
            os._exit(0)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        """,
        options,
    )


@pytest.mark.parametrize("openat2", ["is there", "ENOSYS"])
def test_settings_below_a_read_only_proc_sys(openat2: str, script: Script) -> None:
    """Container engines mount /proc/sys over itself. Another file system there is refused."""
    script(
        """
        import errno, sys
        from forging import *
        from usernsproc._proc import read_sysctl
        own_mount_namespace()
        if sys.argv[1] != "is there":
            refuse_openat2(getattr(errno, sys.argv[1]))
        bind("/proc/sys", "/proc/sys")
        assert read_sysctl("kernel/overflowuid") == "65534\\n"
        (FAKE / "overflowuid").write_text("0")
        bind(FAKE, "/proc/sys/kernel")
        try:
            read_sysctl("kernel/overflowuid")
        except OSError as error:
            assert error.errno == errno.EXDEV
        else:
            raise AssertionError("it was believed")
        """,
        openat2,
    )
