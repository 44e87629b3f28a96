"""Limits, scheduling, memory pressure, execution domain, signals: each test looks from inside."""

from __future__ import annotations

import errno
import os
import pickle
import resource
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from alone import run_alone
from cgroups import cgroup
from commands import sleeping
from programs import setup_process
from programs.setup_process import LIMITS, limit_inside, number_of, value_of
from setup_steps import (
    CAP_SYS_NICE,
    CAP_SYS_RESOURCE,
    NEW,
    OWN,
    WITH_INIT,
    file_of,
    has_capability,
    inside,
    python,
    signal_set,
)

from conftest import IS_ROOT
from usernsproc import UsernsError, UsernsProcess, run
from usernsproc.setup import (
    Affinity,
    CoreScheduling,
    Descriptors,
    IoPriority,
    Nice,
    OomScoreAdj,
    Personality,
    Rlimit,
    Scheduler,
    Signals,
    Step,
    TimerSlack,
)

USERNS = {"new": NEW, "own": OWN, "init": WITH_INIT}


@pytest.fixture(params=USERNS)
def userns(request: pytest.FixtureRequest) -> dict[str, Any]:
    return USERNS[request.param]


def refusal(*steps: Step, userns: dict[str, Any] = NEW) -> UsernsError:
    with pytest.raises(UsernsError) as caught:
        run(["/bin/true"], setup=steps, **userns)
    return caught.value


# ---- limits ----


@pytest.mark.parametrize("name", LIMITS)
def test_a_limit_is_lowered(name: str) -> None:
    before = resource.prlimit(0, number_of(name))
    hard = value_of(name)
    soft = hard // 2
    assert limit_inside(name, Rlimit(name, soft, hard)) == [soft, hard]
    assert limit_inside(name, Rlimit(f"rlimit_{name.lower()}", soft)) == [soft, soft]
    assert limit_inside(name, Rlimit(number_of(name), soft)) == [soft, soft]
    assert resource.prlimit(0, number_of(name)) == before


@pytest.mark.parametrize("name", LIMITS)
def test_a_soft_limit_is_raised(name: str) -> None:
    run_alone(setup_process.raise_soft, name)


@pytest.mark.parametrize("name", LIMITS)
def test_a_hard_limit_is_raised_if_the_caller_may(name: str) -> None:
    run_alone(setup_process.raise_hard, name)


@pytest.mark.parametrize("infinity", ["infinity", "unlimited", resource.RLIM_INFINITY, 2**64 - 1])
def test_infinity(infinity: Any) -> None:
    step = Rlimit("CORE", 0, infinity)
    assert step.hard == "infinity"
    assert step == Rlimit("CORE", 0, "infinity")
    hard = resource.getrlimit(resource.RLIMIT_CORE)[1]
    if hard == resource.RLIM_INFINITY:
        assert limit_inside("CORE", step) == [0, hard]
    else:
        assert refusal(step).errno == errno.EPERM


def test_limits_in_each_user_namespace(userns: dict[str, Any]) -> None:
    limits = "[__import__('resource').getrlimit(n) for n in (4, 7)]"
    assert inside(limits, Rlimit("CORE", 0), Rlimit("NOFILE", 50, 60), userns=userns) == [[0, 0], [50, 60]]


def test_no_other_process_is_limited() -> None:
    """Not the caller, and not an init."""
    step = Rlimit("NOFILE", 50, 60)
    with sleeping(setup=[step], **WITH_INIT) as process:
        assert resource.prlimit(process.pid, resource.RLIMIT_NOFILE) == resource.getrlimit(resource.RLIMIT_NOFILE)
    with sleeping(setup=[step], **NEW) as process:
        assert resource.prlimit(process.pid, resource.RLIMIT_NOFILE) == (50, 60)


def test_no_file_can_grow(tmp_path: Path) -> None:
    done = run(["/bin/dd", "if=/dev/zero", f"of={tmp_path}/file", "count=1"], setup=[Rlimit("FSIZE", 0)], **NEW)
    assert done.returncode == -signal.SIGXFSZ
    assert (tmp_path / "file").stat().st_size == 0


