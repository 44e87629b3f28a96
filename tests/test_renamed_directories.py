"""A directory above a mount or a pin is renamed between two steps: nothing else is unmounted or removed.

What renames is a hook in front of a system call, so each race is lost at the worst moment, every time. One test
races for some seconds, too.
"""

from __future__ import annotations

from collections.abc import Callable
from textwrap import dedent

import pytest

Script = Callable[..., str]

HOOK = """
    import ctypes, errno, os, sys
    import native
    from usernsproc import UsernsError, _core
    AT_FDCWD, EXCHANGE = -100, 2

    def exchange(one, other):
        native.must(native.libc.renameat2(AT_FDCWD, os.fsencode(one), AT_FDCWD, os.fsencode(other), EXCHANGE))

    def before(module, name, action, *, call=1):
        '''Run the action in front of the given call of that function, counted from 1.'''
        original, calls = getattr(module, name), 0
        def hooked(*arguments, **options):
            nonlocal calls
            calls += 1
            if calls == call:
                action()
            return original(*arguments, **options)
        setattr(module, name, hooked)
        return lambda: setattr(module, name, original)
"""

MOUNTS = (
    HOOK
    + """
    from mounting import *
    from usernsproc import idmapped_mount
    work = own_mount_namespace()
    source = work / "source"
    # What another user can exchange: a directory, and a link to where root has a mount of the same name.
    user, precious = work / "user", work / "precious"
    for folder in (source / "a" / "deep", user / "d" / "target", precious / "target"):
        folder.mkdir(parents=True)
    (user / "link").symlink_to(precious)
    run("mount", "-t", "tmpfs", "precious", precious / "target")
    (precious / "target" / "a" / "deep").mkdir(parents=True)
    run("mount", "-t", "tmpfs", "precious-a", precious / "target" / "a")
    target = user / "d" / "target"

    def swap():
        exchange(user / "d", user / "link")

    def here():
        '''What is mounted below the user's directory, and what is mounted at the precious one.'''
        return mounts_below(user), mounts_below(precious)

    unharmed = mounts_below(precious)
"""
)


@pytest.fixture
def mounting(script: Script) -> Script:
    return lambda source, *arguments: script(dedent(MOUNTS) + dedent(source), *arguments)


pytestmark = pytest.mark.kernel("6.3")


@pytest.mark.root
@pytest.mark.parametrize("recursive", [False, True])
@pytest.mark.parametrize("lazy", [False, True])
def test_an_unmount_reaches_its_own_mount(recursive: bool, lazy: bool, mounting: Script) -> None:
    """The directory is exchanged in front of each system call that unmounts."""
    mounting(
        """
        recursive, lazy = (argument == "True" for argument in sys.argv[1:])
        run("mount", "-t", "tmpfs", "a", source / "a")
        (source / "a" / "deep").mkdir()
        for call in (1, 2):
            mount = idmapped_mount(source, target, (MAP, MAP), recursive=recursive)
            assert len(mounts_below(user)) == 1 + recursive
            unhook = before(_core, "umount2", swap, call=call)
            mount.unmount(lazy=lazy)
            unhook()
            assert here() == ([], unharmed)
            assert repr(mount).endswith("unmounted>")
            if (user / "d").is_symlink():
                swap()
        """,
        str(recursive),
        str(lazy),
    )


@pytest.mark.root
@pytest.mark.parametrize("where", ["_core.mount_id", "_core.open_tree", "_core.mount_setattr", "_core.open"])
def test_at_any_call_of_an_unmount_either_it_is_complete_or_nothing_has_changed(where: str, mounting: Script) -> None:
    """A tree that has to be made private and copied: every step leads to the right mounts, or to an error."""
    mounting(
        """
        module, name = sys.argv[1].split(".")
        run("mount", "-t", "tmpfs", "a", source / "a")
        def shared():
            lines = [line for line in open("/proc/self/mountinfo") if f" {precious}" in line]
            return [line.split()[4] for line in lines if " shared:" in line]
        run("mount", "--make-rshared", precious / "target")
        before_it, call, done = shared(), 0, False
        while not done:
            call += 1
            mount = idmapped_mount(source, target, (MAP, MAP), recursive=True, propagation="unbindable")
            assert len(mounts_below(user)) == 2
            reached = []
            unhook = before(globals()[module], name, lambda: (swap(), reached.append(1)), call=call)
            try:
                mount.unmount()
            except UsernsError as error:
                unhook()
                assert error.step == "umount"
                assert len(mounts_below(user)) == 2, mounts_below(user)
                mount.unmount()
            unhook()
            assert here() == ([], unharmed)
            assert shared() == before_it
            if reached:
                swap()
            done = not reached
        assert call > 1
        """,
        where,
    )


