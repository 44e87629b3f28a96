"""Keys of the kernel (`keyrings(7)`), by `keyctl(2)`. As a program: prints whether it finds the key."""

from __future__ import annotations

import os

from native import libc, must

_MACHINE = os.uname().machine
NR_ADD_KEY = {"x86_64": 248, "aarch64": 217, "riscv64": 217, "s390x": 278, "ppc64le": 269}[_MACHINE]
NR_KEYCTL = {"x86_64": 250, "aarch64": 219, "riscv64": 219, "s390x": 280, "ppc64le": 271}[_MACHINE]

GET_KEYRING_ID, JOIN_SESSION_KEYRING, SEARCH = 0, 1, 10
SESSION = -3
NAME = b"usernsproc:test"


def keyctl(*arguments: int | bytes | None) -> int:
    return must(libc.syscall(NR_KEYCTL, *arguments))


def join_new_session() -> None:
    """Give the calling process a new, empty session keyring."""
    keyctl(JOIN_SESSION_KEYRING, None)


def add_key(name: bytes = NAME) -> None:
    """Add a key to the session keyring."""
    must(libc.syscall(NR_ADD_KEY, b"user", name, b"secret", 6, SESSION))


def session_keyring() -> int:
    return keyctl(GET_KEYRING_ID, SESSION, 0)


def has_key() -> bool:
    """Return whether the calling process possesses the key."""
    try:
        keyctl(SEARCH, SESSION, b"user", NAME, 0)
    except OSError:
        return False
    return True


if __name__ == "__main__":
    print("found" if has_key() else "not found")
