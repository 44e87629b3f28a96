"""The compiled core: the references of the child's code, and the programs that are copied from the library."""

from __future__ import annotations

import re
import shutil
import subprocess
import sysconfig
import tomllib
from pathlib import Path

import pytest
from test_compiler_flags import core_build

from usernsproc import _core

ROOT = Path(__file__).parent.parent
CORE = ROOT / "src" / "usernsproc" / "_core"
OF_THE_LINKER = re.compile(r"__(start|stop)_usernsproc_\w+")
LARGEST_FRAME = 8192
PROGRAMS = ("holder", "launcher")


COMPILERS = ("cc", *filter(shutil.which, ("gcc", "clang")))


@pytest.fixture(scope="module", params=COMPILERS)
def objects(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Compiled with the flags of the project, by each available compiler."""
    folder = tmp_path_factory.mktemp("objects")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    (extension,) = project["tool"]["setuptools"]["ext-modules"]
    macros = [f"-D{name}={value}" for name, value in extension["define-macros"]]
    for name in ("child", "programs"):
        subprocess.run(
            [
                request.param,
                "-fPIC",
                *macros,
                *extension["extra-compile-args"],
                "-c",
                CORE / f"{name}.c",
                "-o",
                f"{name}.o",
            ],
            cwd=folder,
            check=True,
        )
    return folder


def tool(*command: str, folder: Path) -> str:
    return subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True).stdout


@pytest.mark.parametrize("name", ["child", "programs"])
def test_the_childs_code_calls_nothing_outside_of_its_file(name: str, objects: Path) -> None:
    """No Python, no libc, and nothing that a compiler inserts (memset, a stack protector)."""
    undefined = [line.split()[-1] for line in tool("nm", "-u", f"{name}.o", folder=objects).splitlines()]
    assert [symbol for symbol in undefined if not OF_THE_LINKER.fullmatch(symbol)] == []


@pytest.mark.parametrize("program", PROGRAMS)
def test_a_program_is_complete_in_its_section(program: str, objects: Path) -> None:
    """Its bytes are copied as they are: a reference that a linker would have to resolve would be wrong."""
    sections = tool("readelf", "-SW", "programs.o", folder=objects)
    assert f" usernsproc_{program} " in sections
    assert f".rela.usernsproc_{program} " not in sections


def test_the_library_exports_its_init_function_alone() -> None:
    """And the symbols that linkers create for the sections of the programs."""
    listed = tool("nm", "-D", "--defined-only", str(_core.__file__), folder=ROOT).split()[2::3]
    assert [symbol for symbol in listed if not OF_THE_LINKER.fullmatch(symbol)] == ["PyInit__core"]


def test_the_library_has_no_memory_that_is_writable_and_executable() -> None:
    segments = tool("readelf", "-lW", str(_core.__file__), folder=ROOT)
    assert "GNU_STACK" in segments
    assert not re.search(r"\bRWE\b", segments)


@pytest.mark.parametrize("compiler", COMPILERS)
def test_no_function_takes_much_of_a_small_stack(compiler: str, tmp_path: Path) -> None:
    """Python's threads may have stacks of 32 KiB. A frame that is larger than the guard page below can skip it."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    (extension,) = project["tool"]["setuptools"]["ext-modules"]
    macros = [f"-D{name}={value}" for name, value in extension["define-macros"]]
    include = f"-I{sysconfig.get_path('include')}"
    core_build().list_system_calls([compiler], tmp_path / "system_calls.h")
    warning = f"-Werror=frame-larger-than={LARGEST_FRAME}", f"-Wframe-larger-than={LARGEST_FRAME}"
    for source in extension["sources"]:
        command = [compiler, "-fPIC", *macros, *extension["extra-compile-args"], *warning, include]
        command += [f"-I{tmp_path}", "-c", ROOT / source]
        subprocess.run([*command, "-o", tmp_path / "object"], check=True)