@pytest.mark.root
@pytest.mark.parametrize("options", ["", "--recursive", "--lazy"])
def test_the_command_umount_unmounts_what_it_has_looked_up(options: str, mounting: Script) -> None:
    mounting(
        """
        from usernsproc.__main__ import main
        idmapped_mount(source, target, (MAP, MAP))
        before(_core, "umount2", swap)
        assert main(["umount", *sys.argv[1].split(), str(target)]) == 0
        assert here() == ([], unharmed)
        """,
        options,
    )


@pytest.mark.root
def test_an_interrupted_attach_takes_its_own_mount_back(mounting: Script) -> None:
    mounting("""
        move_mount = _core.move_mount
        def interrupted(*arguments):
            move_mount(*arguments)
            swap()
            raise KeyboardInterrupt
        _core.move_mount = interrupted
        try:
            idmapped_mount(source, target, (MAP, MAP))
        except KeyboardInterrupt as error:
            assert not hasattr(error, "__notes__"), error.__notes__
        assert here() == ([], unharmed)
    """)


@pytest.mark.root
def test_a_mount_is_made_where_the_path_led_first(mounting: Script) -> None:
    mounting("""
        before(_core, "move_mount", swap)
        mount = idmapped_mount(source, target, (MAP, MAP))
        swap()
        assert len(mounts_below(user)) == 1 and mounts_below(precious) == unharmed
        mount.unmount()
    """)


@pytest.mark.root
def test_a_tree_is_not_put_back_outside_of_itself(mounting: Script) -> None:
    """Its directories belong to another user, who puts a link in place of one. The error says what is missing."""
    mounting("""
        run("mount", "-t", "tmpfs", "deep", source / "a" / "deep")
        (precious / "deep").mkdir()
        mount = idmapped_mount(source, target, (MAP, MAP), recursive=True)
        def replace():
            os.rename(source / "a", source / "b")
            os.symlink(precious, source / "a")
        unhook = before(_core, "umount2", replace, call=2)  # that of the topmost mount, which is busy
        directory = os.open(target, os.O_RDONLY)
        try:
            mount.unmount()
        except UsernsError as error:
            assert error.cause == "mount-in-use", error
            assert any("could not be put back" in note for note in error.__notes__), error.__notes__
        else:
            raise AssertionError("it was unmounted")
        unhook()
        os.close(directory)
        assert mounts_below(precious) == unharmed
        assert len(mounts_below(user)) == 1
        mount.unmount()
        assert here() == ([], unharmed)
    """)


@pytest.mark.root
def test_success_is_not_reported_for_another_mount(mounting: Script) -> None:
    """In the very directory, a process of another mount namespace can exchange two mount points: the kernel has
    no way to unmount one of them for certain. It is an error then, and the mount is still the object's."""
    mounting("""
        other = user / "d" / "other"
        other.mkdir()
        run("mount", "-t", "tmpfs", "other", other)
        mount = idmapped_mount(source, target, (MAP, MAP))
        def exchange_elsewhere():
            pid = os.fork()
            if pid == 0:
                native.unshare(native.CLONE_NEWNS)
                for point in (other, target):
                    native.must(native.libc.umount2(os.fsencode(point), 2))
                exchange(other, target)
                os._exit(0)
            assert os.waitpid(pid, 0)[1] == 0
        unhook = before(_core, "umount2", exchange_elsewhere)
        try:
            mount.unmount()
        except UsernsError as error:
            assert (error.errno, error.cause) == (errno.EBUSY, "mount-moved"), error
            assert "still mounted" in error.__notes__[0]
        else:
            raise AssertionError("success was reported")
        unhook()
        [left] = mounts_below(user)
        assert left.startswith(f"{other} ") and "idmapped" in left
        mount.unmount()
        assert mounts_below(user) == []
    """)


@pytest.mark.root
def test_a_race_of_some_seconds(mounting: Script) -> None:
    """Thousands of unmounts while another user goes on exchanging. Paths that are looked up twice lose it at once."""
    mounting("""
        import time
        from usernsproc import create_userns
        os.chown(user, 1000, 1000), os.chown(user / "d", 1000, 1000)
        pid = os.fork()
        if pid == 0:
            try:
                os.setresgid(1000, 1000, 1000), os.setresuid(1000, 1000, 1000)
                os.chdir(user)
                while True:
                    exchange("d", "link")
            finally:
                os._exit(1)
        try:
            end, below_user = time.monotonic() + 3, 0
            with create_userns(MAP, MAP) as userns:
                while time.monotonic() < end:
                    mount = idmapped_mount(source, target, userns)
                    below_user += mount.target.startswith(str(user))
                    mount.unmount()
        finally:
            os.kill(pid, 9), os.waitpid(pid, 0)
        assert below_user > 100, below_user
        assert here() == ([], unharmed)
    """)


