"""The internal helper programs where the caller's limits are low."""

from __future__ import annotations

import errno
import os
import resource
import signal
import time
from typing import Any

import native

from usernsproc import UsernsError, UsernsProcess, check_output, run

NR_CLOSE_RANGE = 436
HIGH = 900
"""A descriptor above the limit."""


def lower_the_limit_and_refuse_close_range(refusal: int) -> None:
    """With an inheritable descriptor above the limit."""
    os.dup2(0, HIGH)
    os.set_inheritable(HIGH, True)
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (200, hard))
    native.refuse_system_call(NR_CLOSE_RANGE, refusal)


def init_and_holder_close_all_without_close_range(refusal: int, holder: bool) -> None:
    lower_the_limit_and_refuse_close_range(refusal)
    options: dict[str, Any] = {"namespaces": ["pid"], "uid_map": "root"}
    if holder:
        process = UsernsProcess(**options)
    else:
        process = UsernsProcess(["sleep", "100"], init=True, close_fds=False, **options)
    with process:
        time.sleep(0.2)
        print(sorted(os.listdir(f"/proc/{process.pid}/fd"), key=int))
        process.kill()


def a_command_has_no_descriptor_above_a_lowered_limit_without_close_range(refusal: int) -> None:
    lower_the_limit_and_refuse_close_range(refusal)
    ways: list[dict[str, Any]] = [{}, {"user": 0}]
    for options in ways:
        print(check_output(["ls", "/proc/self/fd"], text=True, uid_map="root", **options).split())


def no_file_may_be_written_and_no_signal_ends_the_program() -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
    print(run(["true"], uid_map="root").returncode, run(["true"], uid_map="root", user=0).returncode)
    try:
        UsernsProcess(uid_map="root")
    except UsernsError as error:
        print(error.step, error.errno == errno.EFBIG, error.cause)
