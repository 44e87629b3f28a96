"""What an exception of a signal handler leaves, wherever it comes: nothing."""

from __future__ import annotations

from collections.abc import Callable
from textwrap import dedent

import pytest

Script = Callable[..., str]

MOUNTING = """
    import sys, warnings
    from leaks import state
    from interruptions import interruptions
    from mounting import *
    from usernsproc import create_userns, idmapped_mount, open_idmapped
    warnings.simplefilter("ignore")  # of what an exception has lost and the interpreter closes
    work = own_mount_namespace()
    source, target = make_file_system("tmpfs", work), work / "target"
    target.mkdir()
    for directory in (source / "a", source / "a" / "b"):
        directory.mkdir()
        run("mount", "-t", "tmpfs", "tmpfs", directory)
    recursive, propagation = sys.argv[1] == "recursive", sys.argv[2]
    run("mount", f"--make-{propagation}", work)
    userns = create_userns(MAP, MAP)

    def mount():
        return idmapped_mount(source, target, userns, recursive=recursive, propagation=propagation)
"""

each_mount = pytest.mark.parametrize("tree", ["single", "recursive"])
each_propagation = pytest.mark.parametrize("propagation", ["private", "shared"])


@pytest.mark.root
@each_mount
@each_propagation
def test_of_a_mount_that_is_made(tree: str, propagation: str, script: Script) -> None:
    script(
        dedent(MOUNTING)
        + dedent("""
        before, points = state(), 0
        for where, error in interruptions(mount, lambda mount: mount.unmount()):
            assert state() == before, where
            points += 1
        assert points > (300 if recursive else 50), points
        for where, error in interruptions(lambda: open_idmapped(source, userns), lambda mount: mount.close()):
            assert state() == before, where
    """),
        tree,
        propagation,
    )


@pytest.mark.root
@each_mount
@each_propagation
def test_of_a_mount_that_is_taken_away(tree: str, propagation: str, script: Script) -> None:
    """All of it, or nothing."""
    script(
        dedent(MOUNTING)
        + dedent("""
        mounts, points = [mount()], 0
        whole, descriptors = sorted(mounts_below(target)), state()["descriptors"]
        def undo(_):
            if not mounts_below(target):
                mounts[:] = [mount()]
        for where, error in interruptions(lambda: mounts[0].unmount(), undo):
            assert sorted(mounts_below(target)) in (whole, []), where
            assert state()["descriptors"] == descriptors, where
            undo(None)
            points += 1
        assert points > (400 if recursive else 12), points
        mounts[0].unmount()
        assert mounts_below(target) == []
    """),
        tree,
        propagation,
    )


OWN_NAMESPACES = """
import os, sys, warnings
import native
from leaks import state
from interruptions import interruptions
from usernsproc import *
from usernsproc import _core
warnings.simplefilter("ignore")  # of what an exception has lost and the interpreter closes
with create_userns("root", "root") as mine:
    mine.enter()
native.unshare(native.CLONE_NEWNET | native.CLONE_NEWNS)
native.must(native.libc.mount(None, b"/", None, native.MS_REC | native.MS_PRIVATE, None))
folder = sys.argv[1]
path = os.path.join(folder, "pin")
"""


@pytest.fixture
def inside(script: Script, tmp_path: object) -> Callable[[str], str]:
    """Run a program as root of a user namespace of its own, in a mount namespace of its own, with an empty folder."""
    folder = tmp_path / "folder"  # type: ignore[operator]
    folder.mkdir()
    return lambda source: script(OWN_NAMESPACES + dedent(source), str(folder))


Inside = Callable[[str], str]


def test_of_a_pin(inside: Inside) -> None:
    inside("""
        with create_userns("root", "root") as userns:
            before, points = state(), 0
            for prepare in (lambda: None, lambda: open(path, "w").close()):
                prepare()
                there = os.listdir(folder)
                def undo(_):
                    Namespace.unpin(path)
                    prepare()
                for where, error in interruptions(lambda: userns.pin(path), undo):
                    assert (state(), os.listdir(folder)) == (before, there), where
                    points += 1
            assert points > 40, points
    """)


def test_of_a_namespace_that_is_opened(inside: Inside) -> None:
    inside("""
        with UsernsProcess(uid_map="root", namespaces=["net"]) as holder, holder.namespace("net") as net:
            descriptors = state()["descriptors"]
            for call in (
                lambda: Namespace.of(holder),
                lambda: Namespace.of(holder.pid),
                lambda: Namespace.open("/proc/self/ns/user"),
                lambda: Namespace.current("net"),
                lambda: create_userns("root", "root"),
                lambda: Namespace.owner(net),
            ):
                for where, error in interruptions(call, lambda namespace: namespace.close()):
                    assert state()["descriptors"] == descriptors, where
    """)


