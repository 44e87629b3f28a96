"""The calling thread in another namespace, and the way back."""

from __future__ import annotations

import os
import pickle
import textwrap
import threading
from collections.abc import Callable

import pytest

from usernsproc import Entered, Namespace, NamespaceKind, UsernsError, create_userns

Script = Callable[..., str]

# Anybody becomes root of an own user namespace, and has one net and uts namespace in it to
# come back to: the program's own ones belong to somebody else.
START = """
import errno, os, sys, threading, time
import native
from usernsproc import *
with create_userns("root", "root") as mine:
    mine.enter()
CLONE_NEWUTS, CLONE_NEWIPC = 0x04000000, 0x08000000
native.unshare(native.CLONE_NEWNET | CLONE_NEWUTS | CLONE_NEWIPC | native.CLONE_NEWNS)
def link(kind):
    return os.readlink(f"/proc/thread-self/ns/{kind}")
def refused(call, *args):
    try:
        call(*args)
    except UsernsError as error:
        return error
    raise AssertionError("it was not refused")
"""


@pytest.fixture
def inside(script: Script) -> Callable[[str], str]:
    """Run a program as root of a user namespace of its own."""
    return lambda source: script(START + textwrap.dedent(source))


Inside = Callable[[str], str]


@pytest.mark.parametrize("kind", ["net", "uts", "ipc", "mnt"])
def test_a_with_block_enters_and_comes_back(kind: str, inside: Inside) -> None:
    inside(f"""
        before = link("{kind}")
        with UsernsProcess(uid_map="root", namespaces=["{kind}"]) as holder, holder.namespace("{kind}") as other:
            descriptors = os.listdir("/proc/self/fd")
            for _ in range(2):
                with other.enter() as entered:
                    assert entered.kind == other.kind
                    assert link("{kind}") == f"{kind}:[{{other.inode}}]" != before
                    assert "with a way back" in repr(entered)
                assert link("{kind}") == before
                assert "no way back" in repr(entered)
            assert os.listdir("/proc/self/fd") == descriptors
    """)


@pytest.mark.root
@pytest.mark.parametrize("kind", [kind for kind in NamespaceKind if kind != "user"])
def test_root_enters_and_comes_back_from_all_kinds_but_user(kind: str, script: Script) -> None:
    """A pid namespace is entered by children alone."""
    script(f"""
        import os
        from usernsproc import *
        link = "/proc/self/ns/{kind}" + "_for_children" * ("{kind}" == "pid")
        before = os.readlink(link)
        with UsernsProcess(uid_map="root", namespaces=["{kind}"]) as holder, holder.namespace("{kind}") as other:
            with other.enter():
                assert os.readlink(link) == f"{kind}:[{{other.inode}}]" != before
            assert os.readlink(link) == before
    """)


@pytest.mark.root
def test_children_are_made_in_the_pid_namespace_and_then_again_in_ones_own(script: Script) -> None:
    script("""
        import os, subprocess
        from usernsproc import *
        with UsernsProcess(uid_map="root", namespaces=["pid"]) as holder, holder.namespace("pid") as other:
            with other.enter():
                inside = subprocess.check_output(["sh", "-c", "echo $$"])
            outside = subprocess.check_output(["sh", "-c", "echo $$"])
        assert int(inside) == 2 and int(outside) > os.getpid()
    """)


def test_nested_blocks_come_back_one_by_one(inside: Inside) -> None:
    inside("""
        own = link("net"), link("uts")
        kinds = ["net", "uts"]
        options = {"uid_map": "root", "namespaces": kinds}
        with UsernsProcess(**options) as one, UsernsProcess(**options) as two:
            with one.namespace("net") as net1, two.namespace("net") as net2, one.namespace("uts") as uts1:
                with net1.enter(), uts1.enter():
                    at_one = link("net")
                    with net2.enter():
                        assert link("net") == f"net:[{net2.inode}]"
                    assert link("net") == at_one == f"net:[{net1.inode}]"
        assert (link("net"), link("uts")) == own
    """)


