"""The programs of `test_setup_seccomp.py`."""

from __future__ import annotations

import errno
import sys

import native
from step_processes import ROOT, done

from usernsproc import UsernsError, _system_calls
from usernsproc.setup import Seccomp
from usernsproc.setup.seccomp import deny

PR_SET_SECCOMP = 22
ALLOW_ALL = bytes.fromhex("0600 00 00 0000ff7f" if sys.byteorder == "little" else "0006 00 00 7fff0000")


def without_seccomp() -> None:
    native.refuse_argument(_system_calls.NR["prctl"], 0, PR_SET_SECCOMP, errno.EPERM)
    try:
        done("true", Seccomp(ALLOW_ALL), **ROOT)
    except UsernsError as error:
        assert (error.step, error.errno, error.cause) == ("Seccomp", errno.EPERM, "seccomp-refused")
    else:
        raise AssertionError("it has started")


def without_pyseccomp() -> None:
    sys.modules["pyseccomp"] = None  # type: ignore[assignment]
    try:
        deny(["mount"])
    except ModuleNotFoundError as error:
        assert "usernsproc[seccomp]" in str(error) + "".join(getattr(error, "__notes__", ()))
    else:
        raise AssertionError("it was found")
