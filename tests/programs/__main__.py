"""Run one function of a module in this folder: `python -m programs MODULE FUNCTION ARGUMENTS`, these in JSON."""

from __future__ import annotations

import json
import sys
from importlib import import_module

module, function, arguments = sys.argv[1:]
getattr(import_module(module), function)(*json.loads(arguments))