def test_as_a_plain_call_it_stays_and_holds_nothing(inside: Inside) -> None:
    """No descriptor, no warning: the way back is thrown away."""
    inside("""
        import warnings
        warnings.simplefilter("error")
        with UsernsProcess(uid_map="root", namespaces=["net"]) as holder, holder.namespace("net") as net:
            descriptors = os.listdir("/proc/self/fd")
            net.enter()
            assert os.listdir("/proc/self/fd") == descriptors
            assert link("net") == f"net:[{net.inode}]"
            net.enter()  # again: nothing wrong with that
    """)


def test_leave_goes_back_at_any_time_and_again_has_no_effect(inside: Inside) -> None:
    inside("""
        before = link("net")
        with UsernsProcess(uid_map="root", namespaces=["net"]) as holder, holder.namespace("net") as net:
            entered = net.enter()
            entered.leave()
            assert link("net") == before
            net.enter()
            entered.leave()
            assert link("net") == f"net:[{net.inode}]"
    """)


def test_close_gives_up_the_way_back(inside: Inside) -> None:
    inside("""
        with UsernsProcess(uid_map="root", namespaces=["net"]) as holder, holder.namespace("net") as net:
            entered = net.enter()
            entered.close()
            entered.close()
            entered.leave()
            assert link("net") == f"net:[{net.inode}]"
            assert refused(entered.__enter__).cause == "no-way-back"
    """)


def test_an_exception_in_the_block_comes_back_too(inside: Inside) -> None:
    inside("""
        before = link("net")
        with UsernsProcess(uid_map="root", namespaces=["net"]) as holder, holder.namespace("net") as net:
            try:
                with net.enter():
                    raise KeyError
            except KeyError:
                assert link("net") == before
    """)


def test_a_socket_made_inside_stays_inside(inside: Inside) -> None:
    """The usual reason for a visit to a network namespace."""
    inside("""
        import fcntl, socket
        with UsernsProcess(uid_map="root", namespaces=["net"]) as holder, holder.namespace("net") as net:
            with net.enter():
                visitor = socket.socket()
            SIOCGSKNS = 0x894C
            with visitor, Namespace(fcntl.ioctl(visitor, SIOCGSKNS)) as of_socket:
                assert of_socket == net
    """)


def test_root_and_working_directory_come_back_with_a_mount_namespace(inside: Inside) -> None:
    inside("""
        import tempfile
        with tempfile.TemporaryDirectory() as root:
            os.mkdir(root + "/below")
            native.must(native.libc.mount(b"/proc", (root + "/below").encode(), None, 0x1000 | native.MS_REC, None))
            os.symlink("below", root + "/proc")
            with UsernsProcess(uid_map="root", namespaces=["mnt"]) as holder, holder.namespace("mnt") as mnt:
                before = link("mnt")
                child = os.fork()
                if child == 0:
                    os.chroot(root)
                    os.chdir("/below")
                    with mnt.enter():
                        assert os.getcwd() == "/" and os.path.isdir("/usr") and link("mnt") != before
                    assert os.getcwd() == "/below" and not os.path.isdir("/usr")
                    assert sorted(os.listdir("/")) == ["below", "proc"]
                    assert link("mnt") == before
                    os._exit(0)
                assert os.waitpid(child, 0)[1] == 0
            native.must(native.libc.umount2((root + "/below").encode(), 2))
    """)


def test_another_thread_cannot_be_brought_back(inside: Inside) -> None:
    inside("""
        with UsernsProcess(uid_map="root", namespaces=["net"]) as holder, holder.namespace("net") as net:
            seen = []
            with net.enter() as entered:
                def other():
                    try:
                        entered.leave()
                    except RuntimeError as error:
                        seen.append(str(error))
                thread = threading.Thread(target=other)
                thread.start()
                thread.join()
            assert "another thread" in seen[0]
    """)


def test_other_threads_stay_where_they_are(inside: Inside) -> None:
    inside("""
        with UsernsProcess(uid_map="root", namespaces=["net"]) as holder, holder.namespace("net") as net:
            before, entered, look = link("net"), threading.Event(), threading.Event()
            def visit():
                with net.enter():
                    entered.set()
                    look.wait()
                seen.append(link("net"))
            seen = []
            thread = threading.Thread(target=visit)
            thread.start()
            entered.wait()
            assert link("net") == before
            look.set()
            thread.join()
            assert seen == [before]
    """)


