"""CPython's tests of `subprocess` that `UsernsProcess` does not pass, each with the reason.

`docs/coming-from-subprocess.md` has the same list. A test in it that does pass is
an error, see `tests/test_conformance.py`.
"""

from __future__ import annotations

PREEXEC_FN = "uses `preexec_fn`: no Python runs between clone and exec"
FORK_EXEC = "replaces `_posixsubprocess.fork_exec`, a private function that is not called here"
WAITPID = "replaces `os.waitpid`: a process is waited for by its pidfd, not by its pid"
REPR = "compares the wording of `repr`"

LEFT_OUT = {
    "test__use_vfork": FORK_EXEC,
    "test_close_fds_after_preexec": PREEXEC_FN,
    "test_exception_errpipe_bad_data": FORK_EXEC,
    "test_exception_errpipe_normal": FORK_EXEC,
    "test_preexec": PREEXEC_FN,
    "test_preexec_errpipe_does_not_double_close_pipes": PREEXEC_FN,
    "test_preexec_exception": PREEXEC_FN,
    "test_preexec_fork_failure": PREEXEC_FN,
    "test_preexec_gc_module_failure": PREEXEC_FN,
    "test_repr": REPR,
    "test_stopped": WAITPID,
    "test_surrogates_error_message": PREEXEC_FN,
}
