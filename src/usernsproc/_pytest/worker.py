"""The parent's side of a process in a namespace that runs tests."""

from __future__ import annotations

import base64
import json
import os
import pickle
import signal
import socket
import subprocess
import sys
import time
import warnings
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from .._processes.ended_by import NOTES
from .._processes.process import UsernsProcess

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

    from .request import Request

_GRACE = 2.0  # seconds; the process ends itself at the limit, to show where it was
_LONGEST_END = 10.0  # seconds
_SHOWN = 20_000  # bytes
_RUNNER = os.path.join(os.path.dirname(__file__), "runner.py")
_PROGRAM = "import runpy, sys; sys.path[:] = {path!r}; runpy.run_path({runner!r}, run_name='runner')['main']({fd})"
"""Not an import: pytest would warn that this package was imported before it could rewrite assertions."""

# What the parent does itself, or what needs a terminal.
_OPTIONS_OF_PARENT: dict[str, Any] = {
    "cacheclear": False,
    "collectonly": False,
    "cov_source": [],
    "deselect": None,
    "dist": "no",
    "failedfirst": False,
    "keyword": "",
    "lf": False,
    "markexpr": "",
    "maxfail": 0,
    "newfirst": False,
    "numprocesses": None,
    "setuponly": False,
    "setupplan": False,
    "setupshow": False,
    "stepwise": False,
    "trace": False,
    "tx": [],
    "usepdb": False,
    "xmlpath": None,
}


class Worker:
    """A process in a namespace, with a session of pytest of one file.

    Raises:
        UsernsError, ValueError, TypeError: as `UsernsProcess`.
    """

    def __init__(self, item: pytest.Item, request: Request) -> None:
        self._config, self.request = item.config, request
        self._output = -1 if item.config.getoption("capture") == "no" else os.memfd_create("output")
        ours, theirs = socket.socketpair()
        with theirs:
            self._connection: Connection[Any, Any] = Connection(ours.detach())
            try:
                self._process = self._started(theirs.fileno())
            except BaseException:
                self._connection.close()
                self._close_output()
                raise
        self._send(_start(item))

    def _started(self, fd: int) -> UsernsProcess[bytes]:
        options = dict(self.request.options)
        of_python: Any = subprocess
        flags: list[str] = of_python._args_from_interpreter_flags()
        command = [sys.executable, *flags, "-c", _PROGRAM.format(path=sys.path, runner=_RUNNER, fd=fd)]
        options["pass_fds"] = {fd, *options.get("pass_fds", ())}
        if self._output >= 0:
            options.update(stdout=self._output, stderr=self._output)
        return UsernsProcess[bytes](command, stdin=subprocess.DEVNULL, **options)

    def _send(self, order: object) -> None:
        try:
            self._connection.send(order)
        except BrokenPipeError:
            pass  # it has ended, which is noticed when it should answer

    def run(self, item: pytest.Item, following: pytest.Item | None) -> Iterator[pytest.TestReport]:
        """Run one test. *following*: the next one that this process runs; else all fixtures are torn down."""
        timeout, began = self.request.timeout, time.monotonic()
        self._send((item.nodeid, None if following is None else following.nodeid, timeout))
        seen: set[str] = set()
        end = None if timeout is None else began + timeout + _GRACE
        while (message := self._received(end))["kind"] != "done":
            if message["kind"] == "report":
                report = self._report(message["data"])
                seen.add(str(report.when))
                yield report
            elif message["kind"] == "missing":
                text = f"This test was not found in the namespace.\n\n{message['text']}".rstrip()
                yield from failed(item, text, seen)
            elif message["kind"] == "lost":
                is_late = timeout is not None and time.monotonic() >= began + timeout
                text = self._end_of_process(timeout if is_late else None)
                yield from failed(item, text, seen, time.monotonic() - began, self._printed())
                return
            else:
                self._handle(message)

    def _received(self, end: float | None) -> dict[str, Any]:
        try:
            if end is not None and not self._connection.poll(max(0, end - time.monotonic())):
                self._process.kill()
            message: dict[str, Any] = json.loads(self._connection.recv_bytes())
        except (EOFError, ConnectionResetError):
            return {"kind": "lost"}
        return message

    def _report(self, data: dict[str, Any]) -> pytest.TestReport:
        report: pytest.TestReport = self._config.hook.pytest_report_from_serializable(config=self._config, data=data)
        # JSON has no tuples, and plugins unpack or compare them.
        report.location = tuple[Any, ...](data["location"])
        report.sections = [(name, text) for name, text in report.sections]
        report.user_properties = [(name, value) for name, value in report.user_properties]
        if data["longrepr"].__class__ is list:
            report.longrepr = tuple[Any, ...](data["longrepr"])
        return report

    def _handle(self, message: dict[str, Any]) -> None:
        if message["kind"] == "warning":
            location = message["location"]
            self._config.hook.pytest_warning_recorded.call_historic(
                kwargs={
                    "warning_message": _warning(message),
                    "when": message["when"],
                    "nodeid": message["nodeid"],
                    "location": None if location is None else tuple(location),
                }
            )
        elif message["kind"] == "coverage":
            _add_coverage(base64.b64decode(message["data"]))
        elif message["kind"] == "exit":
            pytest.exit(message["reason"], message["returncode"])

    def _end_of_process(self, timeout: float | None) -> str:
        try:
            code = self._process.wait(_LONGEST_END)
        except subprocess.TimeoutExpired:  # it has closed the connection
            self._process.kill()
            code = self._process.wait()
        if timeout is not None:
            return f"The test took longer than its limit of {timeout} seconds."
        if code >= 0:
            return f"The process of the test exited with status {code} before the test had ended."
        try:
            name = signal.Signals(-code).name
        except ValueError:
            name = f"signal {-code}"
        limit = self._process.ended_by
        return f"The process of the test was killed by {name}.{'' if limit is None else ' ' + NOTES[limit]}"

    def _printed(self) -> str:
        """What was printed and not captured by pytest: a traceback of `faulthandler`, or what a crash has left."""
        if self._output < 0:
            return ""
        size = os.fstat(self._output).st_size
        return os.pread(self._output, _SHOWN, max(0, size - _SHOWN)).decode(errors="replace")

    @property
    def has_ended(self) -> bool:
        return self._process.poll() is not None

    def stop(self) -> None:
        """Have it end its session, and wait for that."""
        self._send(None)
        end = time.monotonic() + _LONGEST_END
        try:
            while (message := self._received(end))["kind"] not in ("end", "lost"):
                self._handle(message)
            self._process.wait(max(0, end - time.monotonic()))
        except subprocess.TimeoutExpired:
            pass  # a thread of a test still runs
        finally:
            self.close()

    def close(self) -> None:
        self._process.close()
        self._connection.close()
        self._close_output()

    def _close_output(self) -> None:
        if self._output >= 0:
            os.close(self._output)
            self._output = -1