# ---- no way back ----


def test_from_a_user_namespace_there_is_no_way_back(script: Script) -> None:
    """With a plain call it is entered; `with` says so before its block begins."""
    script("""
        import os
        from usernsproc import *
        with create_userns("root", "root") as userns:
            try:
                with userns.enter():
                    raise AssertionError("the block was begun")
            except PermissionError as error:
                assert (error.step, error.cause) == ("setns", "no-way-back")
                assert "stays in it" in error.__notes__[0] and "child process" in error.__notes__[0]
            with Namespace.current() as current:
                assert current == userns
    """)


def test_without_rights_where_one_came_from_there_is_no_way_back(script: Script) -> None:
    """The network namespace that it came from belongs to the user namespace above."""
    script("""
        import os
        from usernsproc import *
        with create_userns("root", "root") as userns:
            userns.enter()
        with UsernsProcess(uid_map="root", namespaces=["net"]) as holder, holder.namespace("net") as net:
            descriptors = os.listdir("/proc/self/fd")
            try:
                with net.enter():
                    raise AssertionError("the block was begun")
            except PermissionError as error:
                assert (error.step, error.cause) == ("setns", "no-way-back")
                assert "owner of the net namespace" in error.__notes__[0]
            assert os.readlink("/proc/self/ns/net") == f"net:[{net.inode}]"
            assert os.listdir("/proc/self/fd") == descriptors
    """)


def test_rights_that_are_lost_in_the_block_are_told_at_its_end(inside: Inside) -> None:
    inside("""
        with UsernsProcess(uid_map="root", namespaces=["net"]) as holder, holder.namespace("net") as net:
            descriptors = os.listdir("/proc/self/fd")
            try:
                with net.enter(), create_userns("root", "root") as deeper:
                    deeper.enter()
            except PermissionError as error:
                assert (error.step, error.cause) == ("setns", "no-way-back")
            else:
                raise AssertionError("it came back")
            assert link("net") == f"net:[{net.inode}]"
            assert os.listdir("/proc/self/fd") == descriptors
    """)


@pytest.mark.kernel("6.11")
def test_without_proc_it_is_entered_and_left(inside: Inside) -> None:
    """A pidfd of the thread leads to where it came from."""
    inside("""
        import tempfile
        with UsernsProcess(uid_map="root", namespaces=["net"]) as holder, holder.namespace("net") as net:
            with tempfile.TemporaryDirectory() as empty, Namespace.current("net") as before:
                child = os.fork()
                if child == 0:
                    os.chroot(empty)
                    with net.enter(), Namespace.current("net") as current:
                        assert current == net != before
                    with Namespace.current("net") as current:
                        assert current == before
                    os._exit(0)
                assert os.waitpid(child, 0)[1] == 0
    """)


@pytest.mark.kernel(before="6.11")
def test_without_proc_it_is_entered_and_the_way_back_is_missing(inside: Inside) -> None:
    inside("""
        import tempfile
        with UsernsProcess(uid_map="root", namespaces=["net"]) as holder, holder.namespace("net") as net:
            before = link("net")
            with tempfile.TemporaryDirectory() as empty:
                child = os.fork()
                if child == 0:
                    os.chroot(empty)
                    error = refused(net.enter().__enter__)
                    assert error.cause == "no-way-back" and "No such file" in error.__notes__[0]
                    os._exit(0)
                assert os.waitpid(child, 0)[1] == 0
    """)


def test_threads_that_were_started_meanwhile_are_in_the_way(inside: Inside) -> None:
    """They share the thread's root and working directory; when they have ended it can leave."""
    inside("""
        before = link("mnt")
        with UsernsProcess(uid_map="root", namespaces=["mnt"]) as holder, holder.namespace("mnt") as mnt:
            entered, done = mnt.enter(), threading.Event()
            thread = threading.Thread(target=done.wait)
            thread.start()
            error = refused(entered.leave)
            assert (error.errno, error.step, error.cause) == (errno.EINVAL, "setns", "shared-fs")
            assert "started meanwhile" in error.__notes__[0]
            done.set()
            thread.join()
            while len(os.listdir("/proc/self/task")) > 1:
                time.sleep(0.001)  # join() returns a little before the thread has ended
            entered.leave()
            assert link("mnt") == before
    """)


