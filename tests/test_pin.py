"""Namespaces that a path keeps."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from usernsproc import Namespace, UsernsError, create_userns

Script = Callable[..., str]

# As anybody: what mounts does so in a mount namespace of its own, as root of an own user namespace.
OWN_MOUNTS = """
import errno, os, subprocess, sys
import native
from usernsproc import *
from usernsproc import _core
if os.geteuid():
    with create_userns("root", "root") as mine:
        mine.enter()
# Since Linux 6.18 each CPU numbers mount namespaces for itself, and one with a smaller number
# counts as the older one.
os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
native.unshare(native.CLONE_NEWNS)
native.must(native.libc.mount(None, b"/", None, native.MS_REC | native.MS_PRIVATE, None))
folder = sys.argv[1]
path = os.path.join(folder, "pin")
def mountinfo():
    return open("/proc/self/mountinfo").read()
def is_pinned(path):
    return os.path.exists(path) and os.stat(path).st_dev == os.stat("/proc/self/ns/user").st_dev
before = mountinfo()
def nothing_left():
    assert os.listdir(folder) == [], os.listdir(folder)
    assert mountinfo() == before, mountinfo()
def refused(call, *args):
    try:
        call(*args)
    except UsernsError as error:
        return error
    raise AssertionError("it was not refused")
