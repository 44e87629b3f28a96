"""Programs that enter a hostile mount namespace: its owner, a child process, has replaced every file of the package
and of the standard library, and the helper programs in PATH.

This module imports only those parts of the package that a program needs before it enters. `enter` must load the rest.
"""

from __future__ import annotations

import errno
import os
import pkgutil
import resource
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import native
from entering import enter_own_mounts, enter_own_userns
from errors import error_of

import usernsproc
from usernsproc import Namespace

MAP = "0:0:1"
TOOLS = ("getsubids", "newuidmap", "newgidmap")
NSSWITCH = "/etc/nsswitch.conf"


class Scene:
    """A hostile mount namespace `mnt`, and this program as root of a new user namespace, to enter it."""

    def __init__(self, folder: str) -> None:
        self.folder, self.mark, self.bin = folder, f"{folder}/mark", f"{folder}/bin"
        self.package, self.library = os.path.dirname(usernsproc.__file__), os.path.dirname(os.__file__)
        enter_own_userns()
        enter_own_mounts()
        os.mkdir(self.bin)
        os.environ["PATH"] = f"{self.bin}:{os.environ['PATH']}"

    def poison(self, directory: str) -> None:
        """Replace each module by one that leaves a mark."""
        names = {}
        for path, folders, files in os.walk(directory):
            folders[:] = [name for name in folders if name not in ("site-packages", "test", "__pycache__")]
            names[path] = (folders[:], [name for name in files if name.endswith((".py", ".so"))])
        native.must(native.libc.mount(b"tmpfs", directory.encode(), b"tmpfs", 0, None))
        for path, (folders, files) in names.items():
            for name in folders:
                os.mkdir(os.path.join(path, name))
            for name in files:
                with open(os.path.join(path, name.partition(".")[0] + ".py"), "w") as file:
                    file.write(f"open({self.mark!r}, 'a').write(__name__ + ' ')\n")

    def replace_tools(self) -> None:
        native.must(native.libc.mount(b"tmpfs", self.bin.encode(), b"tmpfs", 0, None))
        for name in TOOLS:
            with open(f"{self.bin}/{name}", "w") as file:
                file.write(f"#!/bin/sh\necho {name} >>{self.mark}\n")
            os.chmod(f"{self.bin}/{name}", 0o755)

    def replace_nsswitch(self) -> None:
        own = f"{self.folder}/nsswitch.conf"
        with open(own, "w") as file:
            file.write("subid: hostile\n")
        if os.path.exists(NSSWITCH):
            native.must(native.libc.mount(own.encode(), NSSWITCH.encode(), None, native.MS_BIND, None))

    @contextmanager
    def hostile(self) -> Iterator[None]:
        """Keep the child that owns the mount namespace alive in the block."""
        read, write = os.pipe()
        pid = os.fork()
        if pid == 0:
            try:
                native.unshare(native.CLONE_NEWNS)
                self.replace_tools()
                self.replace_nsswitch()
                self.poison(self.package)
                self.poison(self.library)
                os.write(write, b"x")
                native.libc.pause()
            finally:
                os._exit(1)
        os.close(write)
        try:
            assert os.read(read, 1) == b"x"
            os.close(read)
            with Namespace.of(pid, "mnt") as self.mnt:
                yield
        finally:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)

    def assert_nothing_ran(self) -> None:
        if os.path.exists(self.mark):
            with open(self.mark) as file:
                raise AssertionError(f"run: {file.read()}")


def forget_modules_of_the_start() -> None:
    """Forget the modules that `programs/__main__.py` and this file have loaded: the package must load what it needs."""
    for name in list(sys.modules):
        if name.partition(".")[0] in ("_json", "json", "resource", "runpy", "typing"):
            del sys.modules[name]


@contextmanager
def visiting(folder: str) -> Iterator[Scene]:
    forget_modules_of_the_start()
    scene = Scene(folder)
    with scene.hostile():
        yield scene


# ---- code that runs there ----


def the_poison(folder: str) -> None:
    with visiting(folder) as scene:
        with scene.mnt.enter():
            import this  # noqa: F401
        with open(scene.mark) as file:
            assert "this" in file.read()


async def asynchronous_command() -> None:
    from usernsproc import aio

    process = await aio.create_subprocess_exec("/bin/true", uid_map=MAP, stdout=-1)
    await process.communicate()


def run_asynchronous_command(_scene: Scene) -> None:
    import asyncio  # loaded before

    asyncio.run(asynchronous_command())


CALLS: dict[str, Callable[[Scene], object]] = {
    "idmapped_mount": lambda scene: usernsproc.idmapped_mount("/", scene.folder, (MAP, MAP)),
    "open_idmapped": lambda _: usernsproc.open_idmapped("/", (MAP, MAP)),
    "supports_idmap": lambda _: usernsproc.supports_idmap("/"),
    "run": lambda _: usernsproc.run(["/bin/true"], uid_map=MAP, text=True, capture_output=True, encoding="cp1252"),
    "check_output that fails": lambda _: usernsproc.check_output(["/bin/false"], uid_map=MAP),
    "holder": lambda _: usernsproc.UsernsProcess(uid_map=MAP).close(),
    "preexec_fn": lambda _: usernsproc.UsernsProcess(uid_map=MAP, preexec_fn=print),  # type: ignore[call-overload]
    "bufsize": lambda _: usernsproc.UsernsProcess(uid_map=MAP, bufsize=1),
    "names of users": lambda _: usernsproc.run(["/bin/true"], user="nobody", group="nogroup"),
    "create_userns": lambda _: usernsproc.create_userns(MAP, MAP).close(),
    "create_userns with a tool": lambda _: usernsproc.create_userns("rootless", "rootless"),
    "create_userns, dropped: a ResourceWarning is shown": lambda _: usernsproc.create_userns(MAP, MAP),
    "subids": lambda _: usernsproc.subids(),
    "diagnose": lambda _: usernsproc.diagnose(),
    "a map that is none": lambda _: usernsproc.IdMap.parse("nonsense"),
    "compose": lambda _: usernsproc.IdMap.parse(MAP).compose(usernsproc.IdMap.parse(MAP)),
    "list": lambda _: Namespace.list(),
    "pin": lambda scene: scene.mnt.pin(f"{scene.folder}/pin"),
    "owner": lambda scene: scene.mnt.owner().close(),
    "owner_uid": lambda scene: scene.mnt.owner_uid,
    "lowlevel.setns": lambda _: usernsproc.lowlevel.setns(-1),
    "asyncio": run_asynchronous_command,
    "every name": lambda _: [getattr(usernsproc, name) for name in dir(usernsproc)],
}