# ---- refusals ----


def test_a_mount_namespace_is_not_entered_by_a_thread_that_shares_its_directory(inside: Inside) -> None:
    """os.unshare(CLONE_FS) is the remedy that the note names."""
    inside("""
        CLONE_FS = 0x200
        with UsernsProcess(uid_map="root", namespaces=["mnt"]) as holder, holder.namespace("mnt") as mnt:
            before, seen = link("mnt"), []
            def visit():
                seen.append(refused(mnt.enter))
                native.unshare(CLONE_FS)
                with mnt.enter():
                    seen.append(link("mnt"))
                seen.append(link("mnt"))
            thread = threading.Thread(target=visit)
            thread.start()
            thread.join()
            error, *links = seen
            assert (error.errno, error.step, error.cause) == (errno.EINVAL, "setns", "shared-fs")
            assert "CLONE_FS" in error.__notes__[0] and "join=" in error.__notes__[0]
            assert links == [f"mnt:[{mnt.inode}]", before]
    """)


@pytest.mark.parametrize("kind", ["user", "time"])
def test_a_threaded_program_is_told_what_to_do_instead(kind: str, inside: Inside) -> None:
    inside(f"""
        done = threading.Event()
        thread = threading.Thread(target=done.wait)
        thread.start()
        with UsernsProcess(uid_map="root", namespaces=["time"]) as holder, holder.namespace("{kind}") as other:
            before = link("{kind}"), os.listdir("/proc/self/fd")
            error = refused(other.enter)
            assert (error.errno in (errno.EINVAL, errno.EUSERS), error.cause) == (True, "threads")
            assert "join=" in error.__notes__[0]
            assert (link("{kind}"), os.listdir("/proc/self/fd")) == before
        done.set()
        thread.join()
    """)


def test_a_pid_namespace_is_entered_from_above_only(inside: Inside) -> None:
    inside("""
        kinds = ["pid"]
        options = {"uid_map": "root", "namespaces": kinds}
        with UsernsProcess(**options) as one, UsernsProcess(**options) as two:
            with one.namespace("pid") as inner, two.namespace("pid") as sibling:
                inner.enter()
                child = os.fork()
                if child == 0:
                    error = refused(sibling.enter)
                    assert (error.errno, error.cause) == (errno.EINVAL, "not-below"), error
                    os._exit(0)
                assert os.waitpid(child, 0)[1] == 0
    """)


def test_without_rights_in_its_owner_it_is_not_entered(script: Script) -> None:
    """nsfd: no_foul_play of the kernel's own tests: from within one user namespace, every
    namespace of a sibling is refused, and nothing has changed."""
    script("""
        import os
        from usernsproc import *
        kinds = [kind for kind in NamespaceKind if kind != "user"]
        def links():
            return {kind: os.readlink(f"/proc/self/ns/{kind}") for kind in os.listdir("/proc/self/ns")}
        options = {"uid_map": "root", "namespaces": kinds}
        with UsernsProcess(**options) as one, UsernsProcess(**options) as two:
            of_two = {kind: two.namespace(kind) for kind in NamespaceKind}
            with one.namespace() as userns:
                userns.enter()
            before = links()
            for kind, namespace in of_two.items():
                try:
                    namespace.enter()
                except PermissionError as error:
                    assert (error.step, error.cause) == ("setns", "no-setns-rights")
                    assert "CAP_SYS_ADMIN" in error.__notes__[0]
                    assert ("CAP_SYS_CHROOT" in error.__notes__[0]) == (kind == "mnt")
                else:
                    raise AssertionError(f"it entered {kind}")
                assert links() == before
                namespace.close()
    """)


