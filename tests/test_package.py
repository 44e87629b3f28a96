"""The public names, and the promises of the package as a whole."""

from __future__ import annotations

import pickle
import re
import subprocess
import sys
from importlib import metadata, resources
from pathlib import Path

import pytest
from alone import run_alone
from programs import package

import usernsproc
from usernsproc import IdMapPermissionError, UsernsError, lowlevel
from usernsproc._causes import userns_error

ROOT = Path(__file__).parent.parent


def test_the_public_names_are_all_there() -> None:
    for module in (usernsproc, lowlevel):
        assert len(set(module.__all__)) == len(module.__all__)
        for name in module.__all__:
            assert hasattr(module, name)


def test_each_package_is_installed() -> None:
    """In a checkout they are all found, whatever the build names."""
    named = re.search(r"^packages = \[([^]]*)\]", (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    assert named is not None
    folders = {file.parent.relative_to(ROOT / "src") for file in (ROOT / "src" / "usernsproc").rglob("__init__.py")}
    assert {str(folder).replace("/", ".") for folder in folders} == set(re.findall(r'"([^"]+)"', named[1]))


def test_what_subprocess_has_is_subprocess_own() -> None:
    for name in ("CalledProcessError", "CompletedProcess", "SubprocessError", "TimeoutExpired", "PIPE", "STDOUT"):
        assert getattr(usernsproc, name) is getattr(subprocess, name)


def test_it_is_typed_and_needs_typing_extensions_alone() -> None:
    assert resources.files("usernsproc").joinpath("py.typed").is_file()
    requirements = metadata.requires("usernsproc") or []
    assert [name for name in requirements if "extra" not in name] == ["typing-extensions>=4.6"]


def test_the_version_is_one() -> None:
    assert usernsproc.__version__ == metadata.version("usernsproc")


def test_the_core_is_one_library_for_all_versions_of_cpython() -> None:
    from usernsproc import _core

    assert Path(str(_core.__file__)).name == "_core.abi3.so"


def test_import_brings_no_module_that_subprocess_would_not() -> None:
    """typing_extensions is for type checkers: at run time it is not loaded."""
    source = "import sys; from usernsproc import UsernsProcess, create_userns, run\n"
    source += "print('typing_extensions' in sys.modules, 'asyncio' in sys.modules)"
    result = subprocess.run([sys.executable, "-S", "-c", source], capture_output=True, text=True)
    if result.returncode:  # without site, the package may not be found
        result = subprocess.run([sys.executable, "-c", source], capture_output=True, text=True)
    assert result.stdout == "False False\n"


@pytest.mark.parametrize(
    ("errno", "builtin"),
    [
        (1, PermissionError),
        (13, PermissionError),
        (2, FileNotFoundError),
        (3, ProcessLookupError),
        (11, BlockingIOError),
    ],
)
def test_an_error_is_the_builtin_subclass_too(errno: int, builtin: type[OSError]) -> None:
    error = userns_error("clone", errno, "file")
    assert isinstance(error, builtin)
    assert isinstance(error, UsernsError)
    assert (error.errno, error.filename, error.step) == (errno, "file", "clone")


def test_an_error_without_a_builtin_subclass() -> None:
    error = userns_error("clone", 28)
    assert type(error) is UsernsError
    assert (error.errno, error.strerror, error.filename) == (28, "No space left on device", None)
    assert error.cause == "max-user-namespaces"
    assert "sysctl" in error.__notes__[0]


def test_errors_can_be_pickled() -> None:
    error = userns_error("exec", 2, "program")
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is type(error)
    assert (again.args, again.filename, again.step, again.cause) == (
        error.args,
        error.filename,
        error.step,
        error.cause,
    )


def test_a_forbidden_map_is_both_kinds_of_error() -> None:
    for base in (UsernsError, PermissionError, usernsproc.IdMapError, ValueError, OSError):
        assert issubclass(IdMapPermissionError, base)


def test_only_the_glue_sees_python() -> None:
    """The child's code cannot call Python because it cannot see it."""
    core = ROOT / "src" / "usernsproc" / "_core"
    seeing = [file.name for file in core.glob("*.[ch]") if re.search(r'<Python.h>|"module.h"', file.read_text())]
    assert sorted(seeing) == [
        "child_type.c",
        "fd.c",
        "module.c",
        "module.h",
        "module_calls.c",
        "module_proc.c",
        "spawn_values.c",
    ]


def test_a_name_is_loaded_when_it_is_asked_for() -> None:
    """So that the import is fast, and a program loads only what it uses."""
    run_alone(package.names_are_loaded_when_asked_for)
