"""Threads: many at once, ones that end, ones that differ, ones that reap."""

from __future__ import annotations

from collections.abc import Callable
from textwrap import dedent

import pytest

Script = Callable[..., str]


def test_eight_threads_create_while_eight_others_compute(script: Script) -> None:
    """10 000 namespaces: no deadlock; no descriptor, process or memory leaks."""
    script(
        """
        import os, sys, threading
        from leaks import assert_unchanged, state
        from usernsproc import create_userns

        # The computing threads let go of the GIL after 5 ms each by default. With
        # that, waiting for it would be all that this measures.
        sys.setswitchinterval(1e-4)
        NAMESPACES, THREADS = 10_000, 8

        def resident():
            with open("/proc/self/statm") as file:
                return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")

        def create(count):
            for _ in range(count):
                create_userns("root", "root").close()

        def compute(stop):
            number = 0
            while not stop.is_set():
                for _ in range(1000):
                    number += 1

        def in_threads(count):
            stop = threading.Event()
            computing = [threading.Thread(target=compute, args=(stop,)) for _ in range(THREADS)]
            creating = [threading.Thread(target=create, args=(count // THREADS,)) for _ in range(THREADS)]
            for thread in computing + creating:
                thread.start()
            for thread in creating:
                thread.join()
            stop.set()
            for thread in computing:
                thread.join()

        before = state()
        in_threads(800)
        memory = resident()
        in_threads(NAMESPACES)
        assert_unchanged(before)
        assert resident() - memory < 4 << 20, resident() - memory
        """,
    )


def test_eight_threads_run_commands_while_eight_others_compute(script: Script) -> None:
    """From threads, each command has a keeper thread: none is left."""
    script(
        """
        import sys, threading
        from leaks import assert_unchanged, state
        from usernsproc import PIPE, UsernsProcess

        sys.setswitchinterval(1e-4)
        stop = threading.Event()
        failures = []

        def run(number):
            for i in range(60):
                word = f"{number}-{i}".encode()
                process = UsernsProcess(["cat"], stdin=PIPE, stdout=PIPE, uid_map="root")
                if process.communicate(word) != (word, None) or process.returncode:
                    failures.append(word)

        def compute():
            number = 0
            while not stop.is_set():
                number += 1

        before = state()
        computing = [threading.Thread(target=compute) for _ in range(8)]
        running = [threading.Thread(target=run, args=(n,)) for n in range(8)]
        for thread in computing + running:
            thread.start()
        for thread in running:
            thread.join()
        stop.set()
        for thread in computing:
            thread.join()
        assert not failures, failures
        assert_unchanged(before)
        """,
    )


def test_create_userns_beside_a_thread_that_reaps_everything(script: Script) -> None:
    """1 000 times, with a loop on waitpid(-1): nothing of ours is there for it to find."""
    script("""
        import os, threading
        from usernsproc import create_userns

        found, stop = [], threading.Event()

        def reap():
            while not stop.is_set():
                try:
                    found.append(os.waitpid(-1, 0))
                except ChildProcessError:
                    pass

        thread = threading.Thread(target=reap)
        thread.start()
        for _ in range(1_000):
            create_userns("root", "root").close()
        stop.set()
        thread.join()
        assert not found, found
    """)


def test_create_userns_with_sigchld_ignored(script: Script) -> None:
    script("""
        import signal
        from usernsproc import create_userns
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)
        for _ in range(1_000):
            create_userns("root", "root").close()
    """)


def test_create_userns_sends_no_sigchld(script: Script) -> None:
    script("""
        import signal
        from usernsproc import UsernsError, UsernsProcess, create_userns
        seen = []
        signal.signal(signal.SIGCHLD, lambda *_: seen.append(1))
        for _ in range(100):
            create_userns("root", "root").close()
            try:
                UsernsProcess(["/nonexistent"], uid_map="root")
            except FileNotFoundError:
                pass
        assert not seen
        UsernsProcess(["true"], uid_map="root").wait()
        assert seen  # a command does, as with Popen
    """)