PINS = (
    HOOK
    + """
    from usernsproc import Namespace, create_userns
    with create_userns("root", "root") as mine:
        mine.enter()
    native.unshare(native.CLONE_NEWNS)
    native.must(native.libc.mount(None, b"/", None, native.MS_REC | native.MS_PRIVATE, None))
    folder = sys.argv[1]
    user, precious = folder + "/user", folder + "/precious"
    os.makedirs(user + "/d"), os.mkdir(precious)
    os.symlink(precious, user + "/link")
    path = user + "/d/pin"
    with create_userns("root", "root") as other:
        other.pin(precious + "/pinned")
    def swap():
        exchange(user + "/d", user + "/link")
    def table():
        return [line.split()[4] for line in open("/proc/self/mountinfo") if line.split()[4].startswith(folder)]
    only_precious = [precious + "/pinned"]
"""
)


@pytest.fixture
def pinning(script: Script, tmp_path: object) -> Script:
    return lambda source, *arguments: script(dedent(PINS) + dedent(source), str(tmp_path), *arguments)


@pytest.mark.parametrize("stranger", ["file", "pin", "nothing"])
def test_unpin_removes_nothing_of_another_directory(stranger: str, pinning: Script) -> None:
    """It was unpinned; the file of that name is another one by then."""
    pinning(
        """
        with create_userns("root", "root") as userns:
            userns.pin(path)
            if sys.argv[2] == "file":
                open(precious + "/pin", "w").close()
            elif sys.argv[2] == "pin":
                userns.pin(precious + "/pin")
        there, mounted = os.listdir(precious), [point for point in table() if point.startswith(precious)]
        original = _core.umount2
        def hooked(*arguments):
            original(*arguments)
            swap()
        _core.umount2 = hooked
        Namespace.unpin(path)
        swap()
        assert os.listdir(precious) == there
        assert table() == mounted
        assert os.listdir(user + "/d") == []
        """,
        stranger,
    )


@pytest.mark.parametrize("made", ["", "open(path, 'w').close()"])
def test_an_interrupted_pin_takes_its_own_back(made: str, pinning: Script) -> None:
    """The mount, and the file if it was made for it. What has the same name elsewhere stays, a pin of the same
    namespace, too."""
    pinning(
        """
        exec(sys.argv[2])
        move_mount = _core.move_mount
        with create_userns("root", "root") as userns:
            userns.pin(precious + "/pin")
            def interrupted(*arguments):
                move_mount(*arguments)
                swap()
                raise KeyboardInterrupt
            _core.move_mount = interrupted
            try:
                userns.pin(path)
            except KeyboardInterrupt as error:
                assert not hasattr(error, "__notes__"), error.__notes__
            swap()
        assert sorted(table()) == [precious + "/pin", precious + "/pinned"]
        assert os.path.exists(path) == bool(sys.argv[2])
        """,
        made,
    )


def test_a_pin_is_made_in_the_directory_that_the_path_led_to_first(pinning: Script) -> None:
    pinning("""
        before(_core, "open_tree", swap)
        with create_userns("root", "root") as userns:
            userns.pin(path)
        swap()
        assert table() == [precious + "/pinned", path]
    """)


def test_a_file_that_has_got_the_name_of_the_pins_file_stays(pinning: Script) -> None:
    """In the same directory: the one that was made for the pin was moved away."""
    pinning("""
        move_mount = _core.move_mount
        def replaced(*arguments):
            os.rename(path, path + ".moved")
            open(path, "w").close()
            raise OSError(errno.EINVAL, "injected")
        _core.move_mount = replaced
        with create_userns("root", "root") as userns:
            try:
                userns.pin(path)
            except UsernsError as error:
                assert (error.step, error.errno) == ("move_mount", errno.EINVAL)
        assert sorted(os.listdir(user + "/d")) == ["pin", "pin.moved"]
        assert table() == only_precious
    """)


def test_the_command_create_undoes_its_own_pins(pinning: Script) -> None:
    """The second one fails, when the directory of the first is another one already."""
    pinning("""
        from usernsproc.__main__ import main
        with create_userns("root", "root") as userns:
            userns.pin(precious + "/pin")
        occupied = folder + "/occupied"
        os.mkdir(occupied)
        pins = ["--pin-uts", path, "--pin", occupied]
        before(_core, "open_tree", swap, call=2)
        assert main(["create", "--map", "root", *pins]) == 125
        swap()
        assert os.listdir(user + "/d") == []
        assert sorted(table()) == [precious + "/pin", precious + "/pinned"]
    """)
