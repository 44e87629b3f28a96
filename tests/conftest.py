"""For every test: check that it leaves nothing behind, and select the tests for this user and kernel."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from cgroups import controllers
from leaks import assert_unchanged, state
from native import KERNEL, kernel_version

IS_ROOT = os.geteuid() == 0


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "root: needs root; the rest runs as root and as an unprivileged user")
    config.addinivalue_line("markers", "kernel(since, before=...): needs such a Linux, as '6.15'; the rest runs on all")
    config.addinivalue_line("markers", "cgroup2(controller, ...): needs these in version 2; tests/kernels has them all")


def is_for_this_kernel(since: str = "0.0", before: str | None = None) -> bool:
    return kernel_version(since) <= KERNEL and (before is None or kernel_version(before) > KERNEL)


def is_for_here(item: pytest.Item) -> bool:
    """Return whether the test is for this user and this kernel. Other tests are deselected, not skipped."""
    if item.get_closest_marker("root") and not IS_ROOT:
        return False
    if not all(set(marker.args) <= controllers() for marker in item.iter_markers("cgroup2")):
        return False
    return all(is_for_this_kernel(*marker.args, **marker.kwargs) for marker in item.iter_markers("kernel"))


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    kept = [item for item in items if is_for_here(item)]
    config.hook.pytest_deselected(items=[item for item in items if item not in kept])
    items[:] = kept


@pytest.fixture(autouse=True)
def nothing_is_left_behind() -> Iterator[None]:
    before = state()
    yield
    assert_unchanged(before)


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """A skipped test has not tested anything, so it is a failure."""
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if reporter is not None and reporter.stats.get("skipped") and session.exitstatus == 0:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
