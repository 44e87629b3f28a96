"""Signals to a program that starts processes."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from alone import A_HANG

Script = Callable[..., str]


WAYS = ['uid_map="root"', 'uid_map="root", user=0, group=0']


@pytest.mark.parametrize("options", WAYS)
def test_no_signal_is_lost_while_the_program_spawns(options: str, script: Script) -> None:
    """Thousands of queued signals: each writes a byte to the wakeup descriptor, once."""
    script(f"""
        import os, signal, subprocess, sys
        from usernsproc import UsernsProcess, create_userns
        TIMES, SIGNALS = 125, 40
        reader, writer = os.pipe2(os.O_NONBLOCK)
        signal.set_wakeup_fd(writer)
        signal.signal(signal.SIGRTMIN, lambda *_: None)
        # For each byte that it is given it sends so many, over a few milliseconds.
        sender = subprocess.Popen([sys.executable, "-c", '''if 1:
            import os, signal, sys, time
            while os.read(0, 1):
                for number in range(int(sys.argv[2])):
                    os.kill(int(sys.argv[1]), signal.SIGRTMIN)
                    if number % 4 == 0:
                        time.sleep(0.0001)
        ''', str(os.getpid()), str(SIGNALS)], stdin=subprocess.PIPE)
        times = received = during = 0

        def receive():
            try:
                return len(os.read(reader, 65536))
            except BlockingIOError:
                return 0

        while times < TIMES or during <= 10:
            times += 1
            os.write(sender.stdin.fileno(), b".")
            received += receive()
            assert UsernsProcess(["true"], {options}).wait() == 0
            create_userns("root", "root").close()
            caught = receive()
            received += caught
            during += caught > 0
        sender.stdin.close()
        assert sender.wait() == 0
        received += receive()
        assert received == times * SIGNALS, (received, times)
    """)


@pytest.mark.parametrize("options", WAYS)
def test_no_handler_runs_in_a_child(options: str, script: Script) -> None:
    """A handler that ran in shared memory would be seen by the parent, to which nothing was sent.
    The signals are sent while the child waits, and delivered when its mask is restored."""
    script(f"""
        import os, signal
        from usernsproc import UsernsProcess
        ran = []
        harmless = [signal.SIGURG, signal.SIGWINCH, signal.SIGCONT]  # by default ignored
        for signum in harmless:
            signal.signal(signum, lambda signum, frame: ran.append(signum))

        def send(process):
            for signum in harmless:
                os.kill(process.pid, signum)

        for _ in range(200):
            assert UsernsProcess(["true"], on_created=send, {options}).wait() == 0
        assert not ran, ran
    """)


def test_wait_goes_on_after_a_signal(script: Script) -> None:
    """The command ends when there have been ten."""
    script("""
        import signal
        from usernsproc import PIPE, UsernsProcess
        seen = 0

        def handler(*_):
            global seen
            seen += 1
            if seen == 10:
                process.stdin.close()

        signal.signal(signal.SIGALRM, handler)
        for limit in ({}, {"timeout": 500}):
            with UsernsProcess(["cat"], stdin=PIPE) as process:
                signal.setitimer(signal.ITIMER_REAL, 0.02, 0.02)
                assert process.wait(**limit) == 0
                signal.setitimer(signal.ITIMER_REAL, 0)
            assert seen >= 10
            seen = 0
    """)


@pytest.mark.parametrize("how", ["process.wait()", "process.communicate()", "process.wait(timeout=60)"])
def test_ctrl_c_to_the_process_group_behaves_as_with_popen(how: str, script: Script) -> None:
    """Both get it; `wait` gives the child a moment and raises, and the child is reaped. (It ends later than
    that: Popen can lose the status of one that ends while the handler runs.)"""
    for cls in ("subprocess.Popen", "UsernsProcess"):
        printed = script(f"""
            import os, signal, subprocess, sys, threading
            from usernsproc import UsernsProcess
            os.setpgid(0, 0)
            signal.signal(signal.SIGINT, signal.default_int_handler)
            process = {cls}("trap 'echo child; sleep 0.5; exit 5' INT; echo ready >&2; while :; do sleep 0.01; done",
                            shell=True, stderr=subprocess.PIPE)
            process.stderr.readline()
            # From outside: sent by a thread of ours, that thread might be the one to get it.
            # And not before we are in the block, however long that takes.
            sender = subprocess.Popen(["sh", "-c", f"read line; sleep 0.1; kill -INT -{{os.getpid()}}"],
                                      stdin=subprocess.PIPE, start_new_session=True)
            try:
                sender.stdin.close()
                {how}
            except KeyboardInterrupt:
                print("parent", process.wait(), flush=True)
            sender.wait()
            process.stderr.close()
        """)
        assert sorted(printed.split("\n")) == ["", "child", "parent 5"], cls


def test_interpreter_exit_with_live_ones_neither_hangs_nor_prints_noise() -> None:
    """As with Popen: the interpreter goes, and they go with it."""
    import subprocess
    import sys

    source = (
        "import threading\n"
        "from usernsproc import UsernsProcess\n"
        "kept = [UsernsProcess(['sleep', '1000'], uid_map='root'), UsernsProcess(uid_map='root')]\n"
        "thread = threading.Thread(target=lambda: kept.append(UsernsProcess(['sleep', '1000'])))\n"
        "thread.start(); thread.join()\n"
        "print(*(process.pid for process in kept))\n"
    )
    result = subprocess.run([sys.executable, "-c", source], capture_output=True, text=True, timeout=A_HANG)
    assert (result.returncode, result.stderr) == (0, "")
    import os
    import time

    end = time.monotonic() + A_HANG
    while alive := [pid for pid in result.stdout.split() if os.path.exists(f"/proc/{pid}")]:
        assert time.monotonic() < end, alive
        time.sleep(0.01)


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_multiprocessing_works_beside_it(method: str, script: Script) -> None:
    script(f"""
        import multiprocessing, os
        from usernsproc import PIPE, UsernsProcess, create_userns, run

        def work(number):
            with create_userns("root", "root") as userns:
                assert userns.owner_uid == os.geteuid()
            return run(["sh", "-c", f"exit {{number}}"], uid_map="root").returncode

        if __name__ == "__main__":
            with UsernsProcess(["cat"], stdin=PIPE, uid_map="root") as process, UsernsProcess(uid_map="root") as holder:
                with multiprocessing.get_context("{method}").Pool(4) as pool:
                    assert pool.map(work, range(20)) == list(range(20))
                assert process.poll() is None
                assert holder.poll() is None
    """)


def test_a_forked_copy_starts_its_own_and_leaves_ours_alone(script: Script) -> None:
    script("""
        import os
        from usernsproc import PIPE, UsernsProcess, run
        process, holder = UsernsProcess(["cat"], stdin=PIPE, uid_map="root"), UsernsProcess(uid_map="root")
        copy = os.fork()
        if copy == 0:
            status = run(["true"], uid_map="root").returncode
            del process, holder  # neither kills nor waits
            os._exit(10 + status)
        assert os.waitstatus_to_exitcode(os.waitpid(copy, 0)[1]) == 10
        assert process.poll() is None
        assert holder.poll() is None
        process.communicate()
        assert process.returncode == 0
        holder.close()
    """)


@pytest.mark.parametrize(
    "what", ['UsernsProcess(["cat"], stdin=PIPE, uid_map="root")', 'UsernsProcess(uid_map="root")']
)
def test_a_forked_copy_that_ends_as_a_program_does_neither_kills_nor_waits(what: str, script: Script) -> None:
    """It leaves the `with` block, and calls what was registered with `atexit`."""
    printed = script(f"""
        import atexit, os, sys, time, warnings
        from usernsproc import PIPE, UsernsProcess
        warnings.simplefilter("error")
        with {what} as process:
            at_exit = atexit.register(process.terminate)
            copy = os.fork()
            if copy == 0:
                sys.exit(7)
            assert os.waitstatus_to_exitcode(os.waitpid(copy, 0)[1]) == 7
            time.sleep(0.05)
            assert process.poll() is None
            atexit.unregister(process.terminate)
            process.kill()
        assert process.returncode == -9
        print("the first")
    """)
    assert printed == "the first\n"


def test_a_forked_copy_is_told_that_there_is_nothing_to_wait_for(script: Script) -> None:
    """`Popen` says at once that it ended with 0."""
    script("""
        import os, threading
        from usernsproc import UsernsProcess
        process = UsernsProcess(["sleep", "60"], uid_map="root")
        threading.Thread(target=process.wait).start()  # it has a lock, which is never released in the copy
        copy = os.fork()
        if copy == 0:
            for wait in (process.wait, lambda: process.wait(timeout=60), process.communicate, process.waitid):
                try:
                    wait()
                except ChildProcessError:
                    continue
                os._exit(1)
            for signal in (process.terminate, process.kill, process.close):
                signal()
            os._exit(7 if process.returncode is None else 2)
        assert os.waitstatus_to_exitcode(os.waitpid(copy, 0)[1]) == 7
        assert process.poll() is None
        process.kill()
        assert process.wait() == -9
    """)


def test_it_works_in_subinterpreters(script: Script) -> None:
    script("""
        import sys
        if sys.version_info >= (3, 13):
            import _interpreters as interpreters
            make = lambda: interpreters.create()
        else:
            import _xxsubinterpreters as interpreters
            make = lambda: interpreters.create()
        source = '''if 1:
            from usernsproc import create_userns, UsernsProcess
            from usernsproc import _core
            with create_userns("root", "root") as userns:
                assert str(userns.uid_map).startswith("0:")
            assert UsernsProcess(["true"], uid_map="root").wait() == 0
        '''
        for _ in range(3):
            interpreter = make()
            failed = interpreters.run_string(interpreter, source)
            assert not failed, failed
            interpreters.destroy(interpreter)
    """)


@pytest.mark.parametrize("what", ['UsernsProcess(["sleep", "100"], uid_map="root")', 'UsernsProcess(uid_map="root")'])
def test_an_exception_of_a_handler_loses_no_process(what: str, script: Script) -> None:
    """Ctrl-C at any moment while one is made: it is ours, or gone. A few are in the hands of Popen's
    own code, or of the statement that would have kept them; Popen loses some of these as well."""
    script(f"""
        import gc, os, signal, subprocess, sys, warnings
        from usernsproc import UsernsProcess
        warnings.simplefilter("ignore")
        sys.unraisablehook = lambda *_: None
        CALLS = 1_000

        class Interrupt(Exception):
            pass

        def interrupt(*_):
            if armed: # Python may come to it only after setitimer() has returned
                raise Interrupt

        signal.signal(signal.SIGALRM, interrupt)
        before = len(os.listdir("/proc/self/fd"))
        for number in range(CALLS):
            process, armed = None, True
            try:
                signal.setitimer(signal.ITIMER_REAL, 0.00001 + 0.00002 * (number % 60))
                process = {what}
                armed = False
                signal.setitimer(signal.ITIMER_REAL, 0)
            except Interrupt:
                pass
            if process is not None:
                process.close()
            process = None
        known = {{process.pid for process in subprocess._active}}
        with open(f"/proc/self/task/{{os.getpid()}}/children") as file:
            children = set(map(int, file.read().split()))
        for pid in children:
            os.kill(pid, signal.SIGKILL)
        assert len(children - known) <= CALLS // 50, len(children - known)
        for pid in children:
            os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
        gc.collect()
        subprocess._cleanup()
        assert len(os.listdir("/proc/self/fd")) - before <= CALLS // 50
    """)
