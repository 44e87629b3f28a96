"""Names, the loopback device, clocks and keys of new namespaces. Each test looks from inside."""

from __future__ import annotations

import errno
import math
import os
import pickle
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from alone import run_alone
from programs import session_keyring
from setup_steps import NEW, inside
from test_join import host_owned

from usernsproc import UsernsError, UsernsProcess, run
from usernsproc.setup import Domainname, Hostname, Loopback, SessionKeyring, Step, TimeOffset

# ---- names ----

NAMES = "[os.uname().nodename, open('/proc/sys/kernel/domainname').read().strip()]"


@pytest.mark.parametrize("init", [False, True])
def test_names(init: bool) -> None:
    before = os.uname().nodename
    options: dict[str, Any] = {"namespaces": ["uts", "pid"], "init": init}
    assert inside(NAMES, Hostname("box"), Domainname("nis.example"), **options) == ["box", "nis.example"]
    assert inside(NAMES, Hostname("x" * 64), Domainname("y" * 64), **options) == ["x" * 64, "y" * 64]
    assert inside("os.uname().nodename", Hostname("bücher"), **options) == "bücher"
    assert inside("os.uname().nodename", Hostname(""), **options) == ""
    assert os.uname().nodename == before


def test_names_of_a_joined_namespace() -> None:
    """They are those of all processes there."""
    with UsernsProcess(uid_map="root", gid_map="root", namespaces=["uts"]) as holder:
        assert inside("os.uname().nodename", Hostname("shared"), userns={"join": holder}) == "shared"
        assert inside("os.uname().nodename", userns={"join": holder}) == "shared"


@pytest.mark.root
def test_a_namespace_that_the_user_namespace_does_not_own() -> None:
    """The command has its capabilities in the new one."""
    with host_owned("uts", "net") as namespaces:
        assert (
            inside("os.uname().nodename", Hostname("box"), userns={"join": [*namespaces, "/proc/self/ns/user"]})
            == "box"
        )
        for step in (Hostname("other"), Domainname("other"), Loopback()):
            with pytest.raises(UsernsError) as caught:
                run(["/bin/true"], join=namespaces, uid_map="root", setup=[step])
            assert (caught.value.step, caught.value.errno) == (type(step).__name__, errno.EPERM)
            assert caught.value.cause == "no-namespace-rights"


@pytest.mark.root
def test_without_a_new_user_namespace() -> None:
    own: dict[str, Any] = {"join": "/proc/self/ns/user", "namespaces": ["uts", "net", "time"]}
    setup = [Hostname("box"), Loopback(), TimeOffset(boottime=10**6)]
    code = "[os.uname().nodename, __import__('socket').create_server(('127.0.0.1', 0)).getsockname()[0]]"
    assert inside(code, *setup, userns=own) == ["box", "127.0.0.1"]


# ---- the loopback device ----

CONNECT = """(lambda s, family, host: [
    (server := s.create_server((host, 0), family=family)),
    (client := s.create_connection(server.getsockname()[:2])),
    client.sendall(b'sent'),
    server.accept()[0].recv(4).decode(),
][-1])"""


