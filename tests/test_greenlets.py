"""Programs that gevent or eventlet have patched: waiting for a process lets other greenlets run.

Whether the program is patched before or after the import of this package makes no
difference. To create a process may block, as it does with `subprocess.Popen`.
"""

from __future__ import annotations

import os
from collections.abc import Callable

import pytest
from ordinary import as_ordinary_user

Script = Callable[..., str]

PATCH = {
    "gevent": "from gevent import monkey, spawn\nmonkey.patch_all()",
    "eventlet": "import warnings\nwarnings.simplefilter('ignore')\n"
    "import eventlet\neventlet.monkey_patch()\nspawn = eventlet.spawn",
}
NATIVE_THREADS = "import _thread\nstart_thread = _thread.start_new_thread"
IMPORT = "import subprocess, usernsproc\nfrom usernsproc import UsernsProcess, PIPE, STDOUT"

HELPERS = """
import ctypes, os, signal, sys, time
from collections import Counter
from _thread import get_native_id
from leaks import assert_unchanged, state

ticks = Counter()  # of each thread
def sleep_deep_down(levels=50):
    if levels:
        max([levels], key=lambda _: sleep_deep_down(levels - 1) or 0)  # uses the stack of C
    else:
        os.setresgid(-1, -1, -1)  # libc interrupts every other thread for it
        time.sleep(0.01)
def tick():
    while True:
        sleep_deep_down()
        ticks[get_native_id()] += 1
spawn(tick)

def others_run_during(call):
    thread = get_native_id()
    time.sleep(0.03)
    before = ticks[thread]
    result = call()
    assert ticks[thread] - before >= 3, (call, ticks[thread] - before)
    return result

def in_native_thread(call):
    outcome = []
    def run():
        spawn(tick)
        time.sleep(0.03)  # its other greenlets start here, and use the stack below
        try:
            outcome.append(call())
        except BaseException as error:
            outcome.append(error)
    start_thread(run, ())
    end = time.monotonic() + 20
    while not outcome and time.monotonic() < end:
        time.sleep(0.01)
    assert outcome, "it hangs"
    if isinstance(outcome[0], BaseException):
        raise outcome[0]

others_run_during(lambda: time.sleep(0.3))
before = +ticks
ctypes.CDLL(None).usleep(200000)
assert ticks == before, "a call that blocks the thread has to be noticed here"

LATER = ["sh", "-c", "sleep 0.3; exit 7"]
def later(command=LATER, **options):
    return UsernsProcess(command, uid_map="root", **options)
def echoes_later():
    return later(["sh", "-c", "sleep 0.3; cat; echo error >&2"], stdin=PIPE, stdout=PIPE, stderr=PIPE)
def closed(process):
    process.close()
    return process.returncode
"""

each_program = pytest.mark.parametrize("library", ["gevent", "eventlet"])
each_order = pytest.mark.parametrize("order", ["patched first", "imported first"])


def program(library: str, order: str, body: str) -> str:
    first = [PATCH[library], IMPORT] if order == "patched first" else [IMPORT + "\nUsernsProcess", PATCH[library]]
    return "\n".join([NATIVE_THREADS, *first, HELPERS, body])


@each_program
@each_order
@pytest.mark.parametrize(
    "call",
    [
        "assert later().wait() == 7",
        "assert later().wait(timeout=20) == 7",
        "assert later().communicate() == (None, None)",
        "assert echoes_later().communicate(b'input') == (b'input', b'error\\n')",
        "assert echoes_later().communicate(b'input', timeout=20) == (b'input', b'error\\n')",
        "assert later(['sh', '-c', 'sleep 0.3; echo out'], stdout=PIPE).communicate() == (b'out\\n', None)",
        "assert later(['sh', '-c', 'sleep 0.3; echo out'], stdout=PIPE, text=True).communicate() == ('out\\n', None)",
        "assert later(['sh', '-c', 'sleep 0.3; cat >&2'], stdin=PIPE, stderr=-3).communicate(bytes(99999))[1] is None",
        "assert later().waitid().si_status == 7",
        "with later() as process: pass\n    assert process.returncode == 7",
        "assert usernsproc.run(LATER, uid_map='root').returncode == 7",
        "assert usernsproc.run(LATER, uid_map='root', timeout=20, capture_output=True).returncode == 7",
        "assert usernsproc.call(LATER, uid_map='root') == 7",
        "assert usernsproc.check_output(['sh', '-c', 'sleep 0.3; id -u'], uid_map='root') == b'0\\n'",
        "try: later(['sleep', '30']).wait(timeout=0.3)\n    except usernsproc.TimeoutExpired: return\n    assert False",
    ],
)
def test_others_run_while_one_waits(library: str, order: str, call: str, script: Script) -> None:
    script(program(library, order, f"def call():\n    {call}\nothers_run_during(call)\n"))