def test_of_namespaces_that_are_looked_up_to_be_joined(inside: Inside) -> None:
    """All those of a process."""
    inside("""
        from usernsproc._namespaces.join import open_joins
        with UsernsProcess(uid_map="root", namespaces=["net"]) as holder:
            before, points = state(), 0
            def look():
                with open_joins(holder):
                    pass
            for where, error in interruptions(look, lambda _: None):
                assert state() == before, where
                points += 1
            assert points > 300, points
    """)


@pytest.mark.parametrize("exception", ["Interruption", "TimeIsUp"])
def test_of_a_thread_that_enters_and_comes_back(exception: str, inside: Inside) -> None:
    """It is where it was. But for the very beginning of `__enter__` and of `__exit__`: there an
    exception comes too early for any context manager that is written in Python."""
    inside(
        f"from interruptions import {exception} as Exceptional\n"
        + dedent("""
        with UsernsProcess(uid_map="root", namespaces=["net", "mnt"]) as holder:
            for kind in ("net", "mnt"):
                with holder.namespace(kind) as namespace, Namespace.current(kind) as own:
                    def visit():
                        with namespace.enter():
                            pass
                    link = f"/proc/thread-self/ns/{kind}"
                    before, descriptors, cwd = os.readlink(link), state()["descriptors"], os.getcwd()
                    points = 0
                    for where, error in interruptions(namespace.enter, lambda entered: entered.leave(), Exceptional):
                        assert (os.readlink(link), state()["descriptors"]) == (before, descriptors), where
                        assert os.getcwd() == cwd
                    for where, error in interruptions(visit, lambda _: None, Exceptional):
                        if where in ("enter.py __enter__", "enter.py __exit__"):
                            _core.setns(own.fileno(), 0)
                            os.chdir(cwd)
                        assert (os.readlink(link), state()["descriptors"]) == (before, descriptors), where
                        assert os.getcwd() == cwd
                        points += 1
                    assert points > 20, points
    """)
    )


FAILING = """
    def fail(*args, **options):
        raise OSError(errno.EPERM, "injected")
    def then(call):
        def interrupted(*args):
            call(*args)
            raise KeyboardInterrupt
        return interrupted
    def notes_of(call, *args):
        try:
            call(*args)
        except KeyboardInterrupt as error:
            return error.__notes__
        raise AssertionError("it was not interrupted")
"""


def test_a_pin_that_cannot_be_undone_is_told(inside: Inside) -> None:
    """It, or the file that was made for it."""
    inside(
        dedent("import errno")
        + dedent(FAILING)
        + dedent("""
        move_mount, umount2, unlink = _core.move_mount, _core.umount2, os.unlink
        with create_userns("root", "root") as userns:
            _core.move_mount, _core.umount2 = then(move_mount), fail
            assert notes_of(userns.pin, path) == [f"The pin at {path} stays, as it could not be removed: injected."]
            assert os.stat(path).st_ino == userns.inode
            _core.umount2 = umount2
            Namespace.unpin(path)
            os.unlink = fail
            assert notes_of(userns.pin, path) == [f"The file at {path} stays, as it could not be removed: injected."]
            assert os.path.getsize(path) == 0
            _core.move_mount = then(lambda *args: unlink(path))
            os.unlink = unlink
            try:
                userns.pin(path)
            except KeyboardInterrupt as error:
                assert not hasattr(error, "__notes__"), error.__notes__
            assert os.listdir(folder) == []
    """)
    )


def test_an_entering_that_cannot_be_undone_is_told(inside: Inside) -> None:
    inside(
        dedent("import errno")
        + dedent(FAILING)
        + dedent("""
        setns = _core.setns
        def interrupted(*args):
            setns(*args)
            _core.setns = fail
            raise KeyboardInterrupt
        with UsernsProcess(uid_map="root", namespaces=["net"]) as holder, holder.namespace("net") as net:
            _core.setns = interrupted
            [note] = notes_of(net.enter)
            assert "may be in the net namespace now" in note, note
    """)
    )


@pytest.mark.root
def test_a_mount_that_cannot_be_undone_is_told(script: Script) -> None:
    script(
        dedent(MOUNTING)
        + "import errno\nfrom usernsproc import _core\n"
        + dedent(FAILING)
        + dedent("""
        umount2 = _core.umount2
        _core.move_mount, _core.umount2 = then(_core.move_mount), fail
        assert notes_of(mount) == [f"It may still be mounted at {target}: injected."]
        assert len(mounts_below(target)) == 1
    """),
        "single",
        "private",
    )
