"""Attackers of a set-up, as programs."""

from __future__ import annotations

from programs.renamed_directories import exchange


def swap_for_ever(one: str, other: str) -> None:
    """Exchange two paths until killed."""
    exchange(one, other)
    print("ready", flush=True)
    while True:
        exchange(one, other)
