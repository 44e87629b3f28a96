"""Compiles the core; everything else about the package is in pyproject.toml.

Some files of the core run where a C program normally does not: in a child that shares the
caller's memory and thread-local storage, or alone in memory without libc and without data.
Compiler flags that add code of their own to every function (profilers, sanitizers, stack
protectors, initialised variables, link-time optimisation) would make them crash. For these
files only those flags of the user and of the distribution are kept that say for which machine
and against which headers to compile. Then it is tried whether the result runs.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext
from setuptools.errors import CompileError

ROOT = Path(__file__).resolve().parent
BARE = {"child.c", "clone.c", "programs.c", "reaper.c"}

KEPT = (
    *("-D", "-U", "-I", "-isystem", "-iquote", "-idirafter", "-include", "-imacros", "-isysroot", "--sysroot", "-B"),
    *("-target", "--target", "--gcc-toolchain", "-march=", "-mcpu=", "-mtune=", "-mabi=", "-m64", "-W", "-g", "-pipe"),
    *("-fcf-protection", "-fstack-clash-protection", "-mbranch-protection="),  # change no more than a few instructions
    *("-fPIC", "-fpic", "-fdebug-prefix-map=", "-ffile-prefix-map=", "-fmacro-prefix-map=", "-fdiagnostics"),
)
WITH_A_VALUE = ("--param", "-Xassembler", "-Xclang", "-Xlinker", "-Xpreprocessor", "-mllvm", "-x")
"""Flags that are not kept, and whose value is the next word."""

COUNTERMANDS = (
    *("-fno-instrument-functions", "-fno-lto", "-fno-profile-arcs", "-fno-profile-generate", "-fno-sanitize=all"),
    *("-fno-split-stack", "-fno-stack-protector", "-fno-test-coverage", "-ftrivial-auto-var-init=uninitialized"),
    *("-mgeneral-regs-only", "-mno-outline"),
)
"""For what a compiler does by default, or a wrapper around it asks for. Those that it knows are used."""


def sober(command: Sequence[str]) -> list[str]:
    """The compiler, with the flags that bare files may have."""
    return list(_sober(iter(command)))


def _sober(words: Iterator[str]) -> Iterator[str]:
    for word in words:
        if word in WITH_A_VALUE:
            next(words, None)
        elif not word.startswith("-") or word.startswith(KEPT):
            yield word


def countermands(command: Sequence[str]) -> list[str]:
    """Of COUNTERMANDS, those that this compiler knows."""
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder, "empty.c")
        source.write_text("int usernsproc;\n")
        object = source.with_suffix(".o")
        return [flag for flag in COUNTERMANDS if _succeeds(*command, "-Werror", flag, "-c", source, "-o", object)]


def _succeeds(*command: str | Path) -> bool:
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


NO_SYSTEM_CALLS = {"syscalls", "arch_specific_syscall"}
"""Numbers of the kernel's headers that have a name as if they were."""


class BuildCore(build_ext):
    """Compiles the bare files first, then the rest as setuptools does."""

    def build_extension(self, ext: Extension) -> None:
        list_system_calls(self.compiler.compiler_so, Path(self.build_temp, "system_calls.h"))
        ext.include_dirs = [*ext.include_dirs, self.build_temp]
        bare = [source for source in ext.sources if Path(source).name in BARE]
        objects = self.compile_bare(ext, bare)
        ext.sources = [source for source in ext.sources if source not in bare]
        ext.extra_objects = [*ext.extra_objects, *objects]
        super().build_extension(ext)
        prove(Path(self.get_ext_fullpath(ext.name)))

    def compile_bare(self, ext: Extension, sources: list[str]) -> list[str]:
        compiler: Any = self.compiler
        before = compiler.compiler_so
        compiler.compiler_so = sober(before)
        try:
            objects: list[str] = compiler.compile(
                sources,
                output_dir=self.build_temp,
                macros=[tuple(macro) for macro in ext.define_macros],
                include_dirs=ext.include_dirs,
                debug=self.debug,
                extra_postargs=[*ext.extra_compile_args, *countermands(compiler.compiler_so)],
                depends=ext.depends,
            )
        finally:
            compiler.compiler_so = before
        return objects


def list_system_calls(compiler: Sequence[str], header: Path) -> None:
    """Write `SYSTEM_CALL(name)` for each that the compiler's headers have a number for."""
    command = [*compiler, "-E", "-dM", ROOT / "src" / "usernsproc" / "_core" / "compat.h"]
    macros = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    names = sorted(set(re.findall(r"^#define __NR_([a-z_]\w*) ", macros, re.MULTILINE)) - NO_SYSTEM_CALLS)
    header.parent.mkdir(parents=True, exist_ok=True)
    header.write_text("".join(f"SYSTEM_CALL({name})\n" for name in names))


def prove(core: Path) -> None:
    """Run each program of the core once. It takes no rights and makes no namespace.

    Raises:
        CompileError: one of them crashed.
    """
    command = [sys.executable, "-P", ROOT / "src" / "usernsproc" / "_processes" / "trial_run.py", ROOT / "src", core]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode == 0:
        return
    if result.returncode == 1:  # it could not be loaded, or not be tried
        print(f"usernsproc: not tried whether the compiled core runs: {result.stderr}", file=sys.stderr)
        return
    raise CompileError(f"the compiled core does not run: {result.stdout}{result.stderr}")


if __name__ == "__main__":
    setup(cmdclass={"build_ext": BuildCore})