def test_one_namespace_after_the_other_is_entered(script: Script) -> None:
    """nsfd_incremental_setns of the kernel's own tests: the user namespace first, then what it owns."""
    script("""
        import os
        from usernsproc import *
        kinds = [kind for kind in NamespaceKind if kind != "user"]
        with UsernsProcess(uid_map="root", namespaces=kinds) as holder:
            opened = [holder.namespace(kind) for kind in ["user", *kinds]]
            for namespace in opened:
                namespace.enter()
                if namespace.kind not in ("pid", "mnt"):
                    assert os.readlink(f"/proc/self/ns/{namespace.kind}") == f"{namespace.kind}:[{namespace.inode}]"
                with Namespace.current(namespace.kind) as current:
                    assert (current == namespace) == (namespace.kind != "pid")
                namespace.close()
            assert os.getuid() == os.getgid() == 0
    """)


PIDFD_SETNS = """
import errno, os
from usernsproc import *
from usernsproc import lowlevel
kinds = [kind for kind in NamespaceKind if kind != "user"]
def links():
    return {kind: os.readlink(f"/proc/self/ns/{kind}") for kind in os.listdir("/proc/self/ns")}
def of(process):
    names = {kind: os.readlink(f"/proc/{process.pid}/ns/{kind}") for kind in NamespaceKind}
    # A pid namespace is entered by children that are made later.
    return names | {f"{kind}_for_children": names[kind] for kind in ("pid", "time")} | {"pid": links()["pid"]}
def errno_of(*arguments):
    try:
        lowlevel.setns(*arguments)
    except OSError as error:
        return error.errno
    return 0
options = {"uid_map": "root", "namespaces": kinds}
"""


def test_pidfd_setns_with_flags_that_are_none(script: Script) -> None:
    """invalid_flags of the kernel's own tests: with a pidfd, kinds have to be named, and nothing but kinds."""
    script(
        PIDFD_SETNS
        + """
with UsernsProcess(**options) as holder:
    before, user, clone_vm = links(), NamespaceKind.USER.flag, 0x100
    for flags in (0, -1, clone_vm, user | clone_vm):
        assert errno_of(holder.pidfd, flags) == errno.EINVAL, flags
        assert links() == before
"""
    )


def test_pidfd_setns_incremental_and_one_shot(script: Script) -> None:
    """pidfd_incremental_setns and pidfd_one_shot_setns of the kernel's own tests: one kind
    after the other, and all at once."""
    script(
        PIDFD_SETNS
        + """
every = [kind.flag for kind in NamespaceKind]
at_once = 0
for flag in every:
    at_once |= flag
# A command: a holder of root's is not to be inspected from inside, as the second step would.
with UsernsProcess(["sleep", "60"], **options) as process:
    expected = of(process)
    for steps in (every, [at_once]):
        child = os.fork()
        if child == 0:
            for flags in steps:
                lowlevel.setns(process.pidfd, flags)
            proc = os.open("/proc/self/ns", os.O_RDONLY)  # of the holder's mount namespace, where /proc is the same
            assert {kind: os.readlink(kind, dir_fd=proc) for kind in os.listdir(proc)} == expected
            os._exit(0)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    process.kill()
"""
    )


def test_pidfd_setns_no_foul_play_and_of_an_exited_child(script: Script) -> None:
    """By these names in the kernel's own tests: a sibling is refused, whatever the kind; and who has
    exited is in no namespace. In both cases nothing has changed."""
    script(
        PIDFD_SETNS
        + """
with UsernsProcess(**options) as one, UsernsProcess(**options) as two:
    lowlevel.setns(one.pidfd, NamespaceKind.USER.flag)
    before = links()
    for kind in NamespaceKind:
        assert errno_of(two.pidfd, kind.flag) == errno.EPERM, kind
    assert links() == before
    child = os.fork()
    if child == 0:
        os._exit(0)
    pidfd = os.pidfd_open(child)
    os.waitid(os.P_PIDFD, pidfd, os.WEXITED | os.WNOWAIT)
    for reaped in (False, True):
        if reaped:
            os.waitpid(child, 0)
        for kind in kinds:
            assert errno_of(pidfd, kind.flag) == errno.ESRCH, kind
    assert links() == before
"""
    )