@pytest.mark.parametrize("command", [["sleep", "1000"], None])
def test_what_a_thread_started_outlives_the_thread(command: object, script: Script) -> None:
    """And ends when the process is killed."""
    script(f"""
        import os, select, signal, threading
        from usernsproc import UsernsProcess

        reader, writer = os.pipe()
        creator = os.fork()
        if creator == 0:
            started = []
            thread = threading.Thread(target=lambda: started.append(UsernsProcess({command!r}, uid_map="root")))
            thread.start()
            thread.join()
            assert not select.select([started[0]], [], [], 0.3)[0], "it ended with its thread"
            os.write(writer, b"%d\\n" % started[0].pid)
            signal.pause()
        pidfd = os.pidfd_open(int(os.read(reader, 100)))
        assert not select.select([pidfd], [], [], 0)[0]
        os.kill(creator, signal.SIGKILL)
        os.waitpid(creator, 0)
        assert select.select([pidfd], [], [], 60)[0], "it outlives the process"
    """)


@pytest.mark.parametrize("in_thread", [False, True])
@pytest.mark.parametrize("changes_ids", [False, True])
def test_without_a_death_signal_a_command_outlives_the_process(
    in_thread: bool, changes_ids: bool, script: Script
) -> None:
    script(f"""
        import os, select, signal, threading
        from usernsproc import UsernsProcess

        options = dict(user=0, group=0) if {changes_ids} else {{}}
        reader, writer = os.pipe()
        creator = os.fork()
        if creator == 0:
            def start():
                process = UsernsProcess(["sleep", "1000"], uid_map="root", pdeathsig=None, **options)
                os.write(writer, b"%d\\n" % process.pid)
            if {in_thread}:
                thread = threading.Thread(target=start)
                thread.start()
                thread.join()
            else:
                start()
            signal.pause()
        pidfd = os.pidfd_open(int(os.read(reader, 100)))
        os.kill(creator, signal.SIGKILL)
        os.waitpid(creator, 0)
        assert not select.select([pidfd], [], [], 0.2)[0], "it ended with the process"
        signal.pidfd_send_signal(pidfd, signal.SIGKILL)
    """)


@pytest.mark.parametrize("changes_ids", [False, True])
def test_another_death_signal(changes_ids: bool, script: Script) -> None:
    """The command can catch it and end in its own way."""
    script(f"""
        import os, select, signal
        from usernsproc import UsernsProcess

        options = dict(user=0, group=0) if {changes_ids} else {{}}
        reader, writer = os.pipe()
        creator = os.fork()
        if creator == 0:
            shell = f"trap 'echo caught >&{{writer}}; exit' TERM; echo ready >&{{writer}}; while :; do sleep 0.01; done"
            UsernsProcess(shell, shell=True, uid_map="root", pdeathsig=signal.SIGTERM, pass_fds=[writer], **options)
            signal.pause()
        os.close(writer)
        assert os.read(reader, 100) == b"ready\\n"
        os.kill(creator, signal.SIGKILL)
        os.waitpid(creator, 0)
        assert os.read(reader, 100) == b"caught\\n"
    """)


def test_the_reparent_check_does_not_misfire_in_a_new_pid_namespace(script: Script) -> None:
    """There the parent is out of sight and getppid() is 0."""
    script("""
        import os
        import native
        from usernsproc import UsernsProcess, create_userns
        if os.geteuid():
            with create_userns("root", "root") as userns:
                userns.enter()
        native.unshare(native.CLONE_NEWPID)
        with UsernsProcess(["sh", "-c", "exit $$"], uid_map="root") as process:
            assert process.wait() == 1, "it is pid 1 of the new namespace"
    """)