def test_the_number_of_descriptors_that_set_up_needs_is_not_limited(tmp_path: Path) -> None:
    """4 is what the program itself needs to be started."""
    (tmp_path / "file").write_text("content")
    with (tmp_path / "file").open() as file:
        setup = [Rlimit("NOFILE", 4), Descriptors({9: file}), OomScoreAdj(1000)]
        done = run(["/bin/cat", "/dev/fd/9"], setup=setup, capture_output=True, **WITH_INIT)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"content", b"")


def test_the_number_of_processes_that_set_up_needs_is_not_limited() -> None:
    """Root is not limited either. The command is, where it is another user."""
    setup = [Rlimit("NPROC", 1)]
    code = "import os, sys\ntry: os.fork() or os._exit(0)\nexcept BlockingIOError: sys.exit(42)"
    assert run(python(code), setup=setup, **WITH_INIT).returncode == (0 if IS_ROOT else 42)


def test_used_up_time_is_a_signal() -> None:
    """SIGXCPU at the soft limit; at the hard one SIGKILL."""
    forever = python("while True: pass")
    assert run(forever, setup=[Rlimit("CPU", 1, 3)], **NEW).returncode == -signal.SIGXCPU
    assert run(forever, setup=[Rlimit("CPU", 1)], **NEW).returncode == -signal.SIGKILL


def test_memory_that_cannot_be_had() -> None:
    code = "import sys\ntry: bytearray(1 << 30)\nexcept MemoryError: sys.exit(42)"
    assert run(python(code), setup=[Rlimit("AS", 1 << 29)], **NEW).returncode == 42


def test_a_limit_of_an_on_created_hook_is_kept() -> None:
    """A step sets the others."""
    set_now = (100, resource.getrlimit(resource.RLIMIT_NOFILE)[1])

    def limit(process: UsernsProcess[bytes]) -> None:
        resource.prlimit(process.pid, resource.RLIMIT_NOFILE, set_now)

    limits = "[__import__('resource').getrlimit(n) for n in (4, 7)]"
    assert inside(limits, Rlimit("CORE", 0), on_created=limit) == [[0, 0], list(set_now)]


# ---- scheduling ----


def test_nice(userns: dict[str, Any]) -> None:
    own = os.getpriority(os.PRIO_PROCESS, 0)
    assert inside("os.getpriority(os.PRIO_PROCESS, 0)", Nice(own + 5), userns=userns) == own + 5
    assert os.getpriority(os.PRIO_PROCESS, 0) == own


def test_a_lower_nice_value_requires_rights(userns: dict[str, Any]) -> None:
    if has_capability(CAP_SYS_NICE):
        assert inside("os.getpriority(os.PRIO_PROCESS, 0)", Nice(-5), userns=userns) == -5
    else:
        error = refusal(Nice(-5), userns=userns)
        assert (error.step, error.call, error.errno) == ("Nice", "setpriority", errno.EACCES)
        assert error.cause == "no-scheduling-rights"


def test_affinity(userns: dict[str, Any]) -> None:
    own = os.sched_getaffinity(0)
    for cpu in own:
        assert inside("list(os.sched_getaffinity(0))", Affinity([cpu]), userns=userns) == [cpu]
    assert set(inside("list(os.sched_getaffinity(0))", Affinity(own), userns=userns)) == own
    assert os.sched_getaffinity(0) == own


def test_more_cpus_than_the_caller_uses() -> None:
    run_alone(setup_process.wider_affinity)


@pytest.mark.parametrize("cpus", [[5000], [0, 5000]])
def test_a_cpu_that_does_not_exist_is_not_left_out(cpus: list[int]) -> None:
    error = refusal(Affinity(cpus))
    assert (error.call, error.errno, error.cause) == ("sched_setaffinity", errno.EINVAL, "cpu-not-allowed")


@pytest.mark.root
def test_affinity_in_a_cgroup(userns: dict[str, Any]) -> None:
    with cgroup() as path:
        for cpu in os.sched_getaffinity(0):
            assert inside("list(os.sched_getaffinity(0))", Affinity([cpu]), userns=userns, cgroup=path) == [cpu]


