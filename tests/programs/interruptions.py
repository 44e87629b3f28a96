"""Calls of the library that an exception of a signal handler interrupts, at each point in turn."""

from __future__ import annotations

import errno
import os
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple, NoReturn
from unittest.mock import patch

import native
from entering import enter_own_userns
from interruptions import Interruption, Refused, TimeIsUp, interruptions
from leaks import state
from mounting import MAP, mounts_below, own_file_system, run

from usernsproc import (
    Mount,
    Namespace,
    UsernsProcess,
    _system_calls,
    create_userns,
    idmapped_mount,
    lowlevel,
    open_idmapped,
)
from usernsproc._helper import run_tool
from usernsproc._namespaces.join import open_joins

EXCEPTIONS: dict[str, type[BaseException]] = {kind.__name__: kind for kind in (Interruption, TimeIsUp, Refused)}


def silence_warnings() -> None:
    """Ignore warnings about objects that were lost by an exception and are closed by the interpreter."""
    warnings.simplefilter("ignore")


class Tree(NamedTuple):
    """A source with submounts, and where it is to be mounted."""

    source: Path
    target: Path
    userns: Namespace
    recursive: bool
    propagation: str

    def mount(self) -> Mount:
        return idmapped_mount(
            self.source, self.target, self.userns, recursive=self.recursive, propagation=self.propagation
        )


def own_tree(recursive: bool, propagation: str) -> Tree:
    silence_warnings()
    work, source, target = own_file_system("tmpfs")
    for directory in (source / "a", source / "a" / "b"):
        directory.mkdir()
        run("mount", "-t", "tmpfs", "tmpfs", directory)
    run("mount", f"--make-{propagation}", work)
    return Tree(source, target, create_userns(MAP, MAP), recursive, propagation)


def a_mount_is_made(recursive: bool, propagation: str) -> None:
    tree = own_tree(recursive, propagation)
    before, points = state(), 0
    for where, _ in interruptions(tree.mount, Mount.unmount):
        assert state() == before, where
        points += 1
    assert points > (300 if recursive else 50), points
    for where, _ in interruptions(lambda: open_idmapped(tree.source, tree.userns), lambda mount: mount.close()):
        assert state() == before, where


def a_mount_is_taken_away(recursive: bool, propagation: str) -> None:
    tree = own_tree(recursive, propagation)
    mounts, points = [tree.mount()], 0
    whole, descriptors = sorted(mounts_below(tree.target)), state()["descriptors"]

    def undo(_: object) -> None:
        if not mounts_below(tree.target):
            mounts[:] = [tree.mount()]

    for where, _ in interruptions(lambda: mounts[0].unmount(), undo):
        assert sorted(mounts_below(tree.target)) in (whole, []), where
        assert state()["descriptors"] == descriptors, where
        undo(None)
        points += 1
    assert points > (400 if recursive else 12), points
    mounts[0].unmount()
    assert mounts_below(tree.target) == []


def enter_own_namespaces() -> None:
    """As root of a user namespace, a network and a mount namespace."""
    silence_warnings()
    enter_own_userns()
    native.unshare(native.CLONE_NEWNET | native.CLONE_NEWNS)
    native.must(native.libc.mount(None, b"/", None, native.MS_REC | native.MS_PRIVATE, None))


def a_pin_is_made(folder: str) -> None:
    enter_own_namespaces()
    path = os.path.join(folder, "pin")

    def undo(prepare: Callable[[], object], _: object) -> None:
        Namespace.unpin(path)
        prepare()

    preparations: tuple[Callable[[], object], ...] = (lambda: None, Path(path).touch)
    with create_userns("root", "root") as userns:
        before, points = state(), 0
        for prepare in preparations:
            prepare()
            there = os.listdir(folder)
            for where, _ in interruptions(lambda: userns.pin(path), partial(undo, prepare)):
                assert (state(), os.listdir(folder)) == (before, there), where
                points += 1
        assert points > 40, points


def a_namespace_is_opened() -> None:
    enter_own_namespaces()
    with UsernsProcess(uid_map="root", namespaces=["net"]) as holder, holder.namespace("net") as net:
        descriptors = state()["descriptors"]
        calls: tuple[Callable[[], Namespace], ...] = (
            lambda: Namespace.of(holder),
            lambda: Namespace.of(holder.pid),
            lambda: Namespace.open("/proc/self/ns/user"),
            lambda: Namespace.current("net"),
            lambda: create_userns("root", "root"),
            lambda: Namespace.owner(net),
        )
        for call in calls:
            for where, _ in interruptions(call, Namespace.close):
                assert state()["descriptors"] == descriptors, where


