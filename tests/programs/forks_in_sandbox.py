"""A program in a sandbox whose kernel cannot empty a page in forked copies.

The core looks for this when it is loaded, so the package is imported after the system call is refused.
"""

from __future__ import annotations

import errno

import native

NR_MADVISE = {"x86_64": 28, "aarch64": 233, "riscv64": 233, "s390x": 219, "ppc64le": 206}[native.MACHINE]


def number_and_process_of_a_copy(how: str) -> None:
    native.refuse_system_call(NR_MADVISE, errno.EINVAL)
    from programs import forks

    forks.number_and_process_of_a_copy(how)
