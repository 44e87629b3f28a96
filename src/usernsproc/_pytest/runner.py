"""The process in the namespace: a session of pytest that runs the tests that it is told to, and sends the reports.

It is run as a file, and imports nothing of this package.
"""

from __future__ import annotations

import base64
import contextlib
import faulthandler
import importlib
import json
import os
import shutil
import sys
import tempfile
from multiprocessing.connection import Connection
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    import warnings

    from typing_extensions import TypeAlias

    Channel: TypeAlias = "Connection[Any, Any]"

NAME = "usernsproc_runner"


def main(fd: int) -> None:
    os.set_inheritable(fd, False)
    connection: Channel = Connection(fd)
    start = connection.recv()
    stderr = os.dup(2)  # before it is captured: what a crash or the time limit prints is for the parent
    coverage = _started_coverage(start["coverage"])
    basetemp = _own_directory(start["options"])
    config = pytest.Config.fromdictargs(start["options"], [start["path"]])
    # As a worker of pytest-xdist: plugins that write a report of the whole run leave that to the parent.
    config.workerinput = start["workerinput"]  # type: ignore[attr-defined]
    config.workeroutput = {}  # type: ignore[attr-defined]
    config.pluginmanager.register(Runner(config, connection, stderr), NAME)
    if coverage is not None and start["options"].get("cov_context") == "test":
        plugin: Any = importlib.import_module("pytest_cov.plugin")
        contexts = plugin.TestContextPlugin(SimpleNamespace(started=True, cov=coverage))
        config.pluginmanager.register(contexts, "usernsproc_contexts")
    status = 1
    try:
        status = int(config.hook.pytest_cmdline_main(config=config))
    finally:
        config._ensure_unconfigure()
        if basetemp is not None:
            shutil.rmtree(basetemp, ignore_errors=True)
        else:
            _give_back(start["options"]["basetemp"])
    if coverage is not None:
        coverage.stop()
        _send(connection, "coverage", data=base64.b64encode(coverage.get_data().dumps()).decode())
    _send(connection, "end")
    sys.exit(status)


def _send(connection: Channel, kind: str, **content: Any) -> None:
    connection.send_bytes(json.dumps({"kind": kind, **content}, default=str).encode())


def _started_coverage(options: dict[str, Any] | None) -> Any:
    if options is None:
        return None
    import coverage

    if coverage.Coverage.current() is not None:  # started in each process by coverage itself
        return None
    started = coverage.Coverage(data_file=None, messages=False, **options)
    started.start()
    return started


def _own_directory(options: dict[str, Any]) -> str | None:
    """Set `basetemp`. If the IDs of this process may not write into that of the parent, it is a directory that
    the caller removes."""
    try:
        os.mkdir(options["basetemp"], 0o700)
    except OSError:
        options["basetemp"] = tempfile.mkdtemp(prefix="pytest-userns-")
        return str(options["basetemp"])
    return None


def _give_back(directory: str) -> None:
    """Become the owner of directories that tests gave to other IDs: the user could not empty them from outside.

    What is mounted below is left as it is.
    """
    mount = None
    with contextlib.suppress(OSError):
        for _, names, _, fd in os.fwalk(directory):
            with open(f"/proc/self/fdinfo/{fd}") as file:
                found = next(line for line in file if line.startswith("mnt_id:"))
            mount = mount or found
            if found != mount:
                names.clear()
            elif os.fstat(fd).st_uid != os.geteuid():
                os.fchown(fd, os.geteuid(), -1)


class Runner:
    """Takes the place of pytest's own loop over the tests."""

    def __init__(self, config: pytest.Config, connection: Channel, stderr: int) -> None:
        self._config, self._connection, self._stderr = config, connection, stderr
        self._not_collected: list[str] = []

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if report.failed:
            self._not_collected.append(report.longreprtext)

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        items = {item.nodeid: item for item in session.items}
        while (order := self._connection.recv()) is not None:
            name, following, timeout = order
            if name in items:
                self._run(items[name], items.get(following), timeout)
            else:
                _send(self._connection, "missing", text="\n\n".join(self._not_collected))
            _send(self._connection, "done")
        return True

    def _run(self, item: pytest.Item, following: pytest.Item | None, timeout: float | None) -> None:
        if timeout is not None:
            faulthandler.dump_traceback_later(timeout, exit=True, file=self._stderr)
        item.config.hook.pytest_runtest_protocol(item=item, nextitem=following)
        if timeout is not None:
            faulthandler.cancel_dump_traceback_later()

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        data = self._config.hook.pytest_report_to_serializable(config=self._config, report=report)
        _send(self._connection, "report", data=data)

    def pytest_warning_recorded(
        self, warning_message: warnings.WarningMessage, when: str, nodeid: str, location: tuple[str, int, str] | None
    ) -> None:
        if when != "runtest":
            return  # the parent has collected the test as well
        category = warning_message.category
        _send(
            self._connection,
            "warning",
            message=str(warning_message.message),
            category=[category.__module__, category.__qualname__],
            place=[warning_message.filename, warning_message.lineno],
            when=when,
            nodeid=nodeid,
            location=location,
        )

    def pytest_keyboard_interrupt(self, excinfo: pytest.ExceptionInfo[BaseException]) -> None:
        if isinstance(excinfo.value, pytest.exit.Exception):
            _send(self._connection, "exit", reason=str(excinfo.value.msg), returncode=excinfo.value.returncode)
