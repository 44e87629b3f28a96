"""The plugin of pytest: tests that run in a namespace are reported as all others."""

from __future__ import annotations

import os
import re
import sqlite3
import subprocess
import sys
import xml.etree.ElementTree
from collections.abc import Iterable
from pathlib import Path

import pytest
from alone import A_HANG

import usernsproc.pytest

OWN_UID = os.geteuid()

RESULTS = """
    import os, signal, sys, time, warnings
    import pytest
    from usernsproc import Namespace

    OWN = {own}
    userns = pytest.mark.userns

    def inside():
        with Namespace.current() as current:
            return current.inode != OWN and os.getuid() == 0

    def test_plain():
        assert not inside()

    @userns
    def test_marked():
        assert inside()

    @userns(uid_map="current", namespaces=["net", "uts"])
    def test_options():
        assert os.getuid() == {uid}
        assert [name for _, name in __import__("socket").if_nameindex()] == ["lo"]

    def test_fixture(userns):
        assert inside() and str(userns.uid_map) == "0:{uid}:1"

    @pytest.mark.parametrize("userns", [{{"uid_map": "current"}}, {{"uid_map": "root"}}], indirect=True, ids=["c", "r"])
    def test_indirect(userns):
        assert userns.uid_map[0].inside == os.getuid()

    @userns
    class TestClass:
        @pytest.mark.parametrize("number", [1, 2])
        def test_parametrized(self, number):
            assert inside() and number

        @userns(uid_map="current")
        def test_the_nearest_marker_wins(self):
            assert os.getuid() == {uid}

        @pytest.mark.skip(reason="not now")
        def test_skipped(self):
            pass

        @pytest.mark.xfail(reason="known", strict=True)
        def test_expected(self):
            assert not inside()

        @pytest.mark.xfail(reason="known", strict=True)
        def test_unexpected(self):
            pass

    @userns
    def test_fails(record_property):
        record_property("where", "inside")
        print("printed")
        print("complained", file=sys.stderr)
        __import__("logging").getLogger().warning("logged")
        value = [1, 2, 3]
        assert value == [1, 2, 4], "a message"

    @userns
    def test_warns():
        warnings.warn("careful", DeprecationWarning)

    @userns
    def test_files(tmp_path, monkeypatch, capsys):
        monkeypatch.chdir(tmp_path)
        (tmp_path / "file").write_text("text")
        print("text")
        assert capsys.readouterr().out == "text\\n"

    @pytest.fixture
    def broken():
        raise LookupError("in the fixture")

    @pytest.fixture
    def broken_end():
        yield
        raise LookupError("in the end")

    @userns
    def test_broken(broken):
        pass

    @userns
    def test_broken_end(broken_end):
        pass

    @userns
    def test_crash():
        print("not captured", flush=True)
        __import__("ctypes").string_at(0)

    @userns
    def test_exit():
        os._exit(3)

    @userns(namespaces=["pid"])
    def test_killed():
        os.kill(os.getpid(), signal.SIGKILL)

    @userns(timeout=2)
    def test_slow():
        time.sleep(1000)

    @userns(timeout=0.5)
    def test_stopped():
        signal.pthread_sigmask(signal.SIG_BLOCK, range(1, 65))
        os.kill(os.getpid(), signal.SIGSTOP)

    @userns(uidmap="root")
    def test_mistyped():
        pass

    @userns("root")
    def test_by_position():
        pass

    @userns(uid_map="0:0:0")
    def test_refused():
        pass

    class TestOfTheProject:
        @pytest.fixture(params=["own"])
        def userns(self, request):
            return request.param

        def test_own_fixture(self, userns):
            assert userns == "own" and not inside()

    @userns(timeout="1")
    def test_in_words():
        pass

    @userns(timeout=float("inf"))
    def test_for_ever():
        pass

    @userns(timeout=0)
    def test_of_none():
        pass

    @pytest.mark.parametrize("userns", ["root"], indirect=True)
    def test_no_dictionary(userns):
        pass

    def test_process(userns_process):
        assert userns_process().poll() is None
        assert userns_process(["true"], uid_map="current").wait() == 0
"""

