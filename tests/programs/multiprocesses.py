"""The programs of `test_multiprocessing.py`. multiprocessing keeps a resource tracker, so they run alone."""

from __future__ import annotations

import gc
import multiprocessing
import multiprocessing.connection
import os
import pickle
import signal
import subprocess
import sys
import tempfile
import threading
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import resource_tracker
from multiprocessing.shared_memory import SharedMemory
from typing import Any

from alone import command, environment
from leaks import assert_unchanged, children, state
from programs import inside

from usernsproc import UsernsError, UsernsProcess
from usernsproc.multiprocessing import get_context
from usernsproc.setup import Hostname

OWN = (os.geteuid(), os.readlink("/proc/self/ns/user"))
ROUNDS = 200


def run(context: Any, function: Any, *arguments: Any) -> int:
    process = context.Process(target=function, args=arguments)
    process.start()
    process.join()
    code: int = process.exitcode
    process.close()
    return code


def answer(context: Any, function: Any, *arguments: Any) -> Any:
    """What the function sends into the pipe that is its first argument."""
    receive, send = context.Pipe(duplex=False)
    process = context.Process(target=function, args=(send, *arguments))
    process.start()
    send.close()
    found = receive.recv()
    process.join()
    assert process.exitcode == 0
    return found


# ---- what multiprocessing has ----


def everything(method: str) -> None:
    """The same program as with any other context."""
    context = get_context(method, uid_map="root")
    assert context.get_start_method() == method
    seen = {answer(context, inside.send_identity) for _ in range(2)}
    queue = context.Queue()
    for number in range(2):
        assert run(context, inside.put, queue, number) == 0
        identity, value = queue.get()
        assert value == number
        seen.add(identity)
    queue.close()
    queue.join_thread()
    with context.Pool(2) as pool:
        seen.update(pool.map(inside.identity, range(8)))
    with ProcessPoolExecutor(2, mp_context=context) as executor:
        seen.update(executor.map(inside.identity, range(8)))
        failing = executor.submit(inside.raise_error)
        assert isinstance(failing.exception(), LookupError)
    assert OWN not in seen
    assert {uid for uid, _ in seen} == {0}
    assert (len(seen) == 1) is (method == "forkserver")
    synchronized_and_shared(context)


def synchronized_and_shared(context: Any) -> None:
    lock, value = context.Lock(), context.Value("i", lock=False)
    counting = [context.Process(target=inside.count, args=(lock, value, ROUNDS)) for _ in range(3)]
    for process in counting:
        process.start()
    for process in counting:
        process.join()
    assert value.value == 3 * ROUNDS
    memory = SharedMemory(create=True, size=16)
    assert run(context, inside.write_shared, memory.name) == 0
    assert memory.buf is not None
    assert bytes(memory.buf[:5]) == b"hello"
    memory.close()
    memory.unlink()
    with context.Manager() as manager:
        shared = manager.list([1])
        shared.append(2)
        assert list(shared) == [1, 2]


def ends(method: str) -> None:
    """Exit codes, signals, and what a wait for the sentinel shows."""
    context = get_context(method, uid_map="root")
    assert run(context, inside.exit_with, 7) == 7
    assert run(context, inside.kill_itself) == -signal.SIGKILL
    for end, code in (("terminate", -signal.SIGTERM), ("kill", -signal.SIGKILL)):
        receive, send = context.Pipe(duplex=False)
        process = context.Process(target=inside.wait_for_ever, args=(send,))
        process.start()
        assert receive.recv() == process.pid
        assert process.is_alive()
        assert multiprocessing.connection.wait([process.sentinel], 0) == []
        process.join(0.01)
        assert process.exitcode is None
        getattr(process, end)()
        assert multiprocessing.connection.wait([process.sentinel]) == [process.sentinel]
        process.join()
        assert process.exitcode == code
        getattr(process, end)()  # it has ended: nothing happens
        process.close()


def a_server_that_was_killed() -> None:
    """The next process has a new one."""
    context = get_context("forkserver", uid_map="root")
    resource_tracker.ensure_running()
    first = answer(context, inside.send_identity)
    before = state()
    server = context._server._process
    assert server is not None
    server.kill()
    multiprocessing.connection.wait([server.pidfd])
    second = answer(context, inside.send_identity)
    assert first[0] == second[0] == 0
    assert first != second
    after = state()
    for name in ("descriptors", "children"):
        assert len(after[name]) == len(before[name]), (before, after)  # type: ignore[arg-type]


def nothing_left(method: str) -> None:
    resource_tracker.ensure_running()
    before = state()
    context = get_context(method, uid_map="root")
    for function, arguments in ((inside.exit_with, (3,)), (inside.ignore, (1,)), (inside.kill_itself, ())):
        run(context, function, *arguments)
    with context.Pool(2) as pool:
        pool.map(inside.identity, range(4))
    pool.join()
    threading.Thread(target=run, args=(context, inside.ignore, 1)).start()
    while threading.active_count() > 1:
        threading.enumerate()[-1].join()
    del context, pool
    gc.collect()
    assert_unchanged(before)
    failing = get_context("spawn", uid_map="root", cwd="/no/such/directory")
    try:
        run(failing, inside.ignore, 1)
    except UsernsError as error:
        assert error.step == "chdir"
    else:
        raise AssertionError("no error")
    del failing
    gc.collect()
    assert_unchanged(before)


