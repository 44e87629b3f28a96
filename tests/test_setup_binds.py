"""Sources of bind mounts and roots, and what the command may do with them."""

from __future__ import annotations

import errno
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

import pytest
from alone import run_alone
from commands import output
from programs import setup_binds
from programs.setup_files import DEVICES, HOST, SHELL, look

from usernsproc import DetachedMount, UsernsError, create_userns, open_idmapped
from usernsproc.setup import Bind, Dir, File, Root, Symlink, Tmpfs

ROOTED: dict[str, Any] = {"uid_map": "root", "gid_map": "root"}


@pytest.fixture
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as path:
        Path(path).chmod(0o755)
        (Path(path) / "file").write_text("content\n")
        yield Path(path)


class Descriptor:
    """An object with a descriptor that only stands for a path (`O_PATH`)."""

    def __init__(self, path: Path) -> None:
        self._fd = os.open(path, os.O_PATH)

    def fileno(self) -> int:
        return self._fd

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._fd)


# ---- a descriptor as the source ----


@pytest.mark.parametrize("as_number", [True, False])
def test_a_descriptor_of_a_file_or_a_directory(folder: Path, as_number: bool) -> None:
    with Descriptor(folder / "file") as file, Descriptor(folder) as directory:
        sources: list[Any] = [file.fileno(), directory.fileno()] if as_number else [file, directory]
        assert look("cat /f /d/file", Bind(sources[0], "/f"), Bind(sources[1], "/d")) == "content\n" * 2


@pytest.mark.parametrize("kind", ["file", "directory"])
def test_a_descriptor_of_what_has_been_renamed(folder: Path, kind: str) -> None:
    (folder / "directory").mkdir()
    (folder / "directory" / "inner").touch()
    with Descriptor(folder / kind) as source:
        (folder / kind).rename(folder / "renamed")
        (folder / kind).write_text("another\n")
        script = "cat /there" if kind == "file" else "ls /there"
        assert look(script, Bind(source, "/there")) == ("content\n" if kind == "file" else "inner\n")


@pytest.mark.parametrize("kind", ["file", "directory"])
def test_a_descriptor_of_what_has_been_deleted(folder: Path, kind: str) -> None:
    """It has no path that leads to it: an error, and never what is at its path now."""
    (folder / "directory").mkdir()
    with Descriptor(folder / kind) as source:
        (folder / kind).unlink() if kind == "file" else (folder / kind).rmdir()
        for name in (kind, f"{kind} (deleted)"):
            error = failure(Bind(source, "/there"))
            assert (error.step, error.errno) in (("Bind", errno.ENOENT), ("Bind", errno.ESTALE))
            (folder / name).write_text("another")


def failure(*steps: Any, **options: Any) -> UsernsError:
    with pytest.raises(UsernsError) as raised:
        look("true", *steps, **options)
    return raised.value


# ---- a detached mount ----


@pytest.mark.root
@pytest.mark.kernel("5.12")
def test_an_idmapped_mount(folder: Path) -> None:
    os.chown(folder / "file", 1000, 1000)
    with create_userns("1000:100005:1", "1000:100005:1") as userns, open_idmapped(folder, userns) as mount:
        maps = {"uid_map": "0:100000:65536", "gid_map": "0:100000:65536"}
        assert look("stat -c %u:%g /there/file", Bind(mount, "/there", read_only=True), **maps) == "5:5\n"


@pytest.mark.root
@pytest.mark.parametrize("own", [True, False])
def test_a_detached_mount_moves_and_can_be_used_once(folder: Path, own: bool) -> None:
    where = {"join": "/proc/self/ns/user", "uid_map": None, "gid_map": None} if own else {}
    for source in (folder, folder / "file"):
        with DetachedMount(setup_binds.open_copy(source)) as mount:
            step = Bind(mount, "/there", dev=True, suid=True)
            assert look("cat /there/file 2>/dev/null || cat /there", step, **where) == "content\n"
            assert failure(step, **where).step == "Bind"


