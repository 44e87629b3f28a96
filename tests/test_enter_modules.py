"""A thread in another mount namespace runs no code that is there: all modules are loaded before it enters.

In there, the files of the package, of Python's own modules and of programs are those of its owner. The test
replaces every one of them by a file that leaves a mark.
"""

from __future__ import annotations

import textwrap
from collections.abc import Callable

import pytest

Script = Callable[..., str]

# The owner of the hostile mount namespace is a child process. Everything in the package, everything of the standard
# library and every program in PATH is its code.
START = """
import codecs, encodings, os, subprocess, sys
import native
import usernsproc
from usernsproc import Namespace, create_userns
folder = sys.argv[1]
with create_userns("root", "root") as mine:
    mine.enter()
native.unshare(native.CLONE_NEWNS)
native.must(native.libc.mount(None, b"/", None, native.MS_REC | native.MS_PRIVATE, None))
package, library = os.path.dirname(usernsproc.__file__), os.path.dirname(os.__file__)
bin = folder + "/bin"
os.mkdir(bin)
os.environ["PATH"] = bin + ":" + os.environ["PATH"]
mark = folder + "/mark"
MAP = "0:0:1"

def poison(directory):
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
                file.write(f"open({mark!r}, 'a').write(__name__ + ' ')\\n")

def hostile():
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            native.unshare(native.CLONE_NEWNS)
            native.must(native.libc.mount(b"tmpfs", bin.encode(), b"tmpfs", 0, None))
            for name in ("getsubids", "newuidmap", "newgidmap"):
                with open(f"{bin}/{name}", "w") as file:
                    file.write(f"#!/bin/sh\\necho {name} >>{mark}\\n")
                os.chmod(f"{bin}/{name}", 0o755)
            with open(folder + "/nsswitch.conf", "w") as file:
                file.write("subid: hostile\\n")
            if os.path.exists("/etc/nsswitch.conf"):
                hostile_file = (folder + "/nsswitch.conf").encode()
                native.must(native.libc.mount(hostile_file, b"/etc/nsswitch.conf", None, 4096, None))
            poison(package)
            poison(library)
            os.write(write, b"x")
            native.libc.pause()
        finally:
            os._exit(1)
    os.close(write)
    assert os.read(read, 1) == b"x"
    os.close(read)
    return pid

pid = hostile()
import atexit, signal
atexit.register(lambda: (os.kill(pid, signal.SIGKILL), os.waitpid(pid, 0)))
mnt = Namespace.of(pid, "mnt")
atexit.register(mnt.close)

def nothing_ran():
    if os.path.exists(mark):
        raise AssertionError("run: " + open(mark).read())
"""


@pytest.fixture
def visiting(script: Script, tmp_path: object) -> Callable[[str], str]:
    """Run a program that has a hostile mount namespace `mnt` to enter, as root of a user namespace of its own."""
    return lambda source: script(START + textwrap.dedent(source), str(tmp_path))


Visiting = Callable[[str], str]


def test_the_poison_works(visiting: Visiting) -> None:
    """What is not loaded before, and is not of this package, runs: this is why the documentation warns."""
    visiting("""
        with mnt.enter():
            import this
        assert "this" in open(mark).read()
    """)


@pytest.mark.parametrize(
    "call",
    [
        "usernsproc.idmapped_mount('/', folder, (MAP, MAP))",
        "usernsproc.open_idmapped('/', (MAP, MAP))",
        "usernsproc.supports_idmap('/')",
        "usernsproc.run(['/bin/true'], uid_map=MAP, text=True, capture_output=True, encoding='cp1252')",
        "usernsproc.check_output(['/bin/false'], uid_map=MAP)",
        "usernsproc.UsernsProcess(uid_map=MAP).close()",
        "usernsproc.UsernsProcess(uid_map=MAP, preexec_fn=print)",
        "usernsproc.UsernsProcess(uid_map=MAP, bufsize=1)",
        "usernsproc.run(['/bin/true'], user='nobody', group='nogroup')",
        "usernsproc.create_userns(MAP, MAP).close()",
        "usernsproc.create_userns('rootless', 'rootless')",
        "usernsproc.create_userns(MAP, MAP)  # dropped: a ResourceWarning is shown",
        "usernsproc.subids()",
        "usernsproc.diagnose()",
        "usernsproc.IdMap.parse('nonsense')",
        "usernsproc.IdMap.parse('0:0:1').compose(usernsproc.IdMap.parse('0:0:1'))",
        "Namespace.list()",
        "mnt.pin(folder + '/pin')",
        "mnt.owner().close()",
        "mnt.owner_uid",
        "usernsproc.lowlevel.setns(-1)",
        "asyncio.run(command())",
        "[getattr(usernsproc, name) for name in dir(usernsproc)]",
    ],
)
def test_no_call_runs_code_of_the_mount_namespace(call: str, visiting: Visiting) -> None:
    """The first call of the program, as well as its error, and what is shown of that."""
    asynchronous = """
import asyncio, warnings
async def command():
    from usernsproc import aio
    process = await aio.create_subprocess_exec("/bin/true", uid_map=MAP, stdout=-1)
    await process.communicate()
""" if "asyncio" in call else ""  # fmt: skip
    visiting(f"""
{textwrap.indent(asynchronous, " " * 8)}
        with mnt.enter():
            before = set(sys.modules)
            try:
                {call}
            except Exception as error:
                print(repr(error), getattr(error, "__notes__", ""))
            loaded = set(sys.modules) - before
            assert not loaded, loaded
        nothing_ran()
    """)