"""


@pytest.fixture
def mounts(script: Script, tmp_path: Path) -> Callable[[str], str]:
    """Run a program in a mount namespace of its own, with an empty folder."""
    folder = tmp_path / "folder"
    folder.mkdir()

    def run(source: str) -> str:
        import textwrap

        return script(OWN_MOUNTS + textwrap.dedent(source), str(folder))

    return run


Mounts = Callable[[str], str]


def test_a_pin_keeps_the_namespace_and_unpin_gives_it_up(mounts: Mounts) -> None:
    """No process and no descriptor is left; kind, identity and maps are read from the path."""
    mounts("""
        own = f"0:{os.geteuid()}:1"
        with create_userns("root", "root") as userns:
            userns.pin(path)
            inode = userns.inode
        for _ in range(2):
            with Namespace.open(path) as again:
                assert (again.kind, again.inode, str(again.uid_map)) == ("user", inode, own)
        Namespace.unpin(path)
        nothing_left()
    """)


def test_a_process_that_was_in_it_can_be_gone(mounts: Mounts) -> None:
    """As containerd does it: bind-mounted while the process is there, entered by nsenter(1) when it is not."""
    mounts("""
        with UsernsProcess(uid_map="root", namespaces=["net", "uts"]) as holder:
            for kind in ("user", "net", "uts"):
                with holder.namespace(kind) as namespace:
                    namespace.pin(f"{path}.{kind}")
        command = ["nsenter", f"--user={path}.user", f"--net={path}.net", f"--uts={path}.uts", "--preserve-credentials"]
        command += ["sh", "-c", "cat /proc/self/uid_map; readlink /proc/self/ns/net; id -u"]
        printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
        with Namespace.open(f"{path}.net") as net, Namespace.open(f"{path}.user") as userns:
            assert printed == ["0", str(os.geteuid()), "1", f"net:[{net.inode}]", "0"], printed
            assert net.owner() == userns
        for kind in ("user", "net", "uts"):
            Namespace.unpin(f"{path}.{kind}")
        nothing_left()
    """)


def test_an_empty_file_serves_as_mount_point(mounts: Mounts) -> None:
    mounts("""
        open(path, "w").close()
        with create_userns("root", "root") as userns:
            userns.pin(path)
            assert is_pinned(path)
        Namespace.unpin(path)
        nothing_left()
    """)


def test_what_is_pinned_can_be_pinned_elsewhere_as_well(mounts: Mounts) -> None:
    mounts("""
        with create_userns("root", "root") as userns:
            userns.pin(path)
        with Namespace.open(path) as userns:
            userns.pin(path + "2")
        Namespace.unpin(path)
        with Namespace.open(path + "2") as userns:
            assert str(userns.uid_map) == f"0:{os.geteuid()}:1"
        Namespace.unpin(path + "2")
        nothing_left()
    """)


def test_a_pin_is_not_stacked_on_a_pin(mounts: Mounts) -> None:
    """Not even that of the same namespace; and the pin that is there stays."""
    mounts("""
        with create_userns("root", "root") as userns, create_userns("root", "root") as other:
            userns.pin(path)
            for one in (userns, other):
                error = refused(one.pin, path)
                assert isinstance(error, FileExistsError)
                assert (error.step, error.cause, error.filename) == ("mount_point", "already-pinned", path)
                assert "unpin" in error.__notes__[0]
                assert os.stat(path).st_ino == userns.inode
        Namespace.unpin(path)
        nothing_left()
    """)


@pytest.mark.parametrize(
    ("prepare", "errno"),
    [
        ("open(path, 'w').write('precious')", "EEXIST"),
        ("os.mkdir(path)", "EEXIST"),
        ("os.symlink('elsewhere', path)", "EEXIST"),
        ("os.symlink('/etc/passwd', path)", "EEXIST"),
        ("os.mkfifo(path)", "EEXIST"),
        ("path += '/in/no/folder'", "ENOENT"),
        ("open(path, 'w').close(); path += '/below/a/file'", "ENOTDIR"),
    ],
)
def test_what_is_no_place_for_a_pin_is_refused_and_unchanged(prepare: str, errno: str, mounts: Mounts) -> None:
    mounts(f"""
        {prepare}
        def look():
            return [(name, os.lstat(os.path.join(folder, name))[:7]) for name in os.listdir(folder)]
        there = look()
        with create_userns("root", "root") as userns:
            error = refused(userns.pin, path)
        assert (error.errno, error.step, error.filename) == (errno.{errno}, "mount_point", path)
        assert error.cause == ("not-a-mount-point" if "{errno}" == "EEXIST" else None)
        assert look() == there and mountinfo() == before
    """)


@pytest.mark.parametrize("made", ["", "open(path, 'w').close()"])
@pytest.mark.parametrize("call", ["open_tree", "move_mount"])
@pytest.mark.parametrize("failure", ["OSError(errno.ENOMEM, 'injected')", "KeyboardInterrupt()"])
def test_a_pin_that_fails_leaves_no_mount_and_no_file(made: str, call: str, failure: str, mounts: Mounts) -> None:
    """A file that was there before stays."""
    mounts(f"""
        {made}
        there = os.listdir(folder)
        def fail(*args):
            raise {failure}
        _core.{call} = fail
        with create_userns("root", "root") as userns:
            try:
                userns.pin(path)
            except UsernsError as error:
                assert (error.errno, error.step) == (errno.ENOMEM, "{call}")
            except KeyboardInterrupt:
                pass
            else:
                raise AssertionError("it did not fail")
        assert os.listdir(folder) == there and mountinfo() == before
    """)


@pytest.mark.parametrize(("number", "step"), [(428, "open_tree"), (429, "move_mount")])
def test_a_pin_that_the_kernel_refuses_leaves_nothing(number: int, step: str, mounts: Mounts) -> None:
    """By a seccomp profile, with an errno that has nothing to do with mounts."""
    mounts(f"""
        with create_userns("root", "root") as userns:
            descriptors = os.listdir("/proc/self/fd")
            native.refuse_system_call({number}, errno.EDOM)
            error = refused(userns.pin, path)
            assert (error.errno, error.step, error.cause) == (errno.EDOM, "{step}", None)
            assert os.listdir("/proc/self/fd") == descriptors
        nothing_left()
    """)


@pytest.mark.parametrize("made", ["", "open(path, 'w').close()"])
def test_an_interrupt_just_after_the_mount_undoes_it(made: str, mounts: Mounts) -> None:
    mounts(f"""
        {made}
        there = os.listdir(folder)
        move_mount = _core.move_mount
        def interrupted(*args):
            move_mount(*args)
            assert is_pinned(path)
            raise KeyboardInterrupt
        _core.move_mount = interrupted
        with create_userns("root", "root") as userns:
            try:
                userns.pin(path)
            except KeyboardInterrupt:
                pass
        assert os.listdir(folder) == there and mountinfo() == before
    """)


def test_interrupts_at_any_moment_leave_no_mount_and_no_file(mounts: Mounts) -> None:
    """Either it was pinned, or nothing has changed."""
    mounts("""
        import signal, time
        def interrupt(*args):
            raise KeyboardInterrupt
        signal.signal(signal.SIGALRM, interrupt)
        interrupted = 0
        with create_userns("root", "root") as userns:
            for i in range(600):
                pinned = False
                try:
                    signal.setitimer(signal.ITIMER_REAL, 1e-6 * (1 + i % 200))
                    userns.pin(path)
                    pinned = True
                    time.sleep(1)  # the rest of the 200 microseconds
                except KeyboardInterrupt:
                    interrupted += 1
                finally:
                    signal.setitimer(signal.ITIMER_REAL, 0)
                # It may have come when all was done: then it is pinned.
                if is_pinned(path):
                    Namespace.unpin(path)
                else:
                    assert not pinned
                nothing_left()
            assert interrupted > 50, interrupted
    """)


@pytest.mark.parametrize("failure", ["OSError(errno.EBUSY, 'injected')", "KeyboardInterrupt()"])
def test_an_unpin_that_fails_changes_nothing(failure: str, mounts: Mounts) -> None:
    mounts(f"""
        def fail(*args):
            raise {failure}
        with create_userns("root", "root") as userns:
            userns.pin(path)
        umount2, _core.umount2 = _core.umount2, fail
        try:
            Namespace.unpin(path)
        except UsernsError as error:
            assert (error.errno, error.step, error.filename) == (errno.EBUSY, "umount", path)
        except KeyboardInterrupt:
            pass
        else:
            raise AssertionError("it did not fail")
        assert is_pinned(path)
        _core.umount2 = umount2
        Namespace.unpin(path)
        nothing_left()
    """)


@pytest.mark.parametrize(
    ("prepare", "errno"),
    [
        ("pass", "ENOENT"),
        ("open(path, 'w').close()", "EINVAL"),
        ("os.mkdir(path); native.must(native.libc.mount(b'tmpfs', path.encode(), b'tmpfs', 0, None))", "EINVAL"),
        (
            "open(path, 'w').close(); native.must(native.libc.mount(b'/etc/passwd', path.encode(), None, 4096, None))",
            "EINVAL",
        ),
        ("path = '/proc/self/ns/user'", "EINVAL"),
        ("path = '/'", "EINVAL"),
    ],
)
def test_unpin_unmounts_nothing_but_namespaces(prepare: str, errno: str, mounts: Mounts) -> None:
    mounts(f"""
        {prepare}
        there, mounted = os.listdir(folder), mountinfo()
        error = refused(Namespace.unpin, path)
        assert (error.errno, error.step, error.filename) == (errno.{errno}, "mount_point", path)
        assert error.cause == ("not-pinned" if "{errno}" == "EINVAL" else None)
        assert (os.listdir(folder), mountinfo()) == (there, mounted)
    """)


def test_unpin_does_not_follow_a_link(mounts: Mounts) -> None:
    mounts("""
        with create_userns("root", "root") as userns:
            userns.pin(path)
        os.symlink(path, path + ".link")
        assert refused(Namespace.unpin, path + ".link").cause == "not-pinned"
        assert is_pinned(path)
        Namespace.unpin(path)
    """)


def test_an_open_pin_can_be_unpinned_and_stays_usable(mounts: Mounts) -> None:
    """The descriptor keeps the namespace; umount(8) would say that it is busy."""
    mounts("""
        with create_userns("root", "root") as userns:
            userns.pin(path)
        with Namespace.open(path) as userns:
            Namespace.unpin(path)
            nothing_left()
            assert str(userns.uid_map) == f"0:{os.geteuid()}:1"
    """)


def test_a_file_that_is_not_empty_is_not_removed(mounts: Mounts) -> None:
    """Other tools pin on any file."""
    mounts("""
        open(path, "w").write("precious")
        with create_userns("root", "root") as userns:
            native.must(native.libc.mount(userns.path.encode(), path.encode(), None, 4096, None))
        Namespace.unpin(path)
        assert open(path).read() == "precious" and mountinfo() == before
    """)


def test_a_file_that_cannot_be_removed_is_told(mounts: Mounts) -> None:
    mounts("""
        native.must(native.libc.mount(b"tmpfs", folder.encode(), b"tmpfs", 0, None))
        open(path, "w").close()
        with create_userns("root", "root") as userns:
            native.must(native.libc.mount(b"", folder.encode(), b"", native.MS_REMOUNT | native.MS_RDONLY, None))
            userns.pin(path)
        error = refused(Namespace.unpin, path)
        assert (error.errno, error.step) == (errno.EROFS, "mount_point")
        assert "is unpinned" in error.__notes__[-1]
        assert not is_pinned(path)
        # and where it is missing, it cannot be made
        error = refused(Namespace.current().pin, path + "2")
        assert (error.errno, error.step, error.filename) == (errno.EROFS, "mount_point", path + "2")
    """)


def test_a_mount_namespace_is_pinned_by_the_one_that_made_it(mounts: Mounts) -> None:
    mounts("""
        with UsernsProcess(uid_map="root", namespaces=["mnt"]) as holder, holder.namespace("mnt") as mnt:
            mnt.pin(path)
        with Namespace.open(path) as again:
            assert again.kind == "mnt"
        Namespace.unpin(path)
        nothing_left()
    """)


def test_a_mount_namespace_is_not_pinned_into_itself(mounts: Mounts) -> None:
    mounts("""
        with Namespace.current("mnt") as current:
            error = refused(current.pin, path)
        assert (error.errno, error.step, error.cause) == (errno.ELOOP, "move_mount", "mount-loop")
        assert "made in" in error.__notes__[0]
        nothing_left()
    """)


def test_a_mount_namespace_is_not_pinned_where_it_would_propagate_to_itself(mounts: Mounts) -> None:
    """Other kinds can be."""
    mounts("""
        native.must(native.libc.mount(None, b"/", None, native.MS_REC | native.MS_SHARED, None))
        options = {"uid_map": "root", "namespaces": ["mnt"], "propagation": "unchanged"}
        with UsernsProcess(**options) as holder, holder.namespace("mnt") as mnt:
            error = refused(mnt.pin, path)
            assert (error.errno, error.step, error.cause) == (errno.EINVAL, "move_mount", "shared-mount")
            assert error.filename == path and "make-private" in error.__notes__[0]
            assert os.listdir(folder) == []
            with holder.namespace("user") as userns:
                userns.pin(path)
        Namespace.unpin(path)
        assert os.listdir(folder) == []
    """)


def test_a_pin_from_a_mount_namespace_with_more_rights_is_locked(mounts: Mounts) -> None:
    mounts("""
        with create_userns("root", "root") as userns:
            userns.pin(path)
        script = "import sys; from usernsproc import *\\n"
        script += "try: Namespace.unpin(sys.argv[1])\\n"
        script += "except UsernsError as error: print(error.step, error.errno, error.cause)"
        printed = run([sys.executable, "-c", script, path], uid_map="root", namespaces=["mnt"], capture_output=True)
        assert printed.stdout == b"umount 22 locked-mount\\n", printed
        assert is_pinned(path)
        Namespace.unpin(path)
        nothing_left()
    """)


def test_without_rights_to_mount_nothing_is_made(tmp_path: Path, script: Script) -> None:
    """An ordinary user, or root without CAP_SYS_ADMIN."""
    if os.geteuid():
        path = tmp_path / "pin"
        with create_userns("root", "root") as userns, pytest.raises(PermissionError) as caught:
            userns.pin(path)
        assert isinstance(caught.value, UsernsError)
        assert (caught.value.step, caught.value.cause) == ("open_tree", "no-mount-rights")
        assert caught.value.filename == str(path)
        assert "own" in caught.value.__notes__[0]
        assert not path.exists()
        return
    script(
        """
        import os, sys
        from usernsproc import *
        path = sys.argv[1] + "/pin"
        with create_userns("root", "root") as userns, UsernsProcess(uid_map="root", namespaces=["net"]) as holder:
            with holder.namespace("net") as net:
                userns.enter()  # and so has no rights in the mount namespace
                try:
                    net.pin(path)
                except PermissionError as error:
                    assert (error.step, error.cause) == ("open_tree", "no-mount-rights")
                else:
                    raise AssertionError("it was mounted")
        assert not os.path.exists(path)
        """,
        str(tmp_path),
    )


def test_unpin_without_rights_changes_nothing(mounts: Mounts) -> None:
    mounts("""
        with create_userns("root", "root") as userns:
            userns.pin(path)
        script = "import sys; from usernsproc import *\\n"
        script += "try: Namespace.unpin(sys.argv[1])\\n"
        script += "except PermissionError as error: print(error.step, error.cause)"
        printed = run([sys.executable, "-c", script, path], uid_map="root", capture_output=True)
        assert printed.stdout == b"umount no-mount-rights\\n", printed
        Namespace.unpin(path)
        nothing_left()
    """)


def test_an_ordinary_user_pins_in_a_mount_namespace_of_its_own(tmp_path: Path) -> None:
    """By the library's own means: a command in new user and mount namespaces."""
    import sys

    from usernsproc import run

    path = tmp_path / "pin"
    program = (
        "import os, sys; from usernsproc import *\n"
        "path = sys.argv[1]\n"
        "with create_userns('root', 'root') as userns: userns.pin(path)\n"
        "with Namespace.open(path) as userns: print(userns.uid_map)\n"
        "Namespace.unpin(path)\n"
        "print(os.path.exists(path))\n"
    )
    command = [sys.executable, "-c", program, str(path)]
    result = run(command, uid_map="root", namespaces=["mnt"], capture_output=True, text=True)
    assert (result.stdout, result.stderr) == ("0:0:1\nFalse\n", "")


