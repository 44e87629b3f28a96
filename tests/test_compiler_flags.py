"""The core under the compiler flags of distributions and users: either it is built and runs, or the build fails.

A child in the parent's memory, and the programs that run without a libc, do not work with code that a compiler
adds to every function. `setup.py` removes such flags for their files.
"""

from __future__ import annotations

import errno
import os
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Callable, Mapping
from functools import cache
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType

import alone
import pytest
from alone import A_HANG
from programs import compiler_flags

from usernsproc import UsernsError, UsernsProcess, _core

ROOT = Path(__file__).parent.parent
PROGRAMS = ("holder", "launcher")
COMPILERS = [compiler for compiler in ("gcc", "clang") if shutil.which(compiler)]

DEBIAN = (
    "-g -O2 -ffile-prefix-map=/build=. -fstack-protector-strong -fstack-clash-protection -Wformat "
    "-Werror=format-security -fcf-protection -D_FORTIFY_SOURCE=2"
)
FEDORA = (
    "-O2 -fexceptions -g -grecord-gcc-switches -pipe -Wall -Wp,-U_FORTIFY_SOURCE,-D_FORTIFY_SOURCE=3 "
    "-Wp,-D_GLIBCXX_ASSERTIONS -fstack-protector-strong -m64 -march=x86-64 -mtune=generic "
    "-fasynchronous-unwind-tables -fstack-clash-protection -fcf-protection -fno-omit-frame-pointer"
)
ARCH = (
    "-march=x86-64 -mtune=generic -O2 -pipe -fno-plt -fexceptions -Wp,-D_FORTIFY_SOURCE=3 -fstack-clash-protection "
    "-fcf-protection -fno-omit-frame-pointer"
)
GENTOO = "-march=native -O3 -pipe -fstack-protector-all -ftrivial-auto-var-init=zero -fzero-call-used-regs=used"
FLAGS = [
    "-O0",
    "-march=native -O3",
    "-flto",
    "-pg",
    "--coverage",
    "-finstrument-functions",
    "-fsanitize=address",
    "-fsanitize-coverage=trace-pc",
    "-fstack-protector-all",
    "-fsplit-stack",
    "-ftrivial-auto-var-init=pattern",
    "-fzero-call-used-regs=all",
    "-fpatchable-function-entry=5,3",
    "-mcmodel=large",
    "-Xclang -ftrivial-auto-var-init=pattern",
    "-mllvm -enable-machine-outliner",
    "--param ssp-buffer-size=1",
]

each_compiler = pytest.mark.parametrize("compiler", COMPILERS)


def core_build() -> ModuleType:
    spec = spec_from_file_location("core_build", ROOT / "setup.py")
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def measured_in(folder: Path) -> dict[str, str]:
    """Return the directory for the measurements of an instrumented program, instead of its working directory."""
    return {"GCOV_PREFIX": str(folder), "LLVM_PROFILE_FILE": str(folder / "profile")}


