"""A hostile root file system: no path of it leads a set-up step, or the command, out of the new root."""

from __future__ import annotations

import itertools
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from alone import command, environment
from programs.setup_attacks import swap_for_ever

from usernsproc import UsernsError, run
from usernsproc.setup import Bind, Dev, Devpts, Proc, Root, Step, Tmpfs

LINKS = ("bin", "lib", "lib64")


@pytest.fixture
def rootfs(tmp_path: Path) -> Path:
    """A directory that the attacker owns, with /bin and /lib as links into /usr."""
    folder = tmp_path / "rootfs"
    folder.mkdir()
    for name in LINKS:
        if os.path.islink(f"/{name}"):
            (folder / name).symlink_to(f"usr/{name}")
    return folder


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    """What must not change."""
    folder = tmp_path / "outside"
    folder.mkdir()
    (folder / "secret").write_text("secret")
    return folder


def is_untouched(outside: Path) -> bool:
    return os.listdir(outside) == ["secret"] and (outside / "secret").read_text() == "secret"


def box(rootfs: Path, *steps: Step) -> list[Step]:
    system = [Bind(f"/{name}", read_only=True) for name in ("usr", *LINKS) if not os.path.islink(f"/{name}")]
    return [Root(rootfs), *system, *steps]


def userns_of_command() -> list[dict[str, Any]]:
    """New, and, which takes root, none: nothing but the set-up keeps the command inside then."""
    new = {"uid_map": "root"}
    return [new, {"join": "/proc/self/ns/user"}] if os.geteuid() == 0 else [new]


def inside(script: str, setup: list[Step], **options: object) -> subprocess.CompletedProcess[str]:
    given: dict[str, object] = {"namespaces": ["pid"], **options}
    if "join" not in given:
        given.setdefault("uid_map", "root")
    return run(["/bin/sh", "-c", script], setup=setup, capture_output=True, text=True, **given)  # type: ignore[call-overload,no-any-return]


# ---- symbolic links in targets: the kind of CVE-2026-41579 (runc) and CVE-2026-87766 (bubblewrap) ----

TARGETS: dict[str, Callable[[str], Step]] = {
    "directory": lambda target: Bind("/usr/share", target),
    "file": lambda target: Bind("/etc/passwd", target),
    "tmpfs": Tmpfs,
    "proc": Proc,
    "dev": Dev,
    "devpts": Devpts,
}


@pytest.mark.parametrize("kind", TARGETS)
@pytest.mark.parametrize("component", range(3))
@pytest.mark.parametrize("how", ["absolute", "upwards", "chain", "magic"])
def test_cve_2026_41579_cve_2026_87766_a_link_in_a_target_leads_nowhere(
    rootfs: Path, outside: Path, kind: str, component: int, how: str
) -> None:
    parts = ["a", "b", "c"]
    parent = rootfs.joinpath(*parts[:component])
    parent.mkdir(parents=True, exist_ok=True)
    link = parent / parts[component]
    if how == "absolute":
        link.symlink_to(outside)
    elif how == "upwards":
        link.symlink_to("../" * 40 + str(outside).lstrip("/"))
    elif how == "chain":
        (rootfs / "first").symlink_to("second")
        (rootfs / "second").symlink_to(outside)
        link.symlink_to("/first")
    else:
        (rootfs / "proc").mkdir()
        link.symlink_to(f"/proc/1/root{outside}")
    steps = [Bind("/proc")] if how == "magic" else []
    for userns in userns_of_command():
        try:
            inside(
                "true", box(rootfs, *steps, TARGETS[kind]("/" + "/".join(parts))), namespaces=["net", "pid"], **userns
            )
        except UsernsError as error:
            assert error.setup_index is not None
    assert is_untouched(outside)


def test_a_link_that_stays_inside_is_followed(rootfs: Path) -> None:
    (rootfs / "real").mkdir()
    (rootfs / "link").symlink_to("/real")
    result = inside("ls /real/x", box(rootfs, Tmpfs("/link/x"), Bind("/etc/passwd", "/link/x/y")))
    assert (result.stdout, result.stderr) == ("y\n", "")


@contextmanager
def swapping(one: Path, other: Path) -> Iterator[None]:
    """Two paths are exchanged all the time, atomically."""
    with subprocess.Popen(
        command(swap_for_ever, str(one), str(other)), env=environment(), stdout=subprocess.PIPE
    ) as process:
        try:
            assert process.stdout is not None
            process.stdout.readline()
            yield
        finally:
            process.kill()


TRIES, TARGETS_AT_ONCE = 20_000, 250


