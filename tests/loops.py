"""The event loops that asyncio runs on in the tests."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import uvloop
from alone import A_HANG

LOOPS: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {
    "asyncio": asyncio.new_event_loop,
    "uvloop": uvloop.new_event_loop,
}


def settle() -> None:
    """Create the first loop of uvloop, and with it a pipe that libuv keeps for good."""
    uvloop.new_event_loop().close()


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(A_HANG):
        while not condition():
            await asyncio.sleep(0.002)
