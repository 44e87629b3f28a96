"""The internal helper programs: what they hold of the caller, and what they need of it."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from usernsproc import UsernsProcess, check_output

Script = Callable[..., str]
SECRET = "a secret of this command alone"
IDS: dict[str, Any] = {"uid_map": "root", "user": 0, "group": 0}
KINDS: list[Any] = [
    pytest.param(IDS, id="ids"),
    pytest.param({"uid_map": "root"}, id="on_created"),
    pytest.param({"uid_map": "root", "namespaces": ["pid"], "init": True}, id="init"),
]


@pytest.mark.parametrize("options", KINDS)
def test_the_image_of_the_launcher_holds_nothing_of_the_command(options: dict[str, Any]) -> None:
    """It lies on a disk where memory may not be executed (vm.memfd_noexec=2): no environment, no argument."""
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
    """At the step of the command, although it is the launcher that the kernel refuses first."""
    words = ["x" * ((1 << 17) - 2)] * (size >> 17) if size > 1 << 17 else ["x" * (1 << 17)]
    with pytest.raises(OSError, match="exec: Argument list too long") as caught:
        UsernsProcess(["true", *words], **IDS)
    assert caught.value.step == "exec"  # type: ignore[attr-defined]


def test_a_long_search_path_arrives() -> None:
    """More than a socket takes at once."""
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
def test_init_and_holder_close_all_without_close_range(refusal: str, holder: bool, script: Script) -> None:
    """Also descriptors above a limit that was lowered; and they do not count up to a limit of a million."""
    output = script(
        f"""
        import errno, os, resource, time
        import native
        from usernsproc import UsernsProcess
        high = 900
        os.dup2(0, high)
        os.set_inheritable(high, True)
        _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (200, hard))
        native.refuse_system_call(436, errno.{refusal})
        options = dict(namespaces=["pid"], uid_map="root")
        if {holder}:
            process = UsernsProcess(**options)
        else:
            process = UsernsProcess(["sleep", "100"], init=True, close_fds=False, **options)
        with process:
            time.sleep(0.2)
            print(sorted(os.listdir(f"/proc/{{process.pid}}/fd"), key=int))
            process.kill()
        """
    )
    assert output.strip() == ("['0']" if holder else "[]")


@pytest.mark.parametrize("refusal", ["ENOSYS", "EPERM"])
def test_a_command_has_no_descriptor_above_a_lowered_limit_without_close_range(refusal: str, script: Script) -> None:
    output = script(
        f"""
        import errno, os, resource
        import native
        from usernsproc import check_output
        os.dup2(0, 900)
        os.set_inheritable(900, True)
        _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (200, hard))
        native.refuse_system_call(436, errno.{refusal})
        for options in ({{}}, {{"user": 0}}):
            print(check_output(["ls", "/proc/self/fd"], text=True, uid_map="root", **options).split())
        """
    )
    assert output.split("\n")[:2] == ["['0', '1', '2', '3']"] * 2


def test_no_file_may_be_written_and_no_signal_ends_the_program(script: Script) -> None:
    """RLIMIT_FSIZE=0, and SIGXFSZ at its default, which a write to the image would send."""
    output = script(
        """
        import errno, resource, signal
        from usernsproc import UsernsError, UsernsProcess, run
        resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
        signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
        print(run(["true"], uid_map="root").returncode)
        for args in (["true"], None):
            try:
                UsernsProcess(args, uid_map="root", **({"user": 0} if args else {}))
            except UsernsError as error:
                print(error.step, error.errno == errno.EFBIG, error.cause)
        """
    )
    assert output.splitlines() == ["0", *["memfd_create True file-size-limit"] * 2]
