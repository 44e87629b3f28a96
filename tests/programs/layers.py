"""Grimp starts threads that stay, so it runs in a process of its own."""

from __future__ import annotations

import json

import grimp


def print_imports() -> None:
    """What each module imports when it runs, also inside functions."""
    graph = grimp.build_graph("usernsproc", exclude_type_checking_imports=True, cache_dir=None)
    print(json.dumps({module: sorted(graph.find_modules_directly_imported_by(module)) for module in graph.modules}))