@pytest.mark.root
@pytest.mark.cgroup2("cpuset")
def test_a_cpu_that_the_cgroup_does_not_have_is_not_left_out() -> None:
    with cgroup("cpuset") as path:
        (path / "cpuset.cpus").write_text("0")
        assert inside("list(os.sched_getaffinity(0))", Affinity([0]), cgroup=path) == [0]
        error = refusal(Affinity([0, 1]), userns={**NEW, "cgroup": path})
        assert (error.errno, error.cause) == (errno.EINVAL, "cpu-not-allowed")


SCHEDULING = "[os.sched_getscheduler(0), os.sched_getparam(0).sched_priority]"


@pytest.mark.parametrize("policy", ["OTHER", "BATCH", "IDLE"])
def test_a_policy(policy: str, userns: dict[str, Any]) -> None:
    number = getattr(os, f"SCHED_{policy}")
    assert inside(SCHEDULING, Scheduler(policy), userns=userns) == [number, 0]
    resets = inside(SCHEDULING, Scheduler(number, reset_on_fork=True), userns=userns)
    assert resets == [number | os.SCHED_RESET_ON_FORK, 0]
    assert os.sched_getscheduler(0) == os.SCHED_OTHER


@pytest.mark.parametrize("policy", ["FIFO", "RR"])
def test_a_real_time_policy_requires_rights(policy: str, userns: dict[str, Any]) -> None:
    step = Scheduler(policy, 3)
    if has_capability(CAP_SYS_NICE):
        number = getattr(os, f"SCHED_{policy}")
        assert inside(SCHEDULING, step, userns=userns) == [number, 3]
        step = Scheduler(policy, 3, reset_on_fork=True)
        assert inside(SCHEDULING, step, userns=userns) == [number | os.SCHED_RESET_ON_FORK, 3]
    else:
        error = refusal(step, userns=userns)
        assert (error.call, error.errno) == ("sched_setscheduler", errno.EPERM)
        assert error.cause == "no-scheduling-rights"


def test_a_policy_that_the_kernel_may_lack() -> None:
    try:
        assert inside(SCHEDULING, Scheduler("EXT")) == [7, 0]
    except UsernsError as error:
        assert (error.errno, error.cause) == (errno.EINVAL, "no-such-policy")
        assert not Path("/sys/kernel/sched_ext").exists()


IO = "__import__('subprocess').check_output(['ionice', '-p', str(os.getpid())], text=True).strip()"


@pytest.mark.parametrize(
    ("step", "shown"),
    [
        (IoPriority("idle"), "idle"),
        (IoPriority("best-effort"), "best-effort: prio 4"),
        (IoPriority(2, 7), "best-effort: prio 7"),
        (IoPriority("best-effort", 0), "best-effort: prio 0"),
    ],
)
def test_the_priority_of_input_and_output(step: IoPriority, shown: str, userns: dict[str, Any]) -> None:
    assert inside(IO, step, userns=userns) == shown


def test_a_real_time_io_priority_requires_rights_in_the_command() -> None:
    error = refusal(IoPriority("realtime", 2))
    assert (error.call, error.errno, error.cause) == ("ioprio_set", errno.EPERM, "no-scheduling-rights")
    if has_capability(CAP_SYS_NICE):
        assert inside(IO, IoPriority("realtime", 2), userns=OWN) == "realtime: prio 2"


def test_timer_slack(userns: dict[str, Any]) -> None:
    own = file_of(os.getpid(), "timerslack_ns")
    code = "int(__import__('ctypes').CDLL(None).prctl(30))"
    for ns in (1, 1_234_567, 2**31 - 1):
        assert inside(code, TimerSlack(ns), userns=userns) == ns
    assert file_of(os.getpid(), "timerslack_ns") == own


@pytest.mark.root
@pytest.mark.kernel("6.12")
def test_timer_slack_of_a_real_time_process() -> None:
    error = refusal(TimerSlack(1000), Scheduler("FIFO", 1))
    assert (error.call, error.errno, error.cause) == ("prctl", errno.EIO, "real-time-policy")


