"""The internal helper programs: what they keep from the caller, and what they require."""

from __future__ import annotations

import errno
import os
import sys
from pathlib import Path
from typing import Any

import pytest
from alone import run_alone
from programs import helper_programs

from usernsproc import UsernsProcess, check_output

SECRET = "a secret of this command alone"
IDS: dict[str, Any] = {"uid_map": "root", "user": 0, "group": 0}
KINDS: list[Any] = [
    pytest.param(IDS, id="ids"),
    pytest.param({"uid_map": "root"}, id="on_created"),
    pytest.param({"uid_map": "root", "namespaces": ["pid"], "init": True}, id="init"),
]


@pytest.mark.parametrize("options", KINDS)
def test_the_image_of_the_launcher_holds_nothing_of_the_command(options: dict[str, Any]) -> None:
    """If memory must not be executed (vm.memfd_noexec=2), it is on a disk: no environment, no argument."""
    images: list[bytes] = []

    def read(process: UsernsProcess[bytes]) -> None:
        images.append(Path(f"/proc/{process.pid}/exe").read_bytes())

    for secret in (SECRET, f"another, {SECRET}"):
        with UsernsProcess(["true", secret], env={"PATH": os.defpath, "S": secret}, on_created=read, **options):
            pass
    assert not any(SECRET.encode() in image for image in images)


@pytest.mark.parametrize("options", KINDS)
@pytest.mark.parametrize("count", [0, 1, 3000])
def test_arguments_and_environment_arrive_as_they_are(options: dict[str, Any], count: int) -> None:
    """Also many, and empty ones; by execve(2), through the launcher."""
    words = [*(f"{number} " * 20 for number in range(count)), "", "last"]
    env = {f"N{number}": str(number) * 9 for number in range(count)} | {"EMPTY": ""}
    program = "import os, sys; print(ascii((sys.argv[1:], dict(os.environ))))"
    command = [sys.executable, "-I", "-S", "-X", "utf8", "-c", program, *words]
    output = check_output(command, env=env, on_created=lambda _: None, **options)
    got = eval(output)
    assert got[0] == words
    assert {name: value for name, value in got[1].items() if name != "LC_CTYPE"} == env


@pytest.mark.parametrize("size", [1 << 17, 1 << 22])
def test_a_command_line_that_is_too_long_is_refused_at_exec(size: int) -> None:
    """At the step of the command, although the kernel refuses the launcher first."""
    words = ["x" * ((1 << 17) - 2)] * (size >> 17) if size > 1 << 17 else ["x" * (1 << 17)]
    with pytest.raises(OSError, match="exec: Argument list too long") as caught:
        UsernsProcess(["true", *words], **IDS)
    assert caught.value.step == "exec"  # type: ignore[attr-defined]


def test_a_long_search_path_arrives() -> None:
    """It is larger than the buffer of a socket."""
    folders = ":".join(f"/nonexistent/{number}" for number in range(6000))
    output = check_output(["id", "-u"], env={"PATH": f"{folders}:/usr/bin:/bin"}, **IDS)
    assert output == b"0\n"


@pytest.mark.root
def test_many_supplementary_groups_arrive() -> None:
    groups = list(range(60_000))
    every: Any = "0:100000:65536"
    output = check_output(["id", "-G"], uid_map=every, gid_map=every, extra_groups=groups, cwd="/")
    assert sorted(map(int, output.split())) == groups


@pytest.mark.parametrize("refusal", ["ENOSYS", "EPERM"])
@pytest.mark.parametrize("holder", [False, True])
def test_init_and_holder_close_all_without_close_range(refusal: str, holder: bool) -> None:
    """Also descriptors above a limit that was lowered; and they do not count up to a limit of a million."""
    output = run_alone(helper_programs.init_and_holder_close_all_without_close_range, getattr(errno, refusal), holder)
    assert output.strip() == (
        "['0']" if holder else "['1']"
    )  # what shows the end of its creator; where an init reports


@pytest.mark.parametrize("refusal", ["ENOSYS", "EPERM"])
def test_a_command_has_no_descriptor_above_a_lowered_limit_without_close_range(refusal: str) -> None:
    output = run_alone(
        helper_programs.a_command_has_no_descriptor_above_a_lowered_limit_without_close_range, getattr(errno, refusal)
    )
    assert output.split("\n")[:2] == ["['0', '1', '2', '3']"] * 2


def test_no_file_may_be_written_and_no_signal_ends_the_program() -> None:
    """RLIMIT_FSIZE is 0, and SIGXFSZ, which a write to the image would send, has its default action. The image of the
    launcher has been written before."""
    output = run_alone(helper_programs.no_file_may_be_written_and_no_signal_ends_the_program)
    assert output.splitlines() == ["0 0", "memfd_create True file-size-limit"]
