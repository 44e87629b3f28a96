"""A mutation run: sources are changed in one place at a time, and the tests that concern them are run.

universalmutator proposes the changes. Those without effect are left out: a core or a module that
compiles to the same code. Everything else happens in a copy of the checkout, in a new PID namespace and a new mount
namespace: a mutant may kill or unmount everything that it can reach.
"""

from __future__ import annotations

import argparse
import ast
import difflib
import fnmatch
import hashlib
import itertools
import os
import random
import shutil
import signal
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = "src/usernsproc/"
ALL_OF_CORE = (
    "process holder exit_status ended_children recycled_pid pid_recycled_meanwhile killed_caller namespace "
    "hidden_helpers"
)
TESTS = {
    "_helper.py": "foreign_files holder_ids",
    "_maps/idmap.py": "idmap presets idmap_properties idmap_kernel",
    "_maps/presets.py": "presets subids map_permissions",
    "_maps/subids*.py": "subids presets",
    "_maps/writer.py": "groups map_permissions holder process newidmap idmap_kernel forged_proc",
    "_maps/*.py": "newidmap newidmap_kernel map_permissions rootless newidmap_faults",
    "_core/clone.[ch]": f"{ALL_OF_CORE} kept exec_is_over threads waiting",
    "_core/cgroup.[ch]": "cgroup cgroup_causes cgroup_files",
    "_core/child.[ch]": f"{ALL_OF_CORE} isolation inherited signals privileges session_keyring waiting",
    "_core/descriptors.[ch]": f"{ALL_OF_CORE} inherited failures",
    "_core/generation.c": "forks forks_beside_threads",
    "_core/launcher_socket.h": f"launcher_block {ALL_OF_CORE} join setup_call",
    "_core/kept.[ch]": f"kept forks forks_beside_threads forged_proc {ALL_OF_CORE}",
    "_core/reaper.[ch]": "hidden_helpers stopped_grandchild owner namespace join failures",
    "_core/image.c": "helper_programs process holder compiler_flags failures",
    "_core/init.h": "new_namespaces signals waiting ended_children",
    "_core/fd.c": "inherited helper_programs process forks failures",
    "_core/proven_proc.[ch]": f"forged_proc {ALL_OF_CORE}",
    "_core/beneath.h": f"forged_proc {ALL_OF_CORE}",
    "_core/debugger.c": "debugger",
    "_core/wait.[ch]": f"{ALL_OF_CORE} stopped_grandchild waiting",
    "_core/*": f"{ALL_OF_CORE} new_namespaces privileges isolation cgroup join owner forged_proc waiting failures",
}
"""Files of tests that concern a source (the first pattern that fits), by their names without `test_` and `.py`: what is
fast, and likely to notice, comes first."""
SHORTEST_TIMEOUT = 60
PATIENCE = 4
"""A mutant may take so many times as long as the original."""


class Mutant(NamedTuple):
    source: str
    text: str

    def diff(self) -> str:
        """Return the difference from the original, for patch(1)."""
        original = (ROOT / self.source).read_text().splitlines(keepends=True)
        changed = self.text.splitlines(keepends=True)
        return "".join(difflib.unified_diff(original, changed, f"a/{self.source}", f"b/{self.source}", n=1))


# ---- what is changed ----


def proposals(source: str) -> list[Mutant]:
    """Yield every change that universalmutator proposes, in its order."""
    language = "c" if source.endswith((".c", ".h")) else "python"
    program = os.path.join(sysconfig.get_path("scripts"), "mutate")
    command = [program, str(ROOT / source), language, "--noCheck", "--mutantDir"]
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run([*command, folder], cwd=folder, check=True, stdout=subprocess.DEVNULL)
        found = sorted(Path(folder).glob("*.mutant.*"), key=lambda path: int(path.suffixes[-2][1:]))
        return [Mutant(source, path.read_text()) for path in found]


