"""CPython's own tests of `multiprocessing`, with the context replaced by one of `usernsproc.multiprocessing`.

    python tests/conformance/run_multiprocessing_tests.py [--plain] [-v] METHOD [CLASS[.TEST] ...]

METHOD is `spawn` or `forkserver`; without names, all tests are run, which takes some minutes. With `--plain` nothing is
replaced. The last line printed is the outcome, as JSON.
"""

from __future__ import annotations

import argparse
import contextlib
import faulthandler
import importlib
import json
import multiprocessing.context
import os
import signal
import sys
import tempfile
import time
import unittest
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from conformance.run_cpython_tests import EVERY_ID, Result
else:
    from run_cpython_tests import EVERY_ID, Result

GIVE_UP_AFTER = 3000  # seconds; then all threads are shown


def replace_context(method: str) -> None:
    """Only the namespace differs: root maps every ID, other users only their own, both unchanged."""
    from usernsproc.multiprocessing import get_context

    id_map = EVERY_ID if os.geteuid() == 0 else "current"
    ours = get_context(method, uid_map=id_map, gid_map=id_map)
    # As CPython does for the server of the standard library, which is not used here.
    ours.set_forkserver_preload(["__main__", f"multiprocessing_{method}"])
    multiprocessing.context._concrete_contexts[method] = ours  # type: ignore[attr-defined]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--plain", action="store_true")
    parser.add_argument("-v", "--verbose", action="store_true")
    parser.add_argument("method", choices=("spawn", "forkserver"))
    parser.add_argument("names", nargs="*")
    arguments = parser.parse_args()
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background of a shell ignores it
    faulthandler.dump_traceback_later(GIVE_UP_AFTER, exit=True)
    if not arguments.plain:
        replace_context(arguments.method)
    module = importlib.import_module(f"multiprocessing_{arguments.method}")
    loader = unittest.defaultTestLoader
    suite = (
        loader.loadTestsFromNames(arguments.names, module) if arguments.names else loader.loadTestsFromModule(module)
    )
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as directory, contextlib.chdir(directory):
        result = unittest.TextTestRunner(sys.stderr, verbosity=1 + arguments.verbose, resultclass=Result).run(suite)
        assert isinstance(result, Result)
        outcome = result.outcome()
    print(json.dumps({**outcome, "seconds": round(time.monotonic() - began, 1)}))


if __name__ == "__main__":
    main()