def test_what_is_no_namespace_is_not_entered() -> None:
    """setns_einval of the kernel's own tests: a memfd."""
    with Namespace(os.memfd_create("no namespace")) as wrong:
        for use in (wrong.enter, lambda: wrong.kind):
            with pytest.raises(UsernsError, match="ioctl") as caught:
                use()
            assert "not a namespace" in caught.value.__notes__[0]
            assert caught.value.step == "open_ns"
        assert repr(wrong) == f"<Namespace fd {wrong.fileno()}>"


def test_of_a_process_that_has_exited_nothing_is_entered(script: Script) -> None:
    """pidfd_exited_child of the kernel's own tests: ESRCH or ENOENT, and nothing has changed."""
    script("""
        import os
        from usernsproc import *
        def links():
            return {kind: os.readlink(f"/proc/self/ns/{kind}") for kind in os.listdir("/proc/self/ns")}
        before = links()
        child = os.fork()
        if child == 0:
            os._exit(0)
        pidfd = os.pidfd_open(child)
        os.waitid(os.P_PIDFD, pidfd, os.WEXITED | os.WNOWAIT)
        for reaped in (False, True):
            if reaped:
                os.waitpid(child, 0)
            for kind in NamespaceKind:
                if kind in ("user", "pid") and not reaped:
                    continue  # a zombie still has these
                try:
                    Namespace.of(pidfd, kind)
                except (ProcessLookupError, FileNotFoundError) as error:
                    assert error.step == ("open_proc" if reaped else "open_ns")
                else:
                    raise AssertionError(f"{kind} of a dead process")
        assert links() == before
    """)


def test_a_thread_of_the_test_runner_shares_its_directory() -> None:
    """The mount namespace of the program itself: no rights are needed to be refused."""
    seen: list[OSError] = []

    def enter() -> None:
        with Namespace.current("mnt") as mnt:
            try:
                mnt.enter()
            except UsernsError as error:
                seen.append(error)

    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()
    expected = "shared-fs" if os.geteuid() == 0 else "no-setns-rights"
    assert [getattr(error, "cause", None) for error in seen] == [expected]


def test_it_cannot_be_pickled() -> None:
    with pytest.raises(TypeError, match="pickled"):
        pickle.dumps(Entered(NamespaceKind.USER))


def test_interrupted_while_entering_it_is_where_it_was(inside: Inside) -> None:
    inside("""
        from usernsproc import _core
        before, setns = link("net"), _core.setns
        def interrupted(*args):
            setns(*args)
            _core.setns = setns
            raise KeyboardInterrupt
        with UsernsProcess(uid_map="root", namespaces=["net"]) as holder, holder.namespace("net") as net:
            descriptors = os.listdir("/proc/self/fd")
            _core.setns = interrupted
            try:
                net.enter()
            except KeyboardInterrupt:
                pass
            assert link("net") == before
            assert os.listdir("/proc/self/fd") == descriptors
    """)


def test_what_was_left_is_not_entered_again_by_with(inside: Inside) -> None:
    """Nothing says that the thread is still in there."""
    inside("""
        with UsernsProcess(uid_map="root", namespaces=["uts"]) as holder, holder.namespace("uts") as uts:
            before = link("uts")
            with uts.enter() as entered:
                pass
            try:
                with entered:
                    raise AssertionError
            except ValueError as error:
                assert "has left this uts namespace" in str(error)
            assert link("uts") == before
    """)


def test_a_failing_way_back_is_told_with_its_step(inside: Inside) -> None:
    inside("""
        with UsernsProcess(uid_map="root", namespaces=["mnt"]) as holder, holder.namespace("mnt") as mnt:
            descriptors = os.listdir("/proc/self/fd")
            try:
                with mnt.enter():
                    os.fchdir = os.fsync  # EBADF, of such a descriptor
            except UsernsError as error:
                assert (error.step, error.errno) == ("chroot", errno.EBADF)
            else:
                raise AssertionError("it did not fail")
            assert os.listdir("/proc/self/fd") == descriptors
    """)


def test_entering_the_own_user_namespace_leaves_no_descriptor() -> None:
    with create_userns("root", "root") as userns, Namespace.current() as current, pytest.raises(UsernsError):
        assert current != userns
        current.enter()
