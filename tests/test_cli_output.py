"""The output of the commands, to any file, in any locale, with any names."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
import typing_extensions
from alone import A_HANG

import usernsproc
from usernsproc import UsernsProcess

ROOT = Path(__file__).parent.parent
PROGRAM = [sys.executable, "-m", "usernsproc"]

PRINTING = [
    ["--help"],
    ["--version"],
    ["run", "--help"],
    ["enter", "--help"],
    ["create", "--help"],
    ["unpin", "--help"],
    ["mount", "--help"],
    ["umount", "--help"],
    ["ls"],
    ["ls", "--tree"],
    ["ls", "--json"],
    ["map"],
    ["map", "root"],
    ["map", "root", "--json"],
    ["map", "root", "--to-outside", "0"],
    ["doctor", "userns"],
    ["doctor", "userns", "--json"],
]
FAILING = [
    ["run", "--map", "root", "--", "/no/such/program"],
    ["run", "--map", "nonsense", "--", "true"],
    ["enter", "/no/such/file", "--", "true"],
    ["create", "--map", "root", "--pin", "/no/such/directory/pin"],
    ["unpin", "/no/such/file"],
    ["mount", "--map", "root", "/no/such/directory", "/no/such/target"],
    ["umount", "/no/such/target"],
    ["map", "nonsense"],
    ["doctor", "nonsense"],
    ["ls", "--kind", "nonsense"],
    ["nonsense"],
]
LOCALES = {
    "C": {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
    "ASCII": {"PYTHONIOENCODING": "ascii:strict"},
    "8 bits": {"PYTHONIOENCODING": "latin-1:strict"},
    "UTF-8": {"PYTHONIOENCODING": "utf-8:strict"},
}
ODD_NAME = b"\xff\x1b[1m\xe2\x82\xac\n\xc3\xa9"
SHOWN = {"C": "\\u20ac\\n\\xe9", "ASCII": "\\u20ac\\n\\xe9", "8 bits": "\\u20ac\\né", "UTF-8": "€\\né"}

each_printing = pytest.mark.parametrize("arguments", PRINTING, ids=" ".join)
each_failing = pytest.mark.parametrize("arguments", FAILING, ids=" ".join)


def run(
    command: list[str],
    environment: Mapping[str, str] | None = None,
    stdout: int = subprocess.PIPE,
    cwd: str | None = None,
) -> subprocess.CompletedProcess[bytes]:
    environment = {**os.environ, **(environment or {})}
    return subprocess.run(
        command, env=environment, stdout=stdout, stderr=subprocess.PIPE, cwd=cwd, timeout=A_HANG, check=False
    )


def redirected(redirection: str, arguments: list[str]) -> subprocess.CompletedProcess[bytes]:
    return run(["sh", "-c", f'exec "$@" {redirection}', "sh", *PROGRAM, *arguments])


def assert_complains(result: subprocess.CompletedProcess[bytes], about: bytes = b"") -> None:
    """In one line or two."""
    assert b"Traceback" not in result.stderr
    assert b"Exception ignored" not in result.stderr
    assert 1 <= len(result.stderr.splitlines()) <= 2, result.stderr
    assert about in result.stderr


@pytest.fixture
def oddly_named() -> Iterator[UsernsProcess[bytes]]:
    """A process with a name that is not text, and that a terminal would interpret."""
    source = "import ctypes, time; ctypes.CDLL(None).prctl(15, NAME, 0, 0, 0); print(flush=True); time.sleep(600)"
    source = source.replace("NAME", repr(ODD_NAME))
    with UsernsProcess([sys.executable, "-c", source], uid_map="root", stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        yield process
        process.kill()


# ---- encodings and names ----


@pytest.mark.parametrize("locale", LOCALES)
@each_printing
def test_every_locale_will_do(arguments: list[str], locale: str) -> None:
    result = run([*PROGRAM, *arguments], LOCALES[locale])
    assert result.returncode == 0, result.stderr
    assert b"Traceback" not in result.stderr
    assert result.stdout
    encoding = "ascii" if locale == "C" else LOCALES[locale]["PYTHONIOENCODING"].partition(":")[0]
    assert result.stdout.decode(encoding)


@pytest.mark.parametrize("locale", ["C", "ASCII"])
@each_failing
def test_errors_in_every_locale(arguments: list[str], locale: str) -> None:
    odd = [*arguments[:-1], arguments[-1] + "\udcff\n€"] if arguments[0] not in ("run", "enter") else arguments
    result = run([*PROGRAM, *odd], LOCALES[locale])
    assert result.returncode in (125, 127)
    assert_complains(result)
    assert result.stderr.isascii()


@pytest.mark.parametrize("locale", LOCALES)
@pytest.mark.parametrize("how", [[], ["--tree"]], ids=["as a table", "as a tree"])
def test_odd_names_of_processes(how: list[str], locale: str, oddly_named: UsernsProcess[bytes]) -> None:
    with oddly_named.namespace() as userns:
        inode = str(userns.inode)
    result = run([*PROGRAM, "ls", "--kind", "user", *how], LOCALES[locale])
    assert result.returncode == 0, result.stderr
    encoding = "ascii" if locale == "C" else LOCALES[locale]["PYTHONIOENCODING"].partition(":")[0]
    [line] = [line for line in result.stdout.decode(encoding).splitlines() if inode in line]
    assert f"(\\xff\\x1b[1m{SHOWN[locale]})" in line


def test_odd_names_in_json(oddly_named: UsernsProcess[bytes]) -> None:
    result = run([*PROGRAM, "ls", "--json"], LOCALES["C"])
    found = json.loads(result.stdout)["namespaces"]
    assert any(oddly_named.pid in namespace["pids"] for namespace in found)


# ---- output that cannot be written ----


@each_printing
def test_standard_output_is_closed(arguments: list[str]) -> None:
    result = redirected(">&-", arguments)
    assert result.returncode == 125
    assert_complains(result, b"standard output is closed")


@each_printing
def test_the_disk_is_full(arguments: list[str]) -> None:
    result = redirected(">/dev/full", arguments)
    assert result.returncode == 125
    assert_complains(result, b"No space left on device")


@each_printing
def test_the_reader_has_seen_enough(arguments: list[str]) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    result = run([*PROGRAM, *arguments], stdout=writer)
    os.close(writer)
    assert result.returncode == 0
    assert b"Traceback" not in result.stderr
    assert b"Exception ignored" not in result.stderr


@pytest.mark.parametrize("redirection", ["2>&-", "2>/dev/full", ">&- 2>&-"])
@each_failing
def test_errors_that_cannot_be_written(arguments: list[str], redirection: str) -> None:
    """The exit status still reports them."""
    result = redirected(redirection, arguments)
    assert result.returncode in (125, 127)


# ---- without an installation ----


@pytest.fixture(scope="module")
def vendored(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the package, with its dependencies, in a folder without any metadata."""
    folder = tmp_path_factory.mktemp("vendored")
    package = Path(usernsproc.__file__).parent
    shutil.copytree(package, folder / "usernsproc", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(typing_extensions.__file__, folder)
    return folder


def run_vendored(folder: Path, arguments: list[str]) -> subprocess.CompletedProcess[bytes]:
    start = (
        "import runpy, sys; sys.path.insert(0, sys.argv.pop(1)); runpy.run_module('usernsproc', run_name='__main__')"
    )
    return run([sys.executable, "-I", "-S", "-c", start, str(folder), *arguments], cwd="/")


@each_printing
def test_a_copy_prints_without_metadata(arguments: list[str], vendored: Path) -> None:
    result = run_vendored(vendored, arguments)
    assert result.returncode == 0, result.stderr
    assert result.stdout


@each_failing
def test_a_copy_fails_without_metadata(arguments: list[str], vendored: Path) -> None:
    result = run_vendored(vendored, arguments)
    assert result.returncode in (125, 127)
    assert_complains(result)


def test_a_copy_runs_commands(vendored: Path) -> None:
    result = run_vendored(vendored, ["run", "--map", "root", "--", "id", "-u"])
    assert (result.returncode, result.stdout) == (0, b"0\n")


def test_the_version_has_one_place(vendored: Path) -> None:
    assert run_vendored(vendored, ["--version"]).stdout == f"{usernsproc.__version__}\n".encode()
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert project["project"]["dynamic"] == ["version"]
    assert project["tool"]["setuptools"]["dynamic"]["version"] == {"attr": "usernsproc.__version__"}