def test_a_pin_ends_with_the_mount_namespace_that_it_was_made_in(tmp_path: Path) -> None:
    import sys

    from usernsproc import run

    path = tmp_path / "pin"
    program = "import sys; from usernsproc import *; create_userns('root', 'root').pin(sys.argv[1])"
    run([sys.executable, "-W", "ignore", "-c", program, str(path)], uid_map="root", namespaces=["mnt"], check=True)
    assert path.is_file()
    assert path.stat().st_dev == tmp_path.stat().st_dev
    path.unlink()


@pytest.mark.root
@pytest.mark.kernel("6.3")
def test_a_pin_serves_an_idmapped_mount(mounts: Mounts) -> None:
    mounts("""
        native.must(native.libc.mount(b"tmpfs", folder.encode(), b"tmpfs", 0, None))
        os.mkdir(folder + "/source"), os.mkdir(folder + "/target")
        open(folder + "/source/file", "w").close()
        with create_userns("0:100000:10", "0:200000:10") as userns:
            userns.pin(path)
        with idmapped_mount(folder + "/source", folder + "/target", path):
            status = os.stat(folder + "/target/file")
            assert (status.st_uid, status.st_gid) == (100000, 200000)
        Namespace.unpin(path)
    """)


def test_commands_join_what_is_pinned(mounts: Mounts) -> None:
    mounts("""
        with UsernsProcess(uid_map="root", namespaces=["net"]) as holder:
            for kind in ("user", "net"):
                with holder.namespace(kind) as namespace:
                    namespace.pin(f"{path}.{kind}")
        command = ["sh", "-c", "readlink /proc/self/ns/user /proc/self/ns/net"]
        printed = check_output(command, join=[f"{path}.user", f"{path}.net"], text=True).split()
        for kind, link in zip(("user", "net"), printed, strict=True):
            assert link == f"{kind}:[{os.stat(f'{path}.{kind}').st_ino}]"
            Namespace.unpin(f"{path}.{kind}")
        nothing_left()
    """)