def namespaces_are_looked_up_to_be_joined() -> None:
    """Look up all namespaces of a process."""
    enter_own_namespaces()
    with UsernsProcess(uid_map="root", namespaces=["net"]) as holder:
        before, points = state(), 0

        def look() -> None:
            with open_joins(holder):
                pass

        for where, _ in interruptions(look, lambda _: None):
            assert state() == before, where
            points += 1
        assert points > 300, points


def a_program_is_run(path: str) -> None:
    silence_warnings()
    before, points = state(), 0
    for where, _ in interruptions(lambda: run_tool(path), lambda _: None):
        assert state() == before, where
        points += 1
    assert points > 30, points


def a_thread_enters_and_comes_back(exception: str) -> None:
    enter_own_namespaces()
    kind_of_exception = EXCEPTIONS[exception]

    def visit(namespace: Namespace) -> None:
        with namespace.enter():
            pass

    with UsernsProcess(uid_map="root", namespaces=["net", "mnt"]) as holder:
        for kind in ("net", "mnt"):
            with holder.namespace(kind) as namespace, Namespace.current(kind) as own:
                link = f"/proc/thread-self/ns/{kind}"
                before, descriptors, cwd = os.readlink(link), state()["descriptors"], os.getcwd()
                points = 0
                for where, error in interruptions(namespace.enter, lambda entered: entered.leave(), kind_of_exception):
                    assert type(error) is kind_of_exception, (where, error)
                    assert (os.readlink(link), state()["descriptors"]) == (before, descriptors), where
                    assert os.getcwd() == cwd
                for where, error in interruptions(partial(visit, namespace), lambda _: None, kind_of_exception):
                    assert type(error) is kind_of_exception, (where, error)
                    if where in ("enter.py __enter__", "enter.py __exit__"):
                        lowlevel.setns(own.fileno())
                        os.chdir(cwd)
                    assert (os.readlink(link), state()["descriptors"]) == (before, descriptors), where
                    assert os.getcwd() == cwd
                    points += 1
                assert points > 20, points


# ---- failures that cannot be undone ----


def fail(*_: object, **__: object) -> NoReturn:
    raise OSError(errno.EPERM, "injected")


def then_interrupt(call: Callable[..., object]) -> Callable[..., NoReturn]:
    def interrupted(*args: object) -> NoReturn:
        call(*args)
        raise KeyboardInterrupt

    return interrupted


def notes_of(call: Callable[..., object], *args: object) -> list[str]:
    try:
        call(*args)
    except KeyboardInterrupt as error:
        return error.__notes__
    raise AssertionError("it was not interrupted")


def a_pin_cannot_be_undone(folder: str) -> None:
    enter_own_namespaces()
    path = os.path.join(folder, "pin")
    with create_userns("root", "root") as userns:
        with patch.object(_system_calls, "move_mount", then_interrupt(_system_calls.move_mount)):
            with patch.object(_system_calls, "umount2", fail):
                assert notes_of(userns.pin, path) == [f"The pin at {path} stays, as it could not be removed: injected."]
            assert os.stat(path).st_ino == userns.inode
            Namespace.unpin(path)
            with patch.object(os, "unlink", fail):
                assert notes_of(userns.pin, path) == [
                    f"The file at {path} stays, as it could not be removed: injected."
                ]
            assert os.path.getsize(path) == 0
        with patch.object(_system_calls, "move_mount", then_interrupt(lambda *_: os.unlink(path))):
            try:
                userns.pin(path)
            except KeyboardInterrupt as error:
                assert not hasattr(error, "__notes__"), error.__notes__
        assert os.listdir(folder) == []


def an_entering_cannot_be_undone() -> None:
    enter_own_namespaces()
    setns = _system_calls.setns
    calls = 0

    def interrupted(fd: int, nstype: int) -> None:
        nonlocal calls
        calls += 1
        if calls > 1:
            fail()
        setns(fd, nstype)
        raise KeyboardInterrupt

    with UsernsProcess(uid_map="root", namespaces=["net"]) as holder, holder.namespace("net") as net:
        with patch.object(_system_calls, "setns", interrupted):
            [note] = notes_of(net.enter)
        assert "may be in the net namespace now" in note, note


def a_mount_cannot_be_undone() -> None:
    tree = own_tree(recursive=False, propagation="private")
    with (
        patch.object(_system_calls, "move_mount", then_interrupt(_system_calls.move_mount)),
        patch.object(_system_calls, "umount2", fail),
    ):
        assert notes_of(tree.mount) == [f"It may still be mounted at {tree.target}: injected."]
    assert len(mounts_below(tree.target)) == 1