# ---- options ----


def options_are_those_of_the_process() -> None:
    created: list[int] = []
    directory = os.path.realpath(tempfile.gettempdir())
    context = get_context(
        uid_map="root",
        namespaces=(kind for kind in ("uts", "net")),  # an iterator is good for more than one process
        setup=[Hostname("inside")],
        env={**os.environ, "WHERE": "in"},
        cwd=directory,
        on_created=lambda process: created.append(process.pid),
    )
    for _ in range(2):
        found = answer(context, inside.facts)
        assert found == {"cwd": directory, "host": "inside", "env": "in", "pid": created[-1]}
    assert len(created) == 2
    assert repr(context).startswith("<usernsproc.multiprocessing context: spawn, uid_map='root', namespaces=('uts', ")


def output_and_descriptors() -> None:
    with tempfile.TemporaryFile() as printed, tempfile.TemporaryFile() as written:
        context = get_context(uid_map="root", pass_fds=[written.fileno()], on_created=lambda _: None)
        os.dup2(printed.fileno(), 1)
        assert run(context, inside.print_and_write, written.fileno()) == 0
        for file, content in ((printed, b"printed\n"), (written, b"written")):
            file.seek(0)
            assert file.read() == content


def a_pid_namespace_has_an_init() -> None:
    """Without one the interpreter would be PID 1, and `terminate` would have no effect."""
    context = get_context(uid_map="root", namespaces=["pid"])
    receive, send = context.Pipe(duplex=False)
    process = context.Process(target=inside.wait_for_ever, args=(send,))
    process.start()
    assert receive.recv() == 2
    process.terminate()
    process.join()
    assert process.exitcode == -signal.SIGTERM
    with context.Pool(1) as pool:
        assert pool.apply(inside.identity)[0] == 0


def joined(method: str) -> None:
    with UsernsProcess(uid_map="root", namespaces=["net"]) as holder:
        context = get_context(method, join=holder)
        with ProcessPoolExecutor(2, mp_context=context) as executor:
            found = set(executor.map(inside.namespace, ("user", "net")))
        with holder.namespace("user") as userns, holder.namespace("net") as net:
            assert found == {f"user:[{userns.inode}]", f"net:[{net.inode}]"}


def a_joined_pid_namespace_needs_spawn() -> None:
    with UsernsProcess(uid_map="root", namespaces=["pid"]) as holder:
        with ProcessPoolExecutor(1, mp_context=get_context(join=holder)) as executor:
            assert executor.submit(inside.identity).result()[0] == 0
        try:
            run(get_context("forkserver", join=holder), inside.ignore, 1)
        except ValueError as error:
            assert "PIDs" in str(error)
        else:
            raise AssertionError("no error")


# ---- what differs, or would hang ----


context_of_subclass = get_context(uid_map="root")


class Subclass(context_of_subclass.Process):  # type: ignore[misc, name-defined]
    def __init__(self, pipe: Any) -> None:
        super().__init__()
        self.pipe = pipe

    def run(self) -> None:
        self.pipe.send(inside.identity())


def subclasses_and_pickling() -> None:
    receive, send = context_of_subclass.Pipe(duplex=False)
    process = Subclass(send)
    process.start()
    assert receive.recv()[0] == 0
    process.join()
    again = pickle.loads(pickle.dumps(context_of_subclass))
    assert repr(again) == repr(context_of_subclass)
    assert answer(again, inside.send_identity)[0] == 0
    assert context_of_subclass.get_context() is context_of_subclass
    assert answer(context_of_subclass.get_context("forkserver"), inside.send_identity)[0] == 0


def the_child_needs_only_the_standard_library() -> None:
    source = "import sys\nfrom multiprocessing import current_process\n"
    source += "def names(pipe): pipe.send([name for name in sys.modules if name.startswith('usernsproc')])\n"
    with tempfile.TemporaryDirectory() as directory:
        with open(f"{directory}/plain_module.py", "w") as file:
            file.write(source)
        sys.path.insert(0, directory)
        plain_module: Any = __import__("plain_module")
        assert answer(get_context(uid_map="root"), plain_module.names) == []


def a_child_that_ends_before_it_has_read_everything() -> None:
    """The interpreter does not start. `multiprocessing` itself would wait for ever with so much to send."""
    context = get_context(uid_map="root", env={"PYTHONHOME": "/no/such/directory"})
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    assert run(context, inside.ignore, b"x" * 10_000_000) == 1


def wait_as_parent() -> None:
    """Start a process, print its PID, and be killed."""
    context = get_context(uid_map="root")
    receive, send = context.Pipe(duplex=False)
    process = context.Process(target=inside.wait_for_ever, args=(send,))
    process.start()
    receive.recv()
    print(process.pid, flush=True)
    os.kill(os.getpid(), signal.SIGKILL)


def a_parent_that_is_killed() -> None:
    parent = subprocess.Popen(command(wait_as_parent), env=environment(), stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    pid = int(parent.stdout.readline())
    pidfd = os.pidfd_open(pid)
    parent.stdout.close()
    parent.wait()
    assert multiprocessing.connection.wait([pidfd], 600)
    assert not children() - {str(pid)}