@each_program
@each_order
def test_what_does_not_wait(library: str, order: str, script: Script) -> None:
    """Polling, signals, holders, ids written by a callback and errors are as in any other program."""
    script(
        program(
            library,
            order,
            """
with later() as process:
    assert process.poll() is None
    process.send_signal(signal.SIGTERM)
    assert process.wait() == -signal.SIGTERM
    assert process.poll() == -signal.SIGTERM
with UsernsProcess(uid_map="root") as holder:
    with holder.namespace() as userns:
        assert userns.uid_map
    time.sleep(0.1)  # gevent closes a descriptor when its loop runs the next time
    before = state()
    for arguments in (dict(timeout=0.2), dict(timeout=0.2, capture_output=True), dict(timeout=0.2, input=b"text")):
        try:
            usernsproc.run(["sleep", "30"], uid_map="root", **arguments)
        except usernsproc.TimeoutExpired as error:
            assert isinstance(error, subprocess.TimeoutExpired)
        else:
            assert False
    try:
        usernsproc.run(["/no/such/program"], uid_map="root")
    except FileNotFoundError as error:
        assert error.step == "exec"
    try:
        usernsproc.run(["false"], uid_map="root", check=True)
    except subprocess.CalledProcessError as error:
        assert error.returncode == 1
    assert_unchanged(before)
assert isinstance(usernsproc.run(["true"], uid_map="root"), usernsproc.CompletedProcess)
""",
        )
    )


@each_program
@each_order
def test_two_greenlets_wait_for_the_same_process(library: str, order: str, script: Script) -> None:
    script(
        program(
            library,
            order,
            """
process = later()
found = []
for _ in range(3):
    spawn(lambda: found.append(process.wait()))
    spawn(lambda: found.append(process.wait(timeout=20)))
end = time.monotonic() + 20
while len(found) < 6 and time.monotonic() < end:
    time.sleep(0.01)
assert found == [7] * 6, found
process.close()
""",
        )
    )


WAITING_CALLBACK = """
def wait(process):
    others_run_during(lambda: time.sleep(0.3))
def outputs(**options):
    with UsernsProcess(["id", "-u"], stdout=PIPE, on_created=wait, **options) as process:
        assert process.communicate() == (b"0\\n", None)
        assert process.returncode == 0
def start_holder():
    with UsernsProcess(uid_map="root", on_created=wait) as holder, holder.namespace() as userns:
        assert userns.uid_map
def join():
    with UsernsProcess(uid_map="root", namespaces=["pid"]) as holder:
        outputs(join=holder)
"""


@each_program
@each_order
@pytest.mark.parametrize(
    "call",
    [
        "outputs(uid_map='root')",
        "outputs(uid_map='root', user=0)",
        "outputs(uid_map='root', namespaces=['pid'], init=True)",
        "start_holder()",
        "join()",
    ],
)
def test_a_callback_may_let_others_run(library: str, order: str, call: str, script: Script) -> None:
    """While one does, the stack of its greenlet is used by others: no child and no thread uses it meanwhile."""
    body = f"{WAITING_CALLBACK}\n{call}\nin_native_thread(lambda: {call})"
    script(program(library, order, body))


@each_program
@each_order
def test_maps_that_a_tool_writes(library: str, order: str) -> None:
    """They are written while the child waits, and the core is in the middle of its work."""
    source = """
shown = usernsproc.check_output(["cat", "/proc/self/uid_map"], uid_map="rootless").split()
assert shown == [b"0", b"1000", b"1", b"1", b"100000", b"65536"], shown
"""
    lines = "1000:100000:65536\n" if os.geteuid() == 0 else None
    as_ordinary_user(program(library, order, source), subuid=lines, subgid=lines)


@each_program
@each_order
def test_the_base_class_is_that_of_the_standard_library(library: str, order: str, script: Script) -> None:
    script(
        program(
            library,
            order,
            """
[popen] = [each for each in UsernsProcess.__mro__ if each.__name__ == "Popen"]
assert popen.__init__.__code__.co_filename == subprocess.__spec__.origin
for name in ("TimeoutExpired", "CalledProcessError", "SubprocessError"):
    assert getattr(usernsproc, name) is getattr(subprocess, name)
""",
        )
    )