def test_a_thousand_pins_leave_nothing(mounts: Mounts) -> None:
    mounts("""
        descriptors = os.listdir("/proc/self/fd")
        for _ in range(4):
            paths = [f"{path}.{i}" for i in range(250)]
            for one in paths:
                with create_userns("root", "root") as userns:
                    userns.pin(one)
            assert mountinfo().count(" nsfs ") == before.count(" nsfs ") + 250
            for one in paths:
                Namespace.unpin(one)
            nothing_left()
        assert os.listdir("/proc/self/fd") == descriptors
    """)


def test_bytes_and_path_objects_and_strange_names(mounts: Mounts) -> None:
    mounts("""
        from pathlib import Path
        with create_userns("root", "root") as userns:
            for name in (Path(path), os.fsencode(path) + b"\\xff", path + " with\\nspaces \\\\040"):
                userns.pin(name)
                Namespace.unpin(name)
        nothing_left()
    """)


def test_what_is_no_namespace_is_not_pinned(tmp_path: Path) -> None:
    with Namespace(os.memfd_create("no namespace")) as wrong, pytest.raises(UsernsError) as caught:
        wrong.pin(tmp_path / "pin")
    assert "not a namespace" in caught.value.__notes__[0]
    assert not (tmp_path / "pin").exists()


def test_a_closed_namespace_is_not_pinned(tmp_path: Path) -> None:
    userns = create_userns("root", "root")
    userns.close()
    with pytest.raises(ValueError, match="closed"):
        userns.pin(tmp_path / "pin")
    with pytest.raises(TypeError):
        Namespace.unpin(3.5)  # type: ignore[arg-type]


def test_a_running_holder_can_be_pinned_before_it_ends(mounts: Mounts) -> None:
    mounts("""
        with UsernsProcess(uid_map="root") as holder:
            with holder.namespace() as userns:
                userns.pin(path)
            inode = os.stat(path).st_ino
            assert str(holder.uid_map) == f"0:{os.geteuid()}:1"
        assert os.stat(path).st_ino == inode and is_pinned(path)
        Namespace.unpin(path)
        nothing_left()
    """)
