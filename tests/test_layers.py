"""The layers in the documentation are those of the code, and the files and names that it mentions exist."""

from __future__ import annotations

import json
import re
from functools import cache
from graphlib import CycleError, TopologicalSorter
from itertools import pairwise
from pathlib import Path

import pytest
from alone import run_alone
from programs.layers import print_imports

ROOT = Path(__file__).parent.parent
SOURCE = ROOT / "src" / "usernsproc"
PICTURE = (ROOT / "docs" / "how-it-works.md").read_text().partition("## Layers\n")[2].partition("```text\n")[2]


@cache
def imports() -> dict[str, set[str]]:
    return {module: set(imported) for module, imported in json.loads(run_alone(print_imports)).items()}


def module_of(name: str) -> str:
    """`_maps/idmap.py` as `usernsproc._maps.idmap`."""
    parts = name.removesuffix(".py").rstrip("/").split("/")
    return ".".join(["usernsproc", *(part for part in parts if part != "__init__")])


def layers() -> list[list[str]]:
    """Return the first column of the picture, from top to bottom. The names in a line are one layer."""
    lines = PICTURE.partition("\n- - -")[0].splitlines()
    return [[module_of(name) for name in re.split(r" {2,}", line)[0].split(" ")] for line in lines if line[:1].strip()]


def layer_of(module: str) -> int:
    """Return the layer of the module, or of the nearest package that contains it."""
    name = module
    while True:
        found = [number for number, names in enumerate(layers()) if name in names]
        if found:
            return found[0]
        assert name.count(".") > 1, f"{module} is in no layer"
        name = name.rpartition(".")[0]


def test_each_module_is_in_one_layer_and_imports_from_below() -> None:
    names = [name for layer in layers() for name in layer]
    assert len(names) == len(set(names))
    assert [name for name in names if name not in imports()] == []
    upwards = {
        (module, imported)
        for module, all_imported in imports().items()
        for imported in all_imported - {"usernsproc", "usernsproc._core"}
        if layer_of(module) > layer_of(imported)
    }
    assert upwards == set()


def is_explained(module: str, imported: str) -> bool:
    """Return whether a comment beside the import, or in the line before it, explains the circular import."""
    path = SOURCE / module.removeprefix("usernsproc").lstrip(".").replace(".", "/")
    text = path.with_suffix(".py") if path != SOURCE and path.with_suffix(".py").exists() else path / "__init__.py"
    name = re.compile(rf"\b{imported.rpartition('.')[2]} import\b")
    lines = text.read_text().splitlines()
    return any("circle" in f"{before} {line}" for before, line in pairwise(lines) if name.search(line))


def test_no_modules_import_each_other_but_where_a_comment_says_why() -> None:
    unexplained = {
        module: {name for name in imported - {module} if not is_explained(module, name)}
        for module, imported in imports().items()
    }
    try:
        TopologicalSorter(unexplained).prepare()
    except CycleError as error:
        pytest.fail(" imports ".join(reversed(error.args[1])))


# ---- files and names that texts mention ----

TEXTS = [ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.md"), *(SOURCE / "_core").glob("*.[ch]")]
FOLDERS = ("src", "tests", "benchmarks", "docs", "examples", "tools")
FILES = {path.name for folder in FOLDERS for path in (ROOT / folder).rglob("*")} | {
    path.name for path in ROOT.iterdir()
}
OF_OTHERS = {"hello.c", "subprocess.py", "Python.h", "sched.h", "posixmodule.c", "system_calls.h"}
"""Files of other projects that are spoken of, examples, and what is made when the core is built."""


def spoken_of(text: str) -> set[str]:
    """Return names of files, with or without a folder."""
    return {name.rpartition("/")[2] for name in re.findall(r"(?<![\w<.-])[\w/]+\.(?:py|pyi|[ch])\b(?![\w>(])", text)}


@pytest.mark.parametrize("text", TEXTS, ids=lambda path: path.name)
def test_files_that_are_mentioned_exist(text: Path) -> None:
    assert spoken_of(text.read_text()) - FILES - OF_OTHERS == set()


@cache
def words_of_the_code() -> set[str]:
    suffixes = {".py", ".pyi", ".c", ".h", ".toml"}
    folders = (SOURCE, ROOT / "tests", ROOT / "tools")
    files = [path for folder in folders for path in folder.rglob("*") if path.suffix in suffixes]
    files += [ROOT / "pyproject.toml", ROOT / "conftest.py", ROOT / "setup.py"]
    return {word for path in files if path != Path(__file__) for word in re.findall(r"\w+", path.read_text())}


@pytest.mark.parametrize("name", ["CONTRIBUTING.md", "docs/how-it-works.md"])
def test_names_that_are_mentioned_exist(name: str) -> None:
    """Names in code font that look like names of Python or C: with an underscore inside or in front."""
    names = {
        word
        for code in re.findall(r"`([^`\n]+)`", (ROOT / name).read_text())
        for word in re.findall(r"(?<![\w/.-])_?[a-z]\w*_\w+\b(?![(/.-]\d)", code)
    }
    assert names - words_of_the_code() == set()