@pytest.mark.root
@pytest.mark.kernel("5.12")
def test_a_detached_mount_as_root(folder: Path) -> None:
    (folder / "marker").touch()
    binds = [Bind(step.source, step.target) for step in HOST]
    with DetachedMount(setup_binds.open_copy(folder)) as mount:
        found = output([*SHELL, "ls /marker; pwd"], setup=[Root(mount), *binds], **ROOTED)
    assert found == "/marker\n/\n"


def test_a_descriptor_as_root(folder: Path) -> None:
    (folder / "marker").touch()
    with Descriptor(folder) as source:
        assert output([*SHELL, "ls /marker; pwd"], setup=[Root(source), *HOST], **ROOTED) == "/marker\n/\n"


# ---- options ----


def test_a_source_that_may_be_missing(folder: Path) -> None:
    missing = Bind(folder / "none", "/there", missing_ok=True)
    assert look("test ! -e /there && echo nothing", missing) == "nothing\n"
    assert look("ls /there", Bind(folder, "/there", missing_ok=True)) == "file\n"
    error = failure(Bind(folder / "none", "/there"))
    assert (error.errno, error.call, error.filename) == (errno.ENOENT, "open_tree", str(folder / "none"))


def test_a_target_that_must_exist(folder: Path) -> None:
    error = failure(Bind(folder, "/there", create=False))
    assert (error.errno, error.call, error.filename) == (errno.ENOENT, "openat2", "/there")
    assert look("ls /there", Dir("/there"), Bind(folder, "/there", create=False)) == "file\n"


@pytest.mark.parametrize("other", ["file", "directory"])
def test_a_target_of_the_other_kind(folder: Path, other: str) -> None:
    steps = [Dir("/there"), Bind(folder / "file", "/there")]
    if other == "file":
        steps = [File("/there", "x"), Bind(folder, "/there")]
    assert failure(*steps).step == "Bind"


@pytest.mark.parametrize("recursive", [True, False])
def test_mounts_below_the_source(folder: Path, recursive: bool) -> None:
    found = run_alone(setup_binds.with_a_mount_below, str(folder), recursive)
    assert found.split() == (["below"] if recursive else ["refused", "EINVAL", "empty"])


@pytest.mark.root
def test_device_nodes_and_set_user_id(folder: Path) -> None:
    """Only by wish; with a new user namespace the kernel refuses device nodes of the caller's files in any case."""
    os.mknod(folder / "null", 0o666 | 0o020000, os.makedev(1, 3))
    script = "(echo > /there/null) 2>/dev/null && echo device; grep -o ' /there [^ ]*' /proc/self/mountinfo"
    own = {"join": "/proc/self/ns/user", "uid_map": None, "gid_map": None}
    proc = Bind("/proc")
    for dev, suid, options in ((False, False, "nosuid,nodev"), (True, False, "nosuid"), (False, True, "nodev")):
        found = look(f"{script}; true", proc, Bind(folder, "/there", dev=dev, suid=suid), **own).split()
        assert ("device" in found) == dev
        flags = set(found[-1].split(",")) & {"nosuid", "nodev"}
        assert flags == set(options.split(","))


@pytest.mark.parametrize("name", ["usr", "a b", "ü", "back\\slash", "#x"])
def test_names_of_any_kind(folder: Path, name: str) -> None:
    (folder / name).mkdir()
    (folder / name / "in").write_text("x\n")
    assert look(f"cat '/t/{name}/in'", Bind(folder / name, f"/t/{name}", read_only=True)) == "x\n"


def test_mountinfo_names_the_file_systems() -> None:
    printed = look("cut -d' ' -f5,9- /proc/self/mountinfo | grep ' tmpfs '", Bind("/proc"), Tmpfs("/tmp"))
    assert {line.rsplit(" ", 2)[-2] for line in printed.splitlines()} >= {"tmpfs"}
    assert " none " not in printed


def test_a_root_that_is_a_directory_is_used_again(folder: Path) -> None:
    steps = [Root(folder), *HOST, DEVICES, Dir("/d"), Symlink("x", "/l"), File("/covered", "x", cover=True)]
    for _ in range(2):
        assert output([*SHELL, "cat /covered; echo changed > /covered"], setup=steps, **ROOTED) == "x"
    assert (folder / "covered").read_text() == ""