INHERITS = """
    import os, signal, sys, tempfile, threading
    import native
    from usernsproc import PIPE, UsernsProcess, create_userns

    OPTIONS = dict(user=0, group=0) if {changes_ids} else {{}}

    def run(*command):
        process = UsernsProcess(command, stdout=PIPE, stderr=PIPE, text=True, uid_map="root", **OPTIONS)
        out, err = process.communicate()
        return out or err

    def status(name):
        fields = dict(line.split(":", 1) for line in run("cat", "/proc/self/status").splitlines())
        return fields[name].strip()

    def in_a_thread(function):
        results = []
        thread = threading.Thread(target=lambda: results.append(function()))
        thread.start()
        thread.join()
        return results[0]
"""


@pytest.mark.parametrize("changes_ids", [False, True])
@pytest.mark.parametrize(
    "check",
    [
        pytest.param(
            """
            def differ():
                os.sched_setaffinity(0, [max(os.sched_getaffinity(0))])
                return status("Cpus_allowed_list"), {str(cpu) for cpu in os.sched_getaffinity(0)}
            all_cpus = os.sched_getaffinity(0)
            assert len(all_cpus) > 1
            inside, wanted = in_a_thread(differ)
            assert {inside} == wanted
            assert status("Cpus_allowed_list") not in wanted
            """,
            id="affinity",
        ),
        pytest.param(
            """
            if os.geteuid():
                with create_userns("root", "root") as userns:
                    userns.enter()
            def differ():
                native.unshare(native.CLONE_NEWNET)
                return run("readlink", "/proc/self/ns/net").strip(), os.readlink("/proc/thread-self/ns/net")
            inside, wanted = in_a_thread(differ)
            assert inside == wanted != os.readlink("/proc/self/ns/net")
            assert run("readlink", "/proc/self/ns/net").strip() == os.readlink("/proc/self/ns/net")
            """,
            id="network namespace",
        ),
        pytest.param(
            """
            def differ():
                native.refuse_system_call(native.NR_SECCOMP, 38)
                return status("Seccomp_filters"), status("NoNewPrivs")
            before = int(status("Seccomp_filters"))
            assert in_a_thread(differ) == (str(before + 1), "1")
            assert status("Seccomp_filters") == str(before)
            """,
            id="seccomp filter",
        ),
        pytest.param(
            """
            def make_directory():
                with tempfile.TemporaryDirectory() as folder:
                    os.chmod(folder, 0o777)
                    return run("mkdir", "-v", folder + "/new")
            def differ():
                folder = tempfile.mkdtemp()
                native.forbid_making_directories()
                text = run("mkdir", "-v", folder + "/new")
                return folder, text
            folder, text = in_a_thread(differ)
            os.rmdir(folder)
            assert "Permission denied" in text, text
            assert "created" in make_directory()
            """,
            id="landlock domain",
        ),
        pytest.param(
            """
            def differ():
                signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1, signal.SIGRTMAX])
                return int(status("SigBlk"), 16)
            wanted = 1 << signal.SIGUSR1 - 1 | 1 << signal.SIGRTMAX - 1
            assert in_a_thread(differ) == wanted
            assert int(status("SigBlk"), 16) == 0
            """,
            id="signal mask",
        ),
    ],
)
def test_a_command_inherits_from_the_calling_thread(changes_ids: bool, check: str, script: Script) -> None:
    script(dedent(INHERITS).format(changes_ids=changes_ids) + dedent(check))


@pytest.mark.parametrize("changes_ids", [False, True])
def test_the_calling_process_stays_dumpable(changes_ids: bool, script: Script) -> None:
    """A change of ids in shared memory would undo that, and an unprivileged process could then no
    longer open its children's maps."""
    script(f"""
        import os
        import native
        from usernsproc import UsernsProcess, create_userns
        options = dict(uid_map="root", user=0, group=0)
        if {changes_ids} and os.geteuid() == 0:
            options = dict(uid_map="0:100000:10", gid_map="0:100000:10", user=7)
        assert native.prctl(native.PR_GET_DUMPABLE) == 1
        for _ in range(2):
            assert UsernsProcess(["true"], **options).wait() == 0
            assert native.prctl(native.PR_GET_DUMPABLE) == 1
            create_userns("root", "root").close()
            with UsernsProcess(uid_map="root") as holder:
                holder.namespace().close()
    """)


