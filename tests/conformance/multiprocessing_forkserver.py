"""CPython's tests of multiprocessing for this start method. Processes of the tests import this module as well."""

from __future__ import annotations

import importlib

importlib.import_module("test._test_multiprocessing").install_tests_in_module_dict(globals(), "forkserver")