class _WithoutEffect(ast.NodeTransformer):
    """Removes what has no effect at run time: `pass`, docstrings and other texts that stand alone, types."""

    def visit_Pass(self, _: ast.Pass) -> None:
        return None

    def visit_Expr(self, node: ast.Expr) -> ast.AST | None:
        return None if isinstance(node.value, ast.Constant) else self.generic_visit(node)

    def visit_If(self, node: ast.If) -> ast.AST | None:
        is_for_types = isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"
        return None if is_for_types else self.generic_visit(node)

    def visit_arg(self, node: ast.arg) -> ast.AST:
        node.annotation = None
        return node

    def visit_AnnAssign(self, node: ast.AnnAssign) -> ast.AST:
        node.annotation = ast.Name("object")
        return self.generic_visit(node)

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        node.returns = None
        return self.generic_visit(node)


def meaning(mutant: Mutant) -> str | None:
    """Return the same value for mutants that certainly behave the same; `None` if it is not a program."""
    if mutant.source.endswith(".py"):
        try:
            tree = ast.parse(mutant.text)
            compile(tree, mutant.source, "exec")
        except SyntaxError:
            return None
        return ast.dump(_WithoutEffect().visit(tree))
    without_comments = [*sysconfig.get_config_var("CC").split(), "-fpreprocessed", "-E", "-P", "-x", "c", "-"]
    done = subprocess.run(without_comments, input=mutant.text, capture_output=True, text=True, check=False)
    return done.stdout if done.returncode == 0 else None


def mutants(sources: Sequence[str], seed: int) -> Iterator[Mutant]:
    """Return all mutants that are not known to be equivalent, in an order that depends only on the seed."""
    found = [mutant for source in sources for mutant in proposals(source)]
    random.Random(seed).shuffle(found)
    seen = {(source, meaning(Mutant(source, (ROOT / source).read_text()))) for source in sources}
    for mutant in found:
        key = (mutant.source, meaning(mutant))
        if key[1] is not None and key not in seen:
            seen.add(key)
            yield mutant


# ---- where it is tried ----


