"""The hooks and fixtures of the plugin. Modules that only marked tests need are loaded by these."""

from __future__ import annotations

from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from .._namespaces.namespace import Namespace
    from .._processes.process import UsernsProcess
    from .request import Request
    from .worker import Worker

_RUNNER = "usernsproc_runner"
_MARKER = (
    'userns(*, uid_map="root", timeout=None, scope="function", **options): run the test in a process in new '
    "namespaces, with the options of usernsproc.UsernsProcess"
)


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", _MARKER)
    if not config.pluginmanager.has_plugin(_RUNNER):  # that of the process in the namespace
        config.pluginmanager.register(_Plugin(), "usernsproc_parent")


class _Plugin:
    _worker: Worker | None = None
    """The process that runs the next test as well, if the two share it."""

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_protocol(self, item: pytest.Item, nextitem: pytest.Item | None) -> bool | None:
        if not item.get_closest_marker("userns") and "userns" not in getattr(item, "fixturenames", ()):
            return None
        from .request import uses_fixture  # only for tests that may need it

        if not item.get_closest_marker("userns") and not uses_fixture(item):
            return None
        hook = item.ihook
        hook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
        for report in self._reports(item, nextitem):
            hook.pytest_runtest_logreport(report=report)
        # Fixtures of the tests before, which the next test does not use.
        call: Any = pytest.CallInfo[None].from_call(lambda: _teardown(item, nextitem), "teardown")
        if call.excinfo is not None:
            hook.pytest_runtest_logreport(report=hook.pytest_runtest_makereport(item=item, call=call))
        hook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)
        return True

    def _reports(self, item: pytest.Item, nextitem: pytest.Item | None) -> Iterator[pytest.TestReport]:
        from .request import Request  # only for tests that need it
        from .worker import Worker, failed

        try:
            request = Request.of(item)
            assert request is not None
            worker = self._worker_for(request) or Worker(item, request)
        except (OSError, TypeError, ValueError) as error:
            yield from failed(item, "\n".join([f"{type(error).__name__}: {error}", *getattr(error, "__notes__", ())]))
            return
        self._worker = worker
        is_shared = _shares(request, nextitem)
        try:
            yield from worker.run(item, nextitem if is_shared else None)
        except BaseException:  # an interrupt from the keyboard, or pytest.exit
            self._close()
            raise
        if worker.has_ended:
            self._close()
        elif not is_shared:
            self._worker = None
            worker.stop()

    def _worker_for(self, request: Request) -> Worker | None:
        if self._worker is not None and request.shares_process_with(self._worker.request):
            self._worker.request = request  # its own time limit
            return self._worker
        self._close()
        return None

    def _close(self) -> None:
        worker, self._worker = self._worker, None
        if worker is not None:
            worker.close()

    def pytest_sessionfinish(self) -> None:
        self._close()


def _teardown(item: pytest.Item, nextitem: pytest.Item | None) -> None:
    session: Any = item.session
    capture: Any = item.config.pluginmanager.get_plugin("capturemanager")
    with nullcontext() if capture is None else capture.item_capture("teardown", item):
        session._setupstate.teardown_exact(nextitem)


def _shares(request: Request, nextitem: pytest.Item | None) -> bool:
    try:
        return request.shares_process_with(request.of(nextitem))
    except (TypeError, ValueError):
        return False  # reported when it is run


@pytest.fixture
def userns() -> Iterator[Namespace]:
    """The user namespace that the test runs in. A test that uses this fixture runs in one, as with the marker `userns`.

    With `parametrize(…, indirect=True)`, a parameter is a dictionary of options.
    """
    from .._namespaces.namespace import Namespace

    with Namespace.current() as namespace:
        yield namespace


@pytest.fixture
def userns_process() -> Iterator[Callable[..., UsernsProcess[Any]]]:
    """A function with the parameters of `usernsproc.UsernsProcess`, that starts processes in new user namespaces.

    By default the map is `"root"`; without arguments it is a holder. They are killed and reaped after the test.
    """
    from .._processes.process import UsernsProcess

    processes: list[UsernsProcess[Any]] = []

    def start(args: Any = None, **options: Any) -> UsernsProcess[Any]:
        if all(options.get(name) is None for name in ("uid_map", "gid_map", "join")):
            options["uid_map"] = "root"
        processes.append(UsernsProcess(args, **options))
        return processes[-1]

    yield start
    for process in reversed(processes):
        process.close()