@pytest.mark.parametrize(("family", "host"), [(socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")])
@pytest.mark.parametrize("options", [{}, {"namespaces": ["net", "pid"], "init": True}], ids=["command", "init"])
def test_a_connection_within_the_namespace(family: int, host: str, options: dict[str, Any]) -> None:
    given = {"namespaces": ["net"], **options}
    code = f"{CONNECT}(__import__('socket'), {int(family)}, {host!r})"
    assert inside(code, Loopback(), **given) == "sent"
    with pytest.raises(AssertionError):
        inside(code, **given, stderr=-3)


def test_a_connection_in_a_joined_namespace() -> None:
    """By the holder's set-up, and by that of a command; a device that is up stays up."""
    code = f"{CONNECT}(__import__('socket'), {int(socket.AF_INET)}, '127.0.0.1')"
    with UsernsProcess(uid_map="root", gid_map="root", namespaces=["net"], setup=[Loopback()]) as holder:
        assert inside(code, userns={"join": holder}) == "sent"
        assert inside(code, Loopback(), userns={"join": holder}) == "sent"
    with UsernsProcess(uid_map="root", gid_map="root", namespaces=["net"]) as holder:
        assert inside(code, Loopback(), userns={"join": holder}) == "sent"


# ---- clocks ----

CLOCKS = {"monotonic": time.CLOCK_MONOTONIC, "boottime": time.CLOCK_BOOTTIME}


def offset_inside(clock: int, *steps: Step, **options: Any) -> tuple[float, float]:
    """The least and the greatest value that the offset of the clock can have, in seconds."""
    before = time.clock_gettime(clock)
    then: float = inside(f"__import__('time').clock_gettime({clock})", *steps, **options)
    return then - time.clock_gettime(clock), then - before


@pytest.mark.parametrize("clock", CLOCKS)
@pytest.mark.parametrize("seconds", [86400, -1, 10**9, 0.25, -0.5])
@pytest.mark.parametrize("init", [False, True])
def test_a_clock_that_is_ahead_or_behind(clock: str, seconds: float, init: bool) -> None:
    options: dict[str, Any] = {"namespaces": ["time", "pid"] if init else ["time"], "init": init}
    least, most = offset_inside(CLOCKS[clock], TimeOffset(**{clock: seconds}), **options)
    assert least <= seconds <= most
    other = CLOCKS["boottime" if clock == "monotonic" else "monotonic"]
    least, most = offset_inside(other, TimeOffset(**{clock: seconds}), **options)
    assert least <= 0 <= most


def test_both_clocks_as_the_kernel_shows_them() -> None:
    step = TimeOffset(monotonic=-2.5, boottime=7)
    shown = inside("open('/proc/self/timens_offsets').read().split()", step, namespaces=["time"])
    assert shown == ["monotonic", "-3", "500000000", "boottime", "7", "0"]


def test_a_clock_cannot_become_negative() -> None:
    for seconds in (-(10**9), 10**11):
        with pytest.raises(UsernsError) as caught:
            run(["/bin/true"], namespaces=["time"], setup=[TimeOffset(monotonic=seconds)], **NEW)
        assert (caught.value.call, caught.value.errno) == ("write", errno.ERANGE)
        assert (caught.value.cause, caught.value.filename) == ("clock-out-of-range", "/proc/self/timens_offsets")


def test_a_time_namespace_together_with_joined_ones() -> None:
    """Of a process that joins namespaces, the files in /proc belong to root."""
    with UsernsProcess(uid_map="root", gid_map="root", namespaces=["net"]) as holder:
        try:
            least, most = offset_inside(
                CLOCKS["boottime"], TimeOffset(boottime=500), userns={"join": holder, "namespaces": ["time"]}
            )
            assert least <= 500 <= most
            assert os.geteuid() == 0
        except UsernsError as error:
            assert (error.call, error.errno, error.cause) == ("openat2", errno.EACCES, "not-dumpable")
            assert os.geteuid() != 0


# ---- keys ----


def test_a_session_keyring_of_its_own() -> None:
    run_alone(session_keyring.step_is_a_new_one)


# ---- values ----

VALUES: list[Step] = [
    Hostname("a"),
    Hostname("b"),
    Domainname("a"),
    Loopback(),
    TimeOffset(monotonic=5),
    TimeOffset(boottime=-0.5),
    SessionKeyring(),
]


@pytest.mark.parametrize("step", VALUES, ids=repr)
def test_a_step_is_a_value(step: Step) -> None:
    for copy in (eval(repr(step)), pickle.loads(pickle.dumps(step))):
        assert (copy, hash(copy)) == (step, hash(step))
    assert [other for other in VALUES if other == step] == [step]


REFUSED: list[tuple[Callable[[], Any], type[Exception], str]] = [
    (lambda: Hostname("x" * 65), ValueError, "Hostname: name has at most 64 bytes"),
    (lambda: Hostname("ü" * 33), ValueError, "Hostname: name has at most 64 bytes"),
    (lambda: Domainname("a\0b"), ValueError, "Domainname: name has at most 64 bytes, none of them null"),
    (lambda: Hostname(b"box"), TypeError, "Hostname: name is a string"),  # type: ignore[arg-type]
    (lambda: TimeOffset(), ValueError, "TimeOffset: neither monotonic nor boottime"),
    (lambda: TimeOffset(monotonic=math.inf), ValueError, "TimeOffset: monotonic is a finite number"),
    (lambda: TimeOffset(boottime=math.nan), ValueError, "TimeOffset: boottime is a finite number"),
    (lambda: TimeOffset(boottime="1d"), TypeError, "TimeOffset: boottime is a number of seconds"),  # type: ignore[arg-type]
    (lambda: TimeOffset(boottime=True), TypeError, "TimeOffset: boottime is a number of seconds"),
]


@pytest.mark.parametrize(("make", "kind", "text"), REFUSED)
def test_a_wrong_value_is_refused(make: Callable[[], Any], kind: type[Exception], text: str) -> None:
    with pytest.raises(kind, match=f"^{text}"):
        make()


@pytest.mark.parametrize(
    ("step", "kind"),
    [(Hostname("a"), "uts"), (Domainname("a"), "uts"), (Loopback(), "net"), (TimeOffset(boottime=1), "time")],
    ids=repr,
)
def test_the_namespace_has_to_be_another(step: Step, kind: str) -> None:
    """The namespaces of the caller are not changed."""
    with pytest.raises(ValueError, match=rf'setup\[0\]: {type(step).__name__}.*namespaces=\("{kind}",\)'):
        run(["/bin/true"], setup=[step], **NEW)


def test_a_time_namespace_that_is_joined_has_its_offsets() -> None:
    with (
        UsernsProcess(uid_map="root", gid_map="root", namespaces=["time"]) as holder,
        pytest.raises(ValueError, match=r"setup\[0\]: TimeOffset.*a new one"),
    ):
        run(["/bin/true"], join=holder, setup=[TimeOffset(boottime=1)])


def test_the_holder_keeps_them() -> None:
    setup: list[Step] = [Hostname("held"), Loopback(), TimeOffset(boottime=1000), SessionKeyring()]
    options: dict[str, Any] = {"uid_map": "root", "gid_map": "root", "namespaces": ["uts", "net", "time"]}
    with UsernsProcess(setup=setup, **options) as holder:
        assert inside("os.uname().nodename", userns={"join": holder}) == "held"
        least, most = offset_inside(CLOCKS["boottime"], userns={"join": holder})
        assert least <= 1000 <= most
    assert Path("/proc/self/timens_offsets").read_text().split()[-2] == "0"