JUNIT = ("-o", "junit_logging=system-out")
SUMMARY = {
    "passed": {
        "test_plain",
        "test_marked",
        "test_options",
        "test_fixture",
        "test_indirect[c]",
        "test_indirect[r]",
        "test_parametrized[1]",
        "test_parametrized[2]",
        "test_the_nearest_marker_wins",
        "test_warns",
        "test_files",
        "test_broken_end",
        "test_own_fixture[own]",
        "test_process",
    },
    "skipped": {"test_skipped"},
    "xfailed": {"test_expected"},
    "error": {"test_broken", "test_broken_end"},
    "failed": {
        "test_unexpected",
        "test_fails",
        "test_crash",
        "test_exit",
        "test_killed",
        "test_slow",
        "test_stopped",
        "test_mistyped",
        "test_by_position",
        "test_refused",
        "test_in_words",
        "test_for_ever",
        "test_of_none",
        "test_no_dictionary[root]",
    },
}
LETTERS = {"PASSED": "passed", "SKIPPED": "skipped", "XFAIL": "xfailed", "ERROR": "error", "FAILED": "failed"}


def write(directory: Path, source: str, name: str = "test_inner.py") -> None:
    lines = source.lstrip("\n").splitlines()
    (directory / name).write_text("\n".join(line.removeprefix("    ") for line in lines) + "\n")


def run_pytest(directory: Path, *arguments: str, plugins: Iterable[str] = ()) -> str:
    """Run pytest with only these plugins, so that the processes start fast, and return what it printed."""
    names = ["usernsproc.pytest", *plugins]
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "--strict-markers", f"--rootdir={directory}"]
    command += [part for name in names for part in ("-p", name)]
    environment = {**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "CI": "1"}
    result = subprocess.run(
        [*command, *arguments],
        cwd=directory,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=A_HANG,
    )
    assert result.returncode in (0, 1), result.stdout
    return result.stdout


def outcomes(printed: str) -> dict[str, set[str]]:
    """From the lines that `-v` prints: `test_inner.py::test_plain PASSED`, with xdist `[gw0] PASSED test_inner.py…`."""
    found: dict[str, set[str]] = {}
    for line in printed.partition("short test summary")[0].splitlines():
        name = re.search(r"test_inner\.py::(?:\w+::)?(\S+)", line)
        word = re.search(r"\b(PASSED|SKIPPED|XFAIL|ERROR|FAILED)\b", line)
        if name and word:
            found.setdefault(LETTERS[word[1]], set()).add(name[1])
    return found


def section(printed: str, name: str) -> str:
    """What is printed about a test that failed."""
    return printed.partition("= FAILURES =")[2].partition(f" {name} __")[2].partition("\n______")[0]


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    directory = tmp_path_factory.mktemp("results")
    with usernsproc.Namespace.current() as current:
        write(directory, RESULTS.format(own=current.inode, uid=OWN_UID))
    return directory, run_pytest(
        directory, "-v", "--durations=2", "--durations-min=0.4", "--junitxml=junit.xml", *JUNIT
    )


def test_each_test_has_the_outcome_of_any_other(results: tuple[Path, str]) -> None:
    assert outcomes(results[1]) == SUMMARY


def test_a_failure_has_its_traceback_and_what_was_captured(results: tuple[Path, str]) -> None:
    text = section(results[1], "test_fails")
    assert ">       assert value == [1, 2, 4], " in text
    assert "E       AssertionError: a message\n" in text
    assert "At index 2 diff: 3 != 4" in text  # assertions are rewritten
    for name, content in (("stdout", "printed"), ("stderr", "complained"), ("log", "logged")):
        assert re.search(rf"- Captured {name} call -+\n.*{content}", text)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("test_crash", "The process of the test was killed by SIGSEGV."),
        ("test_crash", "in test_crash\n"),  # by faulthandler
        ("test_exit", "The process of the test exited with status 3 before the test had ended."),
        ("test_killed", "The process of the test was killed by SIGKILL."),
        ("test_slow", "The test took longer than its limit of 2 seconds."),
        ("test_slow", "in test_slow\n"),
        ("test_stopped", "The test took longer than its limit of 0.5 seconds."),
        ("test_mistyped", "got an unexpected keyword argument 'uidmap'. Did you mean 'uid_map'?"),
        ("test_by_position", "the options are given by keyword, not as ('root',)"),
        ("test_refused", "IdMapError: uid_map: range 0:0:0"),
        ("test_in_words", "timeout is a number of seconds from above 0 to 1000000, not '1'"),
        ("test_for_ever", "timeout is a number of seconds from above 0 to 1000000, not inf"),
        ("test_of_none", "timeout is a number of seconds from above 0 to 1000000, not 0"),
        ("test_no_dictionary[root]", "the parameter of the fixture is a dictionary of options, not 'root'"),
    ],
)
def test_what_went_wrong_with_the_process_is_said(results: tuple[Path, str], name: str, words: str) -> None:
    assert words in section(results[1], name)