def test_a_thin_setns_loads_everything_too(visiting: Visiting) -> None:
    visiting("""
        usernsproc.lowlevel.setns(mnt.fileno(), 0)
        before = set(sys.modules)
        usernsproc.supports_idmap("/")
        Namespace.list()
        assert set(sys.modules) == before
        nothing_ran()
    """)


def test_other_kinds_load_nothing(script: Script) -> None:
    """A program that enters network namespaces does not pay for it."""
    script("""
        import sys
        from usernsproc import Namespace, UsernsProcess, create_userns
        with create_userns("root", "root") as mine:
            mine.enter()
        with UsernsProcess(uid_map="root", namespaces=["net"]) as holder, holder.namespace("net") as net:
            net.enter()
        assert not {"usernsproc._loading", "usernsproc._cli", "usernsproc.aio"} & set(sys.modules)
    """)


@pytest.mark.parametrize("tool", ["getsubids", "newuidmap"])
def test_a_program_of_the_mount_namespace_is_refused(tool: str, visiting: Visiting) -> None:
    """`getsubids` and `newuidmap` are not named by the caller. Afterwards they are found as before."""
    visiting(f"""
        from usernsproc import UsernsError
        from usernsproc._helper import find_tool
        outside = find_tool("{tool}")
        with mnt.enter():
            try:
                find_tool("{tool}")
            except UsernsError as error:
                assert (error.errno, error.step, error.cause) == (1, "prepare", "other-mount-namespace"), error
                assert error.filename == "{tool}"
            else:
                raise AssertionError("it was found")
        assert find_tool("{tool}") == outside
        nothing_ran()
    """)


def test_a_source_of_subordinate_ids_that_the_mount_namespace_names(visiting: Visiting) -> None:
    """Its `nsswitch.conf` cannot have a program or a library of its own run."""
    visiting("""
        from usernsproc import UsernsError
        if os.path.exists("/etc/nsswitch.conf"):
            with mnt.enter():
                assert open("/etc/nsswitch.conf").read() == "subid: hostile\\n"
                try:
                    usernsproc.subids("root")
                except UsernsError as error:
                    assert (error.step, error.cause) == ("prepare", "other-mount-namespace"), error
                else:
                    raise AssertionError("it was asked")
        nothing_ran()
    """)


def test_from_there_into_another_is_still_elsewhere(visiting: Visiting) -> None:
    """A mount namespace that was entered is not where the program comes from."""
    visiting("""
        from usernsproc import UsernsError
        from usernsproc._helper import find_tool
        second = os.fork()
        if second == 0:
            native.unshare(native.CLONE_NEWNS)
            native.libc.pause()
            os._exit(0)
        atexit.register(lambda: (os.kill(second, signal.SIGKILL), os.waitpid(second, 0)))
        while os.stat(f"/proc/{second}/ns/mnt").st_ino == os.stat("/proc/self/ns/mnt").st_ino:
            pass
        with Namespace.of(second, "mnt") as other, mnt.enter():
            with other.enter():
                pass
            try:
                find_tool("newuidmap")
            except UsernsError:
                pass
            else:
                raise AssertionError("it was found")
    """)


def test_what_cannot_be_loaded_is_a_refusal(script: Script) -> None:
    """The thread stays where it is: later it would load the file that is there."""
    script("""
        import os, sys
        import native
        from usernsproc import Namespace, UsernsError, UsernsProcess, create_userns
        with create_userns("root", "root") as mine:
            mine.enter()
        native.unshare(native.CLONE_NEWNS)
        with UsernsProcess(uid_map="root", namespaces=["mnt"]) as holder, holder.namespace("mnt") as mnt:
            from usernsproc import _loading
            before = os.readlink("/proc/thread-self/ns/mnt")
            sys.modules["usernsproc._mounts.support"] = None
            try:
                mnt.enter()
            except UsernsError as error:
                assert (error.errno, error.step, error.cause) == (2, "prepare", "modules-missing"), error
                assert "_mounts.support" in error.__notes__[0]
            else:
                raise AssertionError("it was entered")
            assert os.readlink("/proc/thread-self/ns/mnt") == before
            del sys.modules["usernsproc._mounts.support"]
            with mnt.enter():
                pass
    """)


@pytest.mark.parametrize("what", ["no descriptor is left", "the file is unreadable"])
def test_what_cannot_be_read_is_a_refusal_with_its_errno(what: str, script: Script) -> None:
    """When the fault is gone, the thread can enter."""
    script(
        """
        import errno, os, pkgutil, resource, sys
        import native
        from usernsproc import Namespace, UsernsError, UsernsProcess, create_userns
        with create_userns("root", "root") as mine:
            mine.enter()
        native.unshare(native.CLONE_NEWNS)
        with UsernsProcess(uid_map="root", namespaces=["mnt"]) as holder, holder.namespace("mnt") as mnt:
            from usernsproc import _loading
            limits, walk = resource.getrlimit(resource.RLIMIT_NOFILE), pkgutil.iter_modules
            def unreadable(path):
                raise OSError(errno.EIO, "Input/output error", path[0])
            if sys.argv[1] == "no descriptor is left":
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
        """,
        what,
    )