def test_a_process_that_is_not_dumpable_stays_so(script: Script) -> None:
    script("""
        import os
        import native
        from usernsproc import UsernsError, UsernsProcess, create_userns
        native.prctl(native.PR_SET_DUMPABLE, 0)
        if os.geteuid() == 0:
            assert UsernsProcess(["true"], uid_map="0:100000:10", gid_map="0:100000:10").wait() == 0
        else:
            try:
                create_userns("root", "root")
            except PermissionError as error:
                assert (error.cause, error.step) == ("not-dumpable", "setgroups")
            else:
                raise AssertionError("no error")
        assert native.prctl(native.PR_GET_DUMPABLE) == 0
    """)


@pytest.mark.root
def test_an_unprivileged_daemon_that_was_root_makes_a_second_process(script: Script) -> None:
    """It became dumpable again by an exec; changes of ids in its children do not undo that."""
    script("""
        import os, subprocess, sys, tempfile
        if len(sys.argv) > 1:
            raise SystemExit
        import native
        from usernsproc import UsernsProcess
        os.setgroups([])
        os.setresgid(65533, 65533, 65533)
        os.setresuid(65533, 65533, 65533)
        native.prctl(native.PR_SET_DUMPABLE, 1)
        for _ in range(3):
            assert UsernsProcess(["true"], uid_map="root", user=0, group=0).wait() == 0
            assert native.prctl(native.PR_GET_DUMPABLE) == 1
    """)


def test_sixteen_threads_with_500_commands_each(script: Script) -> None:
    """Right output each, no zombie, and no descriptor of a sibling: with close_fds, and without,
    where close-on-exec alone has to do."""
    script(
        """
        import os, threading
        from leaks import assert_unchanged, state
        from usernsproc import PIPE, UsernsProcess

        COMMAND = ["sh", "-c", "cat; echo /proc/self/fd/*"]
        LISTED = b" ".join(b"/proc/self/fd/%d" % fd for fd in range(4))  # and what lists them
        failures = []

        def work(number):
            for i in range(500):
                word = b"%d-%d " % (number, i)
                process = UsernsProcess(COMMAND, stdin=PIPE, stdout=PIPE, close_fds=i % 2 == 0, uid_map="root")
                output = process.communicate(word)[0]
                if output != word + LISTED + b"\\n" or process.returncode:
                    failures.append((word, output, process.returncode))

        for fd in range(3, 20):  # those of the test runner
            try:
                os.set_inheritable(fd, False)
            except OSError:
                pass
        before = state()
        threads = [threading.Thread(target=work, args=(number,)) for number in range(16)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not failures, (len(failures), failures[:5])
        assert_unchanged(before)
        """,
    )


def test_commands_from_a_thread_while_another_changes_its_ids(script: Script) -> None:
    """libc's setuid() reaches every thread by a signal, and holds a lock until all have answered."""
    script("""
        import os, threading, time
        from usernsproc import run
        stop = threading.Event()
        started = []

        def work():
            while not stop.is_set():
                assert run(["true"], uid_map="root").returncode == 0
                started.append(1)

        threads = [threading.Thread(target=work, daemon=True) for _ in range(2)]
        for thread in threads:
            thread.start()
        began = time.monotonic()
        while time.monotonic() < began + 3 or len(started) <= 20:
            assert time.monotonic() < began + 300, len(started)
            os.setresuid(-1, -1, -1)
        stop.set()
        for thread in threads:
            thread.join(300)
            assert not thread.is_alive()
    """)
