"""`usernsproc unpin`: the end of what `usernsproc create` has made."""

from __future__ import annotations

from .._namespaces.namespace import Namespace
from .._typing import TYPE_CHECKING
from .options import Command

if TYPE_CHECKING:
    from .options import Options

COMMAND = Command(
    "unpin",
    "remove persistent namespaces",
    "Unmount namespaces that a path keeps, in order, and remove their files.",
    {},
    arguments="PATH ...",
    examples={"usernsproc unpin /run/ns/net /run/ns/user": ""},
    notes=("Exit status: 0, or 125 for the first that fails; those after it stay.",),
)


def run(options: Options) -> int:
    for path in options.path:
        Namespace.unpin(path)
    return 0
