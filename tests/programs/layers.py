"""Grimp starts threads that stay, so it runs in a separate process."""

from __future__ import annotations

import json

import grimp


def print_imports() -> None:
    """Print what each module imports at run time, also in functions."""
    graph = grimp.build_graph("usernsproc", exclude_type_checking_imports=True, cache_dir=None)
    print(json.dumps({module: sorted(graph.find_modules_directly_imported_by(module)) for module in graph.modules}))