def test_warnings_and_durations_are_shown(results: tuple[Path, str]) -> None:
    warnings = results[1].partition("= warnings summary =")[2]
    assert "test_inner.py::test_warns\n" in warnings
    assert "DeprecationWarning: careful" in warnings
    assert re.search(r"\b1 warning\b", results[1])
    assert re.search(r"s call +test_inner.py::test_stopped\n", results[1])


def test_junit(results: tuple[Path, str]) -> None:
    suite = xml.etree.ElementTree.parse(results[0] / "junit.xml").getroot()[0]
    numbers = {name: int(suite.get(name, "")) for name in ("errors", "failures", "skipped")}
    assert numbers == {"errors": 2, "failures": len(SUMMARY["failed"]), "skipped": 2}
    cases = {case.get("name"): case for case in suite.iter("testcase")}
    failed = cases["test_fails"]
    assert failed.find(".//property").attrib == {"name": "where", "value": "inside"}  # type: ignore[union-attr]
    assert "printed" in failed.findtext("system-out", "")
    assert cases["test_crash"].find("failure").get("message") == "The process of the test was killed by SIGSEGV."  # type: ignore[union-attr]
    assert cases["test_skipped"].find("skipped").get("message") == "not now"  # type: ignore[union-attr]


def test_nothing_is_left_of_the_processes(results: tuple[Path, str]) -> None:
    directory = str(results[0])
    for process in Path("/proc").glob("[0-9]*"):
        try:
            assert directory not in (process / "cmdline").read_text()
        except (FileNotFoundError, ProcessLookupError, PermissionError):
            pass  # it has just ended, or it is another user's


# ---- xdist and coverage ----

MEASURED = """
    import os
    import pytest

    import measured

    def test_outside():
        assert measured.where(False) == "outside"

    @pytest.mark.userns
    @pytest.mark.parametrize("number", range(3))
    def test_inside(number, worker_id):
        assert worker_id == os.environ.get("PYTEST_XDIST_WORKER", "master")
        assert measured.where(True) == "inside"

    @pytest.mark.userns
    def test_fails():
        assert measured.where(True) == "outside"
"""
MODULE = """
    def where(is_inside):
        if is_inside:
            return "inside"
        return "outside"

    def unused():
        return 1
"""
PLUGINS = ("xdist.plugin", "pytest_cov.plugin")


@pytest.mark.parametrize("processes", ["0", "2"])
def test_coverage_and_xdist(tmp_path: Path, processes: str) -> None:
    write(tmp_path, MEASURED)
    write(tmp_path, MODULE, "measured.py")
    options = ("--cov=measured", "--cov-branch", "--cov-context=test", "--cov-report=term-missing", "-n", processes)
    printed = run_pytest(tmp_path, "-v", *options, plugins=PLUGINS)
    assert outcomes(printed) == {
        "passed": {"test_outside", "test_inside[0]", "test_inside[1]", "test_inside[2]"},
        "failed": {"test_fails"},
    }
    assert re.search(r"^measured\.py +6 +1 +2 +0 +88% +7$", printed, re.MULTILINE), printed
    with sqlite3.connect(tmp_path / ".coverage") as database:
        contexts = {name for (name,) in database.execute("SELECT context FROM context")}
    database.close()
    assert "test_inner.py::test_inside[1]|run" in contexts


# ---- one process for several tests ----