def _start(item: pytest.Item) -> dict[str, Any]:
    """What the session in the namespace needs to be like this one."""
    config = item.config
    options = {name: value for name, value in vars(config.option).items() if _can_be_sent(value)}
    options.pop("file_or_dir", None)
    options.update({name: value for name, value in _OPTIONS_OF_PARENT.items() if name in options})
    options["plugins"] = [*(options.get("plugins") or ()), "no:terminal"]
    options["rootdir"] = str(config.rootpath)
    options["inifilename"] = None if config.inipath is None else str(config.inipath)
    factory: Any = vars(config)["_tmp_path_factory"]
    options["basetemp"] = str(Path(factory.mktemp("userns"), "base"))
    number = {"workerid": os.environ.get("PYTEST_XDIST_WORKER", "master"), "testrunuid": ""}
    workerinput = {**number, **getattr(config, "workerinput", {})}
    return {"options": options, "path": str(item.path), "workerinput": workerinput, "coverage": _coverage_options()}


def _can_be_sent(value: object) -> bool:
    try:
        pickle.dumps(value)
    except Exception:
        return False
    return True


def failed(
    item: pytest.Item, text: str, seen: Collection[str] = (), seconds: float = 0, printed: str = ""
) -> Iterator[pytest.TestReport]:
    """The reports of the phases that are missing: the first of them that is not the setup has failed."""
    failing = "teardown" if "call" in seen else "call"
    now = time.time()
    for when in ("setup", "call", "teardown"):
        if when not in seen:
            is_failed = when == failing
            yield pytest.TestReport(
                item.nodeid,
                item.location,
                dict.fromkeys(item.keywords, 1),
                "failed" if is_failed else "passed",
                text if is_failed else None,
                when,
                sections=[("Output of the process", printed)] if printed and is_failed else [],
                duration=seconds if is_failed else 0,
                start=now - seconds,
                stop=now,
            )


def _warning(message: dict[str, Any]) -> warnings.WarningMessage:
    module, name = message["category"]
    category = getattr(sys.modules.get(module), name, None)
    if not (isinstance(category, type) and issubclass(category, Warning)):
        category = Warning
    text = message["message"]
    # The object is only printed; some classes of warnings cannot be made from a text.
    return warnings.WarningMessage(text, category, *message["place"])


# ---- coverage ----


def _coverage_options() -> dict[str, Any] | None:
    """Of the measurement that runs here, by `coverage run` or pytest-cov; `None`: nothing is measured."""
    module = sys.modules.get("coverage")
    current = None if module is None else module.Coverage.current()
    if current is None:
        return None
    names = ("branch", "include", "omit", "source", "source_pkgs")
    options = {name: current.get_option(f"run:{name}") for name in names}
    return {**options, "config_file": current.config.config_file or False}


def _add_coverage(data: bytes) -> None:
    import coverage

    current = coverage.Coverage.current()
    if current is not None:
        more = coverage.CoverageData(no_disk=True)
        more.loads(data)
        current.get_data().update(more)