def no_foreign_code(folder: str, call: str) -> None:
    with visiting(folder) as scene:
        if call == "asyncio":
            import asyncio  # noqa: F401
        with scene.mnt.enter():
            before = set(sys.modules)
            try:
                CALLS[call](scene)
            except Exception as error:
                print(repr(error), getattr(error, "__notes__", ""))
            loaded = set(sys.modules) - before
            assert not loaded, loaded
        scene.assert_nothing_ran()


def a_thin_setns(folder: str) -> None:
    with visiting(folder) as scene:
        usernsproc.lowlevel.setns(scene.mnt.fileno(), 0)
        before = set(sys.modules)
        usernsproc.supports_idmap("/")
        Namespace.list()
        assert set(sys.modules) == before
        scene.assert_nothing_ran()


def other_kinds() -> None:
    enter_own_userns()
    with usernsproc.UsernsProcess(uid_map="root", namespaces=["net"]) as holder, holder.namespace("net") as net:
        net.enter()
    assert not {"usernsproc._preload", "usernsproc._cli", "usernsproc.aio"} & set(sys.modules)


# ---- programs and files that the caller does not name ----


def a_tool_that_is_there(folder: str, tool: str) -> None:
    from usernsproc._helper import find_tool

    with visiting(folder) as scene:
        outside = find_tool(tool)
        with scene.mnt.enter():
            error = error_of(find_tool, tool)
            assert (error.errno, error.step, error.cause) == (1, "prepare", "other-mount-namespace"), error
            assert error.filename == tool
        assert find_tool(tool) == outside
        scene.assert_nothing_ran()


def nsswitch_that_is_there(folder: str) -> None:

    with visiting(folder) as scene:
        if os.path.exists(NSSWITCH):
            with scene.mnt.enter():
                with open(NSSWITCH) as file:
                    assert file.read() == "subid: hostile\n"
                error = error_of(usernsproc.subids, "root")
                assert (error.step, error.cause) == ("prepare", "other-mount-namespace"), error
        scene.assert_nothing_ran()


def from_there_into_another(folder: str) -> None:
    from usernsproc._helper import find_tool

    with visiting(folder) as scene:
        second = os.fork()
        if second == 0:
            try:
                native.unshare(native.CLONE_NEWNS)
                native.libc.pause()
            finally:
                os._exit(0)
        try:
            while os.stat(f"/proc/{second}/ns/mnt").st_ino == os.stat("/proc/self/ns/mnt").st_ino:
                pass
            with Namespace.of(second, "mnt") as other, scene.mnt.enter():
                with other.enter():
                    pass
                error_of(find_tool, "newuidmap")
        finally:
            os.kill(second, signal.SIGKILL)
            os.waitpid(second, 0)


# ---- modules that cannot be loaded ----


def a_module_that_is_missing() -> None:
    from usernsproc import UsernsProcess

    enter_own_userns()
    native.unshare(native.CLONE_NEWNS)
    with UsernsProcess(uid_map="root", namespaces=["mnt"]) as holder, holder.namespace("mnt") as mnt:
        from usernsproc import _preload  # noqa: F401

        before = os.readlink("/proc/thread-self/ns/mnt")
        sys.modules["usernsproc._mounts.support"] = None  # type: ignore[assignment]
        error = error_of(mnt.enter)
        assert (error.errno, error.step, error.cause) == (errno.ENOENT, "prepare", "modules-missing"), error
        assert "_mounts.support" in error.__notes__[0]
        assert os.readlink("/proc/thread-self/ns/mnt") == before
        del sys.modules["usernsproc._mounts.support"]
        with mnt.enter():
            pass


def modules_that_cannot_be_read(what: str) -> None:
    from usernsproc import UsernsError, UsernsProcess

    enter_own_userns()
    native.unshare(native.CLONE_NEWNS)
    with UsernsProcess(uid_map="root", namespaces=["mnt"]) as holder, holder.namespace("mnt") as mnt:
        from usernsproc import _preload  # noqa: F401

        limits, walk = resource.getrlimit(resource.RLIMIT_NOFILE), pkgutil.iter_modules

        def unreadable(path: Any = None, prefix: str = "") -> Iterator[pkgutil.ModuleInfo]:
            raise OSError(errno.EIO, f"Input/output error{prefix}", path[0])

        if what == "no descriptor is left":
            resource.setrlimit(resource.RLIMIT_NOFILE, (0, limits[1]))
            expected = ("prepare", errno.EMFILE, "open-files-limit")
        else:
            pkgutil.iter_modules = unreadable
            expected = ("prepare", errno.EIO, "modules-missing")
        try:
            mnt.enter()
        except UsernsError as error:
            found = error.step, error.errno, error.cause
        else:
            raise AssertionError("it was entered")
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, limits)
            pkgutil.iter_modules = walk
        assert found == expected, found
        with mnt.enter():
            pass