@pytest.mark.parametrize("what", ["directory", "parent"])
def test_cve_2021_30465_a_target_that_is_swapped_meanwhile(rootfs: Path, outside: Path, what: str) -> None:
    """The link leads to a directory that exists in the root as well: each try gets as far as the mount."""
    (rootfs / str(outside).lstrip("/")).mkdir(parents=True)
    (rootfs / "a" / "b").mkdir(parents=True)
    (rootfs / "link").symlink_to(outside)
    (rootfs / "parent_link").symlink_to(outside.parent)
    victim, link = (
        (rootfs / "a", rootfs / "link") if what == "directory" else (rootfs / "a" / "b", rootfs / "parent_link")
    )
    folder = "/a" if what == "directory" else "/a/b"
    steps = [Bind("/etc/passwd", f"{folder}/{n}") for n in range(TARGETS_AT_ONCE)]
    done = 0
    with swapping(victim, link):
        while done < TRIES:  # a lookup that meets an exchange may fail with EAGAIN, and ends a try of all
            try:
                inside("true", box(rootfs, *steps))
                done += TARGETS_AT_ONCE
            except UsernsError as error:
                assert error.setup_index is not None
                done += error.setup_index
    assert is_untouched(outside)


# ---- what is left of the old root ----

EVERYTHING = """
cat /proc/self/mountinfo
for fd in /proc/self/fd/*; do echo "fd $(readlink $fd)"; done
for n in 1 self; do ls -d /proc/$n/root/*; ls -d /proc/$n/cwd/../../../../*; done
ls -d /../../*
"""


@pytest.mark.parametrize("init", [False, True])
@pytest.mark.parametrize("source", ["tmpfs", "directory"])
def test_nothing_of_the_old_root_can_be_reached(rootfs: Path, outside: Path, source: str, init: bool) -> None:
    links: list[Step] = [Bind(f"/{name}", read_only=True) for name in LINKS]
    steps = (
        box(rootfs, Proc()) if source == "directory" else [Root("tmpfs"), Bind("/usr", read_only=True), *links, Proc()]
    )
    with (outside / "secret").open() as file:
        os.set_inheritable(file.fileno(), True)
        result = inside(EVERYTHING, steps, init=init)
    assert result.returncode == 0, result.stderr
    assert str(outside) not in result.stdout
    mounts = [line.split()[4] for line in result.stdout.splitlines() if " - " in line]
    assert set(mounts) - {"/", "/usr", "/proc", *(f"/{name}" for name in LINKS)} == set()
    shown = {
        line.rstrip("/").rpartition("/")[2]
        for line in result.stdout.splitlines()
        if "proc" not in line and " " not in line
    }
    assert shown <= {"usr", "proc", *LINKS}


# ---- what runs before the command ----


def test_cve_2019_5736_the_program_that_sets_up_cannot_be_changed(rootfs: Path) -> None:
    script = (
        "for n in 1 self/task/1 $$ $PPID; do : 3>/proc/$n/exe && echo opened; : 3>>/proc/$n/exe && echo opened; done"
    )
    result = inside(script, box(rootfs, Proc()), init=True)
    assert "opened" not in result.stdout
    assert "exe" in result.stderr
    assert inside("echo works", box(rootfs)).stdout == "works\n"


@pytest.mark.parametrize("part", ["", "/", "/../../../../.."])
def test_cve_2024_21626_no_descriptor_of_the_set_up_is_a_way_out(rootfs: Path, outside: Path, part: str) -> None:
    """As the working directory, and as the path of the program, which the image of a container may choose."""
    (rootfs / "proc").mkdir()
    program = shutil.copy("/bin/true", outside)
    for fd, userns in itertools.product(range(40), userns_of_command()):
        with pytest.raises(OSError):  # noqa: PT011, which one depends on what the descriptor is of
            inside("pwd", box(rootfs, Proc()), cwd=f"/proc/self/fd/{fd}{part}", **userns)
        for tail in (program, f"/1/root{program}", f"/self/root{program}"):
            path = f"/proc/self/fd/{fd}{part}{tail}"
            try:
                result = run([path], namespaces=["pid"], setup=box(rootfs, Proc()), **userns)
            except OSError:
                continue
            pytest.fail(f"{path} was executed: {result.returncode}")


def test_cve_2025_31133_devices_are_not_those_of_the_root_file_system(rootfs: Path, outside: Path) -> None:
    (rootfs / "dev").mkdir()
    (rootfs / "dev" / "null").symlink_to(outside / "secret")
    result = inside("echo x > /dev/null; stat -c %t:%T /dev/null", box(rootfs, Dev()))
    assert (result.stdout, result.stderr) == ("1:3\n", "")
    assert is_untouched(outside)


def test_cve_2025_52565_terminals_are_not_those_of_the_root_file_system(rootfs: Path, outside: Path) -> None:
    (rootfs / "dev").mkdir()
    (rootfs / "dev" / "pts").symlink_to(outside)
    (rootfs / "dev" / "ptmx").symlink_to(outside / "secret")
    result = inside("stat -f -c %T /dev/pts; readlink /dev/ptmx", box(rootfs, Dev()))
    assert (result.stdout, result.stderr) == ("devpts\npts/ptmx\n", "")
    assert is_untouched(outside)
