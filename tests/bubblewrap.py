"""bubblewrap of a Debian release: the program, and its own tests, which are in its source package."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from pathlib import Path

import machine

SUITE = "trixie"
FOLDER = Path(sys.prefix, f"bubblewrap-{SUITE}")
PACKAGES = ("bubblewrap", "libc6", "libcap2", "libselinux1", "libpcre2-8-0")


def folder() -> Path:
    """Return the folder with the program `bwrap` and the directory `source`; root fetches them if they are missing."""
    if not FOLDER.exists():
        assert os.geteuid() == 0, f"as root, run first: {sys.executable} tests/bubblewrap.py"
        with tempfile.TemporaryDirectory(prefix="unfinished-", dir=FOLDER.parent) as temporary:
            work = Path(temporary)
            _fetch(work)
            os.rename(work / "done", FOLDER)
    return FOLDER


def program() -> str:
    return str(folder() / "bwrap")


def source() -> Path:
    return next((folder() / "source").glob("bubblewrap-*"))


def _fetch(work: Path) -> None:
    done = work / "done"
    packages = work / "packages"
    for directory in (done / "source", done / "lib", packages):
        directory.mkdir(parents=True)
    architecture = machine.run("dpkg", "--print-architecture").strip()
    apt = machine.Apt(work / "apt", architecture, SUITE)
    apt.unpack_source("bubblewrap", done / "source")
    apt.download(PACKAGES, packages)
    for package in packages.glob("*.deb"):
        machine.run("dpkg", "-x", package, work / "files")
    for library in (work / "files").rglob("*.so*"):
        if "gconv" not in library.parts and library.is_file():
            shutil.copy(library, done / "lib" / library.name)
    program = shutil.copy(work / "files/usr/bin/bwrap", done)
    interpreter = Path(machine.run("patchelf", "--print-interpreter", program).strip()).name
    libraries = FOLDER / "lib"
    machine.run(
        "patchelf", "--set-interpreter", libraries / interpreter, "--force-rpath", "--set-rpath", libraries, program
    )
    os.chmod(done, 0o755)


if __name__ == "__main__":
    print(folder())