def build(
    folder: Path, *, source: Path = ROOT, status: int = 0, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Build it as pip does, but into a folder."""
    command: list[str | Path] = [
        sys.executable,
        "setup.py",
        "build_ext",
        "--build-lib",
        folder / "lib",
        "--build-temp",
        folder / "tmp",
    ]
    result = subprocess.run(
        command,
        cwd=source,
        env={**os.environ, **measured_in(folder), **environment},
        capture_output=True,
        text=True,
        timeout=A_HANG,
    )
    assert result.returncode == status, result.stdout + result.stderr
    return result


def assert_runs(folder: Path, environment: Mapping[str, str] | None = None) -> None:
    assert output_with_core(folder, compiler_flags.use_in_two_threads, environment=environment) == "it runs\n"


def output_with_core(
    folder: Path, function: Callable[..., None], *arguments: str, environment: Mapping[str, str] | None = None
) -> str:
    """Return the output of a program that uses the core that was built there."""
    (core,) = (folder / "lib" / "usernsproc").glob("_core.*")
    command = alone.command(function, str(ROOT / "src"), str(core), *arguments)
    environment = {**alone.environment(), **measured_in(folder), **(environment or {})}
    result = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=A_HANG, cwd=folder)
    assert result.returncode == 0, result.stderr
    return result.stdout


def code_of_programs(compiler: list[str], folder: Path) -> dict[str, bytes]:
    """Return what is copied into an image, as compiled with the flags of the project."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    (extension,) = project["tool"]["setuptools"]["ext-modules"]
    bare = core_build()
    command = bare.sober(compiler)
    flags = [*extension["extra-compile-args"], *bare.countermands(command)]
    source = ROOT / "src" / "usernsproc" / "_core" / "programs.c"
    subprocess.run(
        [*command, "-fPIC", "-D_GNU_SOURCE", *flags, "-c", source, "-o", "programs.o"], cwd=folder, check=True
    )
    sections = subprocess.run(["readelf", "-SW", "programs.o"], cwd=folder, check=True, capture_output=True, text=True)
    found = {}
    for program in PROGRAMS:
        assert f".rela.usernsproc_{program} " not in sections.stdout
        copied = ["objcopy", "-O", "binary", f"--only-section=usernsproc_{program}", "programs.o", program]
        subprocess.run(copied, cwd=folder, check=True)
        found[program] = (folder / program).read_bytes()
        assert found[program]
    return found


@cache
def usual_code(compiler: str) -> dict[str, bytes]:
    with tempfile.TemporaryDirectory() as folder:
        return code_of_programs([compiler], Path(folder))


@each_compiler
@pytest.mark.parametrize("flags", FLAGS)
def test_the_programs_are_the_same_whatever_is_asked_for(compiler: str, flags: str, tmp_path: Path) -> None:
    """With a flag that selects the machine, only their completeness is checked."""
    built = code_of_programs([compiler, *flags.split()], tmp_path)
    if "-march" not in flags:
        assert built == usual_code(compiler)


@each_compiler
def test_what_a_compiler_does_by_itself_is_countermanded(compiler: str, tmp_path: Path) -> None:
    """By a wrapper around it, or by its configuration."""
    wrapper = tmp_path / "cc"
    asked_for = ["-fstack-protector-all", "-ftrivial-auto-var-init=pattern", "-fsanitize=address,undefined", "-flto"]
    asked_for += ["-fprofile-generate"] if compiler == "gcc" else []
    wrapper.write_text(f'#!/bin/sh\nexec {compiler} {" ".join(asked_for)} "$@"\n')
    wrapper.chmod(0o755)
    assert code_of_programs([str(wrapper)], tmp_path) == usual_code(compiler)


@pytest.mark.parametrize("flags", [DEBIAN, FEDORA, ARCH, GENTOO])
def test_flags_that_say_where_to_find_things_are_kept(flags: str) -> None:
    where = ["-I", "/include", "-isystem", "/system", "-DNAME=1", "--sysroot=/root", "-fdebug-prefix-map=/a=/b"]
    kept = core_build().sober(["ccache", "cc", *flags.split(), *where])
    assert kept[:2] == ["ccache", "cc"]
    assert kept[-len(where) :] == where
    assert not [flag for flag in kept if flag.startswith(("-O", "-fstack-protector", "-ftrivial", "-fzero"))]


@each_compiler
@pytest.mark.parametrize(
    ("flags", "link_flags"),
    [
        (DEBIAN, "-Wl,-z,relro -Wl,-z,now"),
        (f"{GENTOO} -flto", "-flto -Wl,-O1 -Wl,--as-needed -Wl,--gc-sections"),
        ("--coverage -fpatchable-function-entry=5,3 -ftrivial-auto-var-init=pattern -O0", "--coverage"),
        ("-pg -finstrument-functions -fprofile-generate", "-pg -fprofile-generate"),
    ],
    ids=["a distribution", "for this machine", "measured", "profiled"],
)
def test_it_runs(compiler: str, flags: str, link_flags: str, tmp_path: Path) -> None:
    known = [flag for flag in flags.split() if knows(compiler, flag, tmp_path)]
    linker = [flag for flag in link_flags.split() if flag != "-flto" or compiler == "gcc"]
    build(tmp_path, CC=compiler, LDSHARED=f"{compiler} -shared", CFLAGS=" ".join(known), LDFLAGS=" ".join(linker))
    assert_runs(tmp_path)


def knows(compiler: str, flag: str, folder: Path) -> bool:
    command: list[str | Path] = [compiler, "-Werror", flag, "-x", "c", "-c", os.devnull, "-o", folder / "nothing.o"]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


@pytest.mark.parametrize("sanitizer", ["address", "undefined"])
def test_it_runs_with_a_sanitizer(sanitizer: str, tmp_path: Path) -> None:
    """It checks the rest of the core, as requested."""
    flags = f"-fsanitize={sanitizer} -fno-sanitize-recover=undefined -g"
    build(tmp_path, CC="gcc", LDSHARED="gcc -shared", CFLAGS=flags, LDFLAGS=f"-fsanitize={sanitizer}")
    library = {"address": "libasan.so", "undefined": "libubsan.so"}[sanitizer]
    path = subprocess.check_output(["gcc", f"-print-file-name={library}"], text=True).strip()
    assert_runs(tmp_path, {"LD_PRELOAD": path, "ASAN_OPTIONS": "detect_leaks=0"})


@pytest.mark.parametrize(
    ("flag", "name", "step"),
    [
        ("-ftrivial-auto-var-init=pattern", "launcher", "on_created"),
        ("-fstack-protector-all", "holder", "prepare"),
    ],
    ids=["launcher", "holder"],
)
def test_what_does_not_run_is_not_built(flag: str, name: str, step: str, tmp_path: Path) -> None:
    """Each program is tried during the build. If a flag was not removed, the build fails.

    A core that was built in another way reports why it does not work.
    """
    source = tmp_path / "source"
    shutil.copytree(ROOT / "src", source / "src", ignore=shutil.ignore_patterns("*.so", "__pycache__"))
    for file in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / file, source / file)
    text = (ROOT / "setup.py").read_text()
    for before, after in (
        ("compiler.compiler_so = sober(before)", f'compiler.compiler_so = [*before, "{flag}"]'),
        ("[*ext.extra_compile_args, *countermands(compiler.compiler_so)]", f'[*ext.extra_compile_args, "{flag}"]'),
    ):
        assert before in text
        text = text.replace(before, after)
    (source / "setup.py").write_text(text)
    result = build(tmp_path, source=source, status=1, CC="gcc", LDSHARED="gcc -shared")
    assert "the compiled core does not run: crashed at its start: " in result.stderr
    assert name in result.stderr
    assert "Try without CFLAGS" in result.stderr
    assert output_with_core(tmp_path, compiler_flags.use_program, name) == f"{step} broken-build\n"


def test_what_cannot_be_tried_is_said(tmp_path: Path) -> None:
    """Such as a core that was compiled for another machine."""
    core = tmp_path / "_core.abi3.so"
    core.write_bytes(b"for another machine")
    core.chmod(core.stat().st_mode | stat.S_IXUSR)
    trial: list[str | Path] = [
        sys.executable,
        ROOT / "src" / "usernsproc" / "_processes" / "trial_run.py",
        ROOT / "src",
        core,
    ]
    assert subprocess.run(trial, capture_output=True, check=False).returncode == 1


@pytest.mark.parametrize("number", [signal.SIGILL, signal.SIGTRAP, signal.SIGBUS, signal.SIGSEGV])
def test_a_crash_is_distinguished_from_being_killed(number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Such as one of a core that was built in another way."""

    def crash(*_values: object) -> _core.Child:
        raise _core.Failure("prepare", errno.ESRCH, -number)

    monkeypatch.setattr(_core, "spawn", crash)
    with pytest.raises(UsernsError) as caught:
        UsernsProcess(uid_map="root")
    assert (caught.value.step, caught.value.cause) == ("prepare", "broken-build")
    assert "without CFLAGS" in caught.value.__notes__[0]