def test_core_scheduling() -> None:
    """The command has a cookie of its own, or the kernel or the machine does not have them."""
    cookie = (
        "(lambda c, n: [c.CDLL(None, use_errno=True).prctl(62, 0, 0, 0, c.byref(n)), n.value])"
        "(__import__('ctypes'), __import__('ctypes').c_ulong())"
    )
    assert inside(cookie)[1] == 0
    try:
        result, value = inside(cookie, CoreScheduling())
        assert (result, value > 0) == (0, True)
    except UsernsError as error:
        causes = {errno.EINVAL: "no-core-scheduling", errno.ENODEV: "no-hyper-threads"}
        assert error.cause == causes[error.errno or 0]
        assert inside(cookie)[0] == -1 or error.errno == errno.ENODEV


# ---- memory pressure, execution domain ----


def test_the_out_of_memory_killer_takes_it_first(userns: dict[str, Any]) -> None:
    own = file_of(os.getpid(), "oom_score_adj")
    for value in (1000, int(own)):
        assert inside("int(open('/proc/self/oom_score_adj').read())", OomScoreAdj(value), userns=userns) == value
    assert file_of(os.getpid(), "oom_score_adj") == own


def test_to_be_spared_by_it_requires_rights(userns: dict[str, Any]) -> None:
    if has_capability(CAP_SYS_RESOURCE):
        assert inside("int(open('/proc/self/oom_score_adj').read())", OomScoreAdj(-900), userns=userns) == -900
    else:
        error = refusal(OomScoreAdj(-900), userns=userns)
        assert (error.step, error.errno, error.cause) == ("OomScoreAdj", errno.EACCES, "oom-score-refused")


FLAGS = "int(open('/proc/self/personality').read(), 16)"


@pytest.mark.parametrize(
    ("flags", "number"),
    [
        ("ADDR_NO_RANDOMIZE", 0x40000),
        (["addr_no_randomize", "UNAME26"], 0x60000),
        (("STICKY_TIMEOUTS", "WHOLE_SECONDS", "SHORT_INODE"), 0x7000000),
        (0x40000, 0x40000),
        (0, 0),
        ((), 0),
    ],
)
def test_a_personality(flags: Any, number: int, userns: dict[str, Any]) -> None:
    own = file_of(os.getpid(), "personality")
    if IS_ROOT or userns is not WITH_INIT:  # an unprivileged user mounts no /proc here
        assert inside(FLAGS, Personality(flags), userns=userns) == number
    assert file_of(os.getpid(), "personality") == own


def test_addresses_are_not_randomized() -> None:
    stack = "[line for line in open('/proc/self/maps') if '[stack]' in line][0].split('-')[1].split()[0]"
    assert len({inside(stack, Personality("ADDR_NO_RANDOMIZE")) for _ in range(4)}) == 1
    assert len({inside(stack) for _ in range(4)}) > 1


MACHINES_OF_32_BITS = {"x86_64": "i686", "aarch64": "armv8l", "ppc64le": "ppcle", "s390x": "s390", "riscv64": "riscv32"}


def test_a_32_bit_machine() -> None:
    """Which the processor may not be."""
    machine = os.uname().machine
    try:
        assert inside("os.uname().machine", Personality("PER_LINUX32")) == MACHINES_OF_32_BITS[machine]
    except UsernsError as error:
        assert (error.errno, error.cause) == (errno.EINVAL, "no-such-personality")
        assert machine != "x86_64"


# ---- signals ----


def test_signals() -> None:
    run_alone(setup_process.signals_of_the_caller)


def test_signals_in_each_user_namespace(userns: dict[str, Any]) -> None:
    code = "{line.split(':')[0]: line.split()[1] for line in open('/proc/self/status') if line.startswith('Sig')}"
    found = inside(code, Signals(ignore=["HUP"], block=["TERM"]), userns=userns)
    assert signal.SIGHUP in signal_set(found["SigIgn"])
    assert signal_set(found["SigBlk"]) == {signal.SIGTERM}


def test_an_init_is_not_changed() -> None:
    """It forwards signals that the command ignores, and stays able to reap."""
    with sleeping(setup=[Signals(ignore=["CHLD", "TERM"], block=["USR1"])], **WITH_INIT) as process:
        state = dict(line.split(":", 1) for line in file_of(process.pid, "status").splitlines())
        assert signal.SIGTERM not in signal_set(state["SigIgn"])
        process.send_signal(signal.SIGTERM)  # ignored by the command
        process.send_signal(signal.SIGINT)
        assert process.wait() == -signal.SIGINT