class Copy:
    """A copy of the checkout, with a virtual environment that finds the copied package."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        listed = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
        names = subprocess.run(listed, cwd=ROOT, check=True, capture_output=True, text=True).stdout.split("\0")
        for name in filter(None, names):
            if (ROOT / name).exists():
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(ROOT / name, folder / name)
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder / ".venv"], check=True)
        self.python = str(folder / ".venv/bin/python")
        relative = Path(sysconfig.get_path("purelib")).relative_to(sys.prefix)
        paths = f"{folder / 'src'}\n{sysconfig.get_path('purelib')}\n"
        (folder / ".venv" / relative / "mutation.pth").write_text(paths)

    def build(self) -> str | None:
        """Compile the core. Return a digest of it, or `None` if it cannot be compiled or does not run."""
        for core in self.folder.glob("src/usernsproc/*.so"):
            core.unlink()
        command = [self.python, "setup.py", "-q", "build_ext", "--inplace", "--force"]
        flags = {"CFLAGS": "-g0 -Werror=implicit-function-declaration", "LDFLAGS": "-Wl,--strip-all"}
        environment = {**os.environ, **flags}
        if subprocess.run(command, cwd=self.folder, env=environment, capture_output=True, check=False).returncode:
            return None
        [core] = self.folder.glob("src/usernsproc/*.so")
        return hashlib.sha256(core.read_bytes()).hexdigest()

    def test(self, tests: Sequence[str], timeout: float) -> str:
        """Return the first test that fails, "" if none does, or "timeout" if it takes longer."""
        options = ["-x", "-q", "--no-header", "--tb=no", "-p", "no:cacheprovider", "--hypothesis-seed=0"]
        alone = ["unshare", "--mount", "--propagation", "private", "--pid", "--fork", "--kill-child", "--mount-proc"]
        init = ["sh", "-c", '"$@"; exit $?', "init"]  # it reaps orphans
        command = [*alone, *init, "nice", self.python, "-m", "pytest", *options, *tests]
        try:
            done = subprocess.run(
                command, cwd=self.folder, capture_output=True, text=True, timeout=timeout, stdin=subprocess.DEVNULL
            )
        except subprocess.TimeoutExpired:
            return "timeout"
        failed = [line for line in done.stdout.splitlines() if line.startswith(("FAILED", "ERROR"))]
        return "" if done.returncode == 0 else (failed or [f"exit status {done.returncode}"])[0]


def tests_of(sources: Sequence[str]) -> list[str]:
    """Return the files of tests that concern these sources, each once."""
    names: dict[str, None] = {}
    for source in sources:
        entry = next((tests for pattern, tests in TESTS.items() if fnmatch.fnmatch(source, PACKAGE + pattern)), None)
        if entry is None:
            sys.exit(f"tests/mutate: which tests concern {source}? Name them with --tests")
        names.update(dict.fromkeys(entry.split()))
    return [f"tests/test_{name}.py" for name in names]


# ---- the run ----


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="tests/mutate", description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("sources", nargs="+", metavar="FILE", help="a source of the core or a Python module")
    parser.add_argument("--limit", type=int, metavar="N", help="try no more than N mutants (default: all)")
    parser.add_argument("--seed", type=int, default=0, metavar="S", help="which ones, and in which order (default: 0)")
    parser.add_argument("--tests", nargs="+", metavar="FILE", help="tests to run (default: those that concern FILE)")
    parser.add_argument("--list", action="store_true", help="print the mutants; compile and run nothing")
    options = parser.parse_args()
    options.sources = [str(Path(source).resolve().relative_to(ROOT)) for source in options.sources]
    return options


class Run:
    def __init__(self, copy: Copy, tests: Sequence[str]) -> None:
        self.copy = copy
        self.tests = tests
        self.tried = 0
        self.survivors: list[Mutant] = []
        self.cores = {copy.build()}
        if None in self.cores:
            sys.exit("tests/mutate: the core cannot be compiled")
        start = time.monotonic()
        print(f"without a change: {' '.join(tests)}", flush=True)
        if failed := copy.test(tests, 3600):
            sys.exit(f"tests/mutate: they do not pass: {failed}")
        self.timeout = max(SHORTEST_TIMEOUT, PATIENCE * (time.monotonic() - start))

    def outcome(self, mutant: Mutant) -> str | None:
        """Return what noticed it, "" if nothing did; `None` if it does not compile, or compiles to the same code."""
        source = self.copy.folder / mutant.source
        original = source.read_text()
        source.write_text(mutant.text)
        try:
            if not mutant.source.endswith(".py"):
                core = self.copy.build()
                if core is None or core in self.cores:
                    return None
                self.cores.add(core)
            return self.copy.test(self.tests, self.timeout)
        finally:
            source.write_text(original)

    def try_all(self, found: Iterator[Mutant], limit: int | None) -> None:
        for mutant in found:
            if self.tried == limit:
                return
            if (outcome := self.outcome(mutant)) is None:
                continue
            self.tried += 1
            changed = [line for line in mutant.diff().splitlines()[2:] if line[0] in "+-"]
            print(f"{self.tried}. {outcome or 'SURVIVED'}", *changed, sep="\n    ", flush=True)
            if not outcome:
                self.survivors.append(mutant)


def main() -> None:
    options = parsed()
    found = mutants(options.sources, options.seed)
    if options.list:
        for mutant in itertools.islice(found, options.limit):
            print(mutant.diff())
        return
    if os.geteuid():
        sys.exit("tests/mutate: run it as root, in a machine that you can do without")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # which ends a test run, too
    for ignored_in_background in (signal.SIGINT, signal.SIGQUIT):  # by a shell, and then by what tests start
        signal.signal(ignored_in_background, lambda *_: sys.exit(1))
    with tempfile.TemporaryDirectory(prefix="usernsproc-mutants-") as folder:
        os.chmod(folder, 0o755)
        run = Run(Copy(Path(folder)), options.tests or tests_of(options.sources))
        try:
            run.try_all(found, options.limit)
        finally:
            print(f"\n{run.tried} mutants, {len(run.survivors)} survived\n")
            print(*(mutant.diff() for mutant in run.survivors), sep="\n")
    sys.exit(1 if run.survivors else 0)