SHARED = """
    import os
    import pytest
    from usernsproc import Namespace

    log = []

    @pytest.fixture(scope="session")
    def of_session():
        log.append("session")
        yield
        print("end of the session fixture")

    @pytest.fixture(scope="module")
    def of_module():
        log.append("module")
        yield
        print("end of the module fixture")

    @pytest.mark.userns(scope="module", timeout=100)
    def test_1(of_session, of_module):
        log.append(os.getpid())

    def test_outside(of_module):
        assert log == ["module"]

    @pytest.mark.userns(scope="module")
    def test_2(of_session, of_module):
        assert log == ["session", "module"], "a new process, since a test without the marker was between"
        log.append(os.getpid())

    @pytest.mark.userns(scope="module", timeout=5)
    def test_3(of_session, of_module):
        assert log == ["session", "module", os.getpid()]

    @pytest.mark.userns(scope="module", namespaces=["net"])
    def test_other_options():
        assert log == []

    @pytest.mark.userns(scope="module")
    def test_exits():
        os._exit(1)

    @pytest.mark.userns(scope="module")
    def test_after():
        assert log == []

    class TestOfClass:
        pytestmark = pytest.mark.userns(scope="class")

        def test_a(self):
            log.append("a")

        def test_b(self):
            assert log == ["a"]

    @pytest.mark.userns(scope="class")
    def test_of_no_class():
        assert log == []

    @pytest.mark.userns(scope="package")
    def test_no_such_scope():
        pass
"""
NEXT_FILE = """
    import pytest

    @pytest.mark.userns
    def test_last():
        pass

    def test_plain_last():
        pass
"""


def test_tests_that_share_a_process_and_its_fixtures(tmp_path: Path) -> None:
    write(tmp_path, SHARED)
    write(tmp_path, NEXT_FILE, "test_next.py")
    printed = run_pytest(tmp_path, "-v", "-rA")
    failed = {"test_exits", "test_no_such_scope"}
    assert outcomes(printed)["failed"] == failed
    assert "error" not in outcomes(printed)
    assert "2 failed, 11 passed" in printed
    assert "scope is one of function, class, module, not 'package'" in section(printed, "test_no_such_scope")
    ends = re.findall(r"^end of the (\w+) fixture", printed, re.MULTILINE)
    assert sorted(ends) == ["module"] * 2 + ["session"] * 2  # in each process


FIXTURES_OF_THE_PARENT = """
    import pytest

    @pytest.fixture(scope="module")
    def failing_end():
        yield
        print("printed at the end")
        raise LookupError("at the end of the module")

    def test_first(failing_end):
        pass

    @pytest.mark.userns
    def test_last_of_module():
        pass
"""


def test_fixtures_of_tests_before_end_where_they_would(tmp_path: Path) -> None:
    write(tmp_path, FIXTURES_OF_THE_PARENT)
    write(tmp_path, NEXT_FILE, "test_next.py")
    printed = run_pytest(tmp_path, "-v")
    assert outcomes(printed) == {"passed": {"test_first", "test_last_of_module"}, "error": {"test_last_of_module"}}
    assert "LookupError: at the end of the module" in printed
    assert re.search(r"- Captured stdout teardown -+\nprinted at the end\n", printed)
    assert "4 passed, 1 error" in printed


# ---- the session ----

STOPPING = """
    import pytest

    @pytest.mark.userns
    def test_stops():
        pytest.exit("enough", 1)

    def test_not_reached():
        pass
"""


def test_exit_ends_the_whole_run(tmp_path: Path) -> None:
    write(tmp_path, STOPPING)
    printed = run_pytest(tmp_path)
    assert "Exit: enough" in printed
    assert "test_not_reached" not in printed


CONFTEST = """
    import os
    import pytest

    def pytest_addoption(parser):
        parser.addoption("--number", type=int)
        parser.addini("word", "a word")

    def pytest_configure(config):
        if os.getuid() == 0 and os.environ.get("FAIL_INSIDE") == "yes" and hasattr(config, "workerinput"):
            raise RuntimeError("not in the namespace")
"""
OPTIONS = """
    import pytest

    @pytest.mark.userns(scope="module")
    def test_options(pytestconfig):
        assert pytestconfig.getoption("number") == 7
        assert pytestconfig.getini("word") == "hello"
        assert pytestconfig.getoption("verbose") == 1

    @pytest.mark.userns(scope="module")
    def test_selected():
        pass

    def test_not_selected():
        raise AssertionError
"""