def test_an_ignored_signal_does_not_end_the_command() -> None:
    command = python("import os, signal; os.kill(os.getpid(), signal.SIGTERM); print('alive')")
    done = run(command, setup=[Signals(ignore=["TERM"])], capture_output=True, **NEW)
    assert (done.returncode, done.stdout) == (0, b"alive\n")
    assert run(command, **NEW).returncode == -signal.SIGTERM


# ---- the caller is not changed ----


def test_all_at_once(userns: dict[str, Any]) -> None:
    """In a list of any order. What the caller itself has is the same afterwards."""
    setup: list[Step] = [
        Signals(default="all", ignore=["USR1"], block=["USR2"]),
        Rlimit("NOFILE", 40),
        TimerSlack(77_777),
        Personality("ADDR_NO_RANDOMIZE"),
        OomScoreAdj(700),
        IoPriority("idle"),
        Affinity(sorted(os.sched_getaffinity(0))[:1]),
        Scheduler("BATCH"),
        Nice(11),
        Rlimit("CORE", 0),
    ]

    def own() -> dict[str, object]:
        names = ("limits", "oom_score_adj", "timerslack_ns", "personality")
        signals = [line for line in file_of(os.getpid(), "status").splitlines() if line.startswith("Sig")][2:]
        scheduler = os.sched_getscheduler(0), os.getpriority(os.PRIO_PROCESS, 0), os.sched_getaffinity(0)
        return {**{name: file_of(os.getpid(), name) for name in names}, "signals": signals, "scheduler": scheduler}

    before = own()
    code = "[os.getpriority(0, 0), os.sched_getscheduler(0), len(os.sched_getaffinity(0)), " + (
        "__import__('resource').getrlimit(7)[1], __import__('resource').getrlimit(4)[1]]"
    )
    for order in (setup, setup[::-1]):
        assert inside(code, *order, userns=userns) == [11, os.SCHED_BATCH, 1, 40, 0]
    assert own() == before


# ---- values ----

VALUES: list[Step] = [
    Rlimit("NOFILE", 5),
    Rlimit("AS", 1 << 30, "infinity"),
    Nice(-3),
    Affinity({3, 1}),
    Scheduler("FIFO", 9),
    Scheduler("IDLE", reset_on_fork=True),
    IoPriority("idle"),
    IoPriority("best-effort", 3),
    OomScoreAdj(-1000),
    Personality(["UNAME26"]),
    TimerSlack(1),
    CoreScheduling(),
    Signals(default="all", ignore=["HUP"], block=[]),
]


@pytest.mark.parametrize("step", VALUES, ids=repr)
def test_a_step_is_a_value(step: Step) -> None:
    for copy in (eval(repr(step)), pickle.loads(pickle.dumps(step))):
        assert copy == step
        assert hash(copy) == hash(step)
        assert copy is not step
    assert [other for other in VALUES if other == step] == [step]


