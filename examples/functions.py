"""Call functions in new namespaces: as root, with no network."""

import os
import socket
from concurrent.futures import ProcessPoolExecutor

from usernsproc.multiprocessing import get_context


def describe(number):
    return number, os.getuid(), [name for _, name in socket.if_nameindex()]


def fail():
    raise LookupError("not found")


if __name__ == "__main__":
    context = get_context(uid_map="root", namespaces=["net"])
    with ProcessPoolExecutor(2, mp_context=context) as executor:
        assert list(executor.map(describe, [1, 2])) == [(1, 0, ["lo"]), (2, 0, ["lo"])]
        assert isinstance(executor.submit(fail).exception(), LookupError)