def test_options_settings_and_selection_are_the_same(tmp_path: Path) -> None:
    write(tmp_path, CONFTEST, "conftest.py")
    (tmp_path / "pytest.ini").write_text("[pytest]\nword = hello\naddopts = --maxfail=1\nfilterwarnings = error\n")
    write(tmp_path, OPTIONS)
    printed = run_pytest(tmp_path, "-v", "--number=7", "-k", "options or not not_selected", "-s")
    assert outcomes(printed) == {"passed": {"test_options", "test_selected"}}


def test_a_session_that_does_not_start_is_a_failure_with_its_output(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAIL_INSIDE", "yes")
    write(tmp_path, CONFTEST, "conftest.py")
    write(tmp_path, NEXT_FILE)
    printed = run_pytest(tmp_path, "-v")
    assert outcomes(printed) == {"passed": {"test_plain_last"}, "failed": {"test_last"}}
    text = section(printed, "test_last")
    assert "The process of the test exited with status 3 before the test had ended." in text
    assert "RuntimeError: not in the namespace" in text


MISSING = """
    import pytest
    from usernsproc import Namespace

    with Namespace.current() as current:
        if str(current.uid_map) == "0:{uid}:1":
            raise ImportError("not here")

    @pytest.mark.userns
    def test_there():
        pass
"""


def test_a_test_that_is_not_there_in_the_namespace_is_a_failure(tmp_path: Path) -> None:
    write(tmp_path, MISSING.format(uid=OWN_UID))
    printed = run_pytest(tmp_path, "-v")
    assert outcomes(printed) == {"failed": {"test_there"}}
    assert "This test was not found in the namespace." in section(printed, "test_there")
    assert "ImportError: not here" in section(printed, "test_there")


LOADED = """
    import sys

    def test_plain():
        names = {name for name in sys.modules if name.startswith("usernsproc")}
        assert names == {"usernsproc", "usernsproc.pytest", "usernsproc._pytest", "usernsproc._pytest.plugin"}
"""


GIVEN_AWAY = """
    import os, subprocess
    import pytest

    @pytest.mark.userns(uid_map={map!r}, gid_map="root", namespaces=["mnt"])
    def test_owners(tmp_path):
        given = tmp_path / "given"
        for directory in (given / "below", {outside!r}):
            os.makedirs(directory)
        (given / "file").touch()
        for path in (given, given / "file", {outside!r}):
            os.chown(path, 5, 0)
        subprocess.run(["mount", "--bind", {outside!r}, given / "below"], check=True)
"""


def test_the_user_can_delete_the_directories_that_a_test_gave_away(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    map = "rootless" if OWN_UID else "0:0:1,1:100000:10"
    write(tmp_path, GIVEN_AWAY.format(map=map, outside=str(outside)))
    assert "1 passed" in run_pytest(tmp_path, f"--basetemp={tmp_path / 'base'}")
    given = tmp_path / "base" / "userns0" / "base" / "test_owners0" / "given"
    assert given.stat().st_uid == OWN_UID
    # Files keep their owners, and so does what was mounted there.
    assert (given / "file").stat().st_uid == outside.stat().st_uid != OWN_UID


def test_a_test_without_the_marker_does_not_load_the_package(tmp_path: Path) -> None:
    write(tmp_path, LOADED)
    assert "1 passed" in run_pytest(tmp_path)


def test_the_examples_of_the_documentation_pass(tmp_path: Path) -> None:
    page = Path(__file__).parent.parent / "docs" / "how-to-test-as-root.md"
    blocks = re.findall(r"^```python\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL)
    (tmp_path / "test_inner.py").write_text("".join(blocks))
    assert "6 passed in" in run_pytest(tmp_path)


def test_the_entry_point_and_the_marker() -> None:
    printed = subprocess.run(
        [sys.executable, "-m", "pytest", "--markers", "-p", "no:cacheprovider"],
        cwd="/",
        capture_output=True,
        text=True,
    ).stdout
    assert printed.count("@pytest.mark.userns(*, uid_map=") == 1
    assert {"pytest_configure", "userns", "userns_process"} == set(usernsproc.pytest.__all__)