REFUSED: list[tuple[Callable[[], Any], type[Exception], str]] = [
    (lambda: Rlimit("FILES", 1), ValueError, "Rlimit: name is one of CPU, FSIZE.* not 'FILES'"),
    (lambda: Rlimit(99, 1), ValueError, "Rlimit: name is one of .* not 99"),
    (lambda: Rlimit(None, 1), TypeError, "Rlimit: name is a name or a number"),  # type: ignore[arg-type]
    (lambda: Rlimit("AS", 5, 4), ValueError, r"Rlimit: soft \(5\) is above hard \(4\)"),
    (lambda: Rlimit("AS", "infinity", 4), ValueError, "Rlimit: soft .* is above hard"),
    (lambda: Rlimit("AS", "many"), ValueError, 'Rlimit: soft is a number or "infinity"'),
    (lambda: Rlimit("AS", -2), ValueError, "Rlimit: soft is a number from 0"),
    (lambda: Rlimit("AS", 1.5), TypeError, "Rlimit: soft is a number"),  # type: ignore[arg-type]
    (lambda: Nice(20), ValueError, "Nice: value is a number from -20 to 19, not 20"),
    (lambda: Nice(-21), ValueError, "Nice: value"),
    (lambda: Affinity([]), ValueError, "Affinity: there has to be a CPU"),
    (lambda: Affinity([-1]), ValueError, "Affinity: a CPU is a number from 0"),
    (lambda: Affinity("0"), TypeError, "Affinity: cpus are several numbers"),  # type: ignore[arg-type]
    (lambda: Affinity(0), TypeError, "Affinity: cpus are several numbers"),  # type: ignore[arg-type]
    (lambda: Scheduler("FIFO"), ValueError, "Scheduler: FIFO needs a priority from 1 to 99"),
    (lambda: Scheduler("RR", 100), ValueError, "Scheduler: the priority of RR is a number from 1 to 99"),
    (lambda: Scheduler("BATCH", 1), ValueError, "Scheduler: the priority of BATCH is a number from 0 to 0"),
    (lambda: Scheduler("DEADLINE"), ValueError, "Scheduler: policy is one of OTHER, FIFO"),
    (lambda: IoPriority("idle", 3), ValueError, "IoPriority: idle has no level"),
    (lambda: IoPriority("best-effort", 8), ValueError, "IoPriority: level is a number from 0 to 7"),
    (lambda: IoPriority("fast"), ValueError, "IoPriority: class_ is one of NONE"),
    (lambda: OomScoreAdj(1001), ValueError, "OomScoreAdj: value is a number from -1000 to 1000"),
    (lambda: Personality("FAST"), ValueError, "Personality: a flag is one of LINUX32"),
    (lambda: Personality(0xFFFFFFFF), ValueError, "Personality: flags is a number"),
    (lambda: TimerSlack(0), ValueError, "TimerSlack: ns is a number from 1"),
    (lambda: Signals(), ValueError, "Signals: neither default, ignore nor block"),
    (lambda: Signals(default=["HUP"], ignore=[1]), ValueError, "Signals: default and ignore contain {1}"),
    (lambda: Signals(default="all", ignore="all"), ValueError, 'Signals: default and ignore are both "all"'),
    (lambda: Signals(ignore=["KILL"]), ValueError, "Signals: ignore contains SIGKILL"),
    (lambda: Signals(block=[19]), ValueError, "Signals: block contains SIGSTOP"),
    (lambda: Signals(block=["NONE"]), ValueError, "Signals: a signal of block is one of HUP"),
    (lambda: Signals(block=[65]), ValueError, "Signals: a signal of block is a number from 1 to 64"),
    (lambda: Signals(block="TERM"), TypeError, 'Signals: block is "all" or several signals'),
]


@pytest.mark.parametrize(("make", "kind", "text"), REFUSED)
def test_a_wrong_value_is_refused(make: Callable[[], Any], kind: type[Exception], text: str) -> None:
    with pytest.raises(kind, match=f"^{text}"):
        make()


def test_two_limits_of_one_kind_are_refused() -> None:
    with pytest.raises(ValueError, match=r"setup\[0\]: Rlimit\('AS', .*another Rlimit of AS"):
        run(["/bin/true"], setup=[Rlimit("AS", 1 << 30), Nice(1), Rlimit("AS", 1 << 31)], **NEW)


def test_a_holder_has_limits_but_no_signals() -> None:
    with UsernsProcess(uid_map="current", setup=[Rlimit("NOFILE", 50, 60), Nice(7), OomScoreAdj(900)]) as holder:
        assert resource.prlimit(holder.pid, resource.RLIMIT_NOFILE) == (50, 60)
        assert os.getpriority(os.PRIO_PROCESS, holder.pid) == 7
        assert file_of(holder.pid, "oom_score_adj") == "900\n"
    with pytest.raises(ValueError, match="a holder"):
        UsernsProcess(uid_map="current", setup=[Signals(default="all")])


def test_a_limit_is_above_that_of_the_kernel() -> None:
    """`fs.nr_open` holds for root with all capabilities as well."""
    error = refusal(Rlimit("NOFILE", "infinity"))
    assert (error.errno, error.cause, error.setup_index) == (errno.EPERM, "limit-too-high", 0)
