"""Emulated machines with Debian's kernels, for the scripts in architectures/ and kernels/.

The kernels are fetched by apt, with separate directories, from the mirror that the
system is set up with. Nothing is installed.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import os
import pathlib
import re
import shlex
import shutil
import subprocess
import tarfile
import tempfile
import urllib.request
from collections.abc import Iterator, Sequence

KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"
COMMAND_SECONDS = 300

Argument = str | os.PathLike[str]


class Failure(Exception):
    """A failure, described in words."""


def run(*command: Argument, cwd: pathlib.Path | None = None, text: str | None = None) -> str:
    """Return what the command printed; *text* is its input."""
    try:
        done = subprocess.run(command, input=text, capture_output=True, text=True, timeout=COMMAND_SECONDS, cwd=cwd)
    except FileNotFoundError:
        raise Failure(f"{command[0]} is not installed") from None
    except subprocess.TimeoutExpired:
        raise Failure(f"{shlex.join(map(str, command))}: still not done") from None
    if done.returncode:
        raise Failure(f"{shlex.join(map(str, command))}:\n{done.stdout}{done.stderr}")
    return done.stdout


# ---- kernels ----


def debian_mirror() -> str:
    targets = run(
        "apt-get", "indextargets", "--format", "$(ORIGIN) $(LABEL) $(REPO_URI)",
        "Created-By: Packages",
    )  # fmt: skip
    for target in targets.splitlines():
        if target.startswith("Debian Debian "):
            return target.split()[2]
    raise Failure("apt knows no Debian mirror; on Debian, 'apt-get update' may help")


class Apt:
    """apt with separate directories, for one architecture and suite."""

    def __init__(self, folder: pathlib.Path, architecture: str, suite: str) -> None:
        for path in ("etc/apt.conf.d", "etc/preferences.d", "state/lists/partial", "cache"):
            (folder / path).mkdir(parents=True)
        (folder / "status").touch()
        (folder / "etc/sources.list").write_text(
            f"deb [arch={architecture} signed-by={KEYRING}] {debian_mirror()} {suite} main\n"
            f"deb-src [signed-by={KEYRING}] {debian_mirror()} {suite} main\n"
        )
        self.folder = folder
        self.options = [
            f"-o{name}={value}"
            for name, value in {
                "Dir::Etc": folder / "etc",
                "Dir::State": folder / "state",
                "Dir::State::status": folder / "status",
                "Dir::Cache": folder / "cache",
                "APT::Architecture": architecture,
                "APT::Architectures::": architecture,
                "APT::Sandbox::User": "root",
                "APT::Update::Error-Mode": "any",
                "Acquire::Languages": "none",
                "Acquire::Retries": "2",
            }.items()
        ]
        run("apt-get", *self.options, "update")

    def kernel_packages(self, package: str) -> list[str]:
        """Return the packages that contain the kernel and its modules; other packages depend on them."""
        needed = run(
            "apt-cache", *self.options, "depends", "--recurse", "--no-recommends", "--no-suggests",
            "--no-conflicts", "--no-breaks", "--no-replaces", "--no-enhances", package,
        ).split()  # fmt: skip
        for pattern in (r"linux-(binary|modules)-\d.*", r"linux-image-\d.*"):
            if found := {name for name in needed if re.fullmatch(pattern, name)}:
                return sorted(found)
        raise Failure(f"{package}: no kernel among what it needs")

    def download(self, packages: Sequence[str], folder: pathlib.Path) -> None:
        run("apt-get", *self.options, "download", *packages, cwd=folder)

    def unpack_source(self, package: str, folder: pathlib.Path) -> None:
        """Unpack what the authors of a package publish, without Debian's changes."""
        uris = run("apt-get", *self.options, "source", "--print-uris", package)
        found = re.search(r"'(\S+)' \S+\.orig\.tar\.\S+ \d+ SHA256:(\S+)", uris)
        if not found:
            raise Failure(f"{package}: no source among:\n{uris}")
        with urllib.request.urlopen(found[1]) as answer:
            content = answer.read()
        if hashlib.sha256(content).hexdigest() != found[2]:
            raise Failure(f"{found[1]} is not what Debian has signed")
        with tarfile.open(fileobj=io.BytesIO(content)) as archive:
            archive.extractall(folder, filter="data")


def kernel_packages(architecture: str, package: str, suite: str, cache: pathlib.Path) -> list[pathlib.Path]:
    """Return the files of the packages that *package* stands for in that suite, and fetch missing ones."""
    folder = cache / f"{architecture}-{suite}-packages"
    if not folder.exists():
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix="unfinished-", dir=cache) as temporary:
            unfinished = pathlib.Path(temporary, "packages")
            unfinished.mkdir()
            apt = Apt(pathlib.Path(temporary, "apt"), architecture, suite)
            apt.download(apt.kernel_packages(package), unfinished)
            try:
                unfinished.rename(folder)  # complete or not there at all: a later run takes what it finds
            except OSError:
                if not folder.exists():  # another run was quicker
                    raise
    return sorted(folder.glob("*.deb"))


def kernel_in(packages: Sequence[pathlib.Path], folder: pathlib.Path) -> pathlib.Path:
    """Unpack the packages into *folder* and return the kernel in it."""
    before = set(kernels_below(folder))
    for package in packages:
        # Not dpkg-deb -x, which replaces a link from /lib to usr/lib by a folder.
        unpack = 'dpkg-deb --fsys-tarfile "$1" | tar -x --keep-directory-symlink -C "$2"'
        run("bash", "-o", "pipefail", "-c", unpack, "unpack", package, folder)
    found = [kernel for kernel in kernels_below(folder) if kernel not in before]
    if not found:
        raise Failure(f"{' '.join(package.name for package in packages)}: no kernel in it")
    return found[0]


def kernels_below(folder: pathlib.Path) -> list[pathlib.Path]:
    return [*folder.glob("boot/vmlinu*"), *folder.glob("usr/lib/modules/*/vmlinu*")]


def cache_option(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--cache",
        type=pathlib.Path,
        default=pathlib.Path(tempfile.gettempdir(), "usernsproc-kernels"),
        help="where fetched kernels are kept (default: %(default)s)",
    )


# ---- the machine ----


def boot(
    emulator: Sequence[str], kernel: pathlib.Path, *arguments: Argument, append: str, memory: str, seconds: int
) -> Iterator[str]:
    """Yield the lines that a machine writes on its console until it exits or the time is up."""
    command: list[Argument] = [
        "timeout", "--signal=KILL", str(seconds),  # also if this script is killed
        *emulator, "-accel", "tcg", "-smp", "1", "-m", memory,
        "-nic", "none", "-display", "none", "-monitor", "none", "-serial", "stdio", "-no-reboot",
        "-kernel", kernel, *arguments, "-append", f"{append} quiet panic=-1",
    ]  # fmt: skip
    if not shutil.which(emulator[0]):
        raise Failure(f"{emulator[0]} is not installed")
    with subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    ) as machine:
        for line in machine.stdout or ():
            yield line.rstrip()
