"""subprocess for Linux user namespaces.

Three jobs: a user namespace as a file descriptor (`create_userns`), a command in a
new user namespace (`UsernsProcess` with arguments), and a tiny process that holds
one (`UsernsProcess` without).
"""

import importlib

TYPE_CHECKING = False  # nothing is loaded before it is asked for

if TYPE_CHECKING:
    from subprocess import (
        DEVNULL,
        PIPE,
        STDOUT,
        CalledProcessError,
        CompletedProcess,
        SubprocessError,
        TimeoutExpired,
    )

    from . import lowlevel
    from ._diagnosis.diagnosis import Ability, Diagnosis, diagnose
    from ._errors import CredentialsError, IdMapError, IdMapPermissionError, MapToolError, UsernsError
    from ._maps.idmap import IdMap, IdMapLike, IdRange
    from ._maps.subids import SubIds, subids
    from ._mounts.detached import DetachedMount
    from ._mounts.idmapped import idmapped_mount, open_idmapped
    from ._mounts.mount import Mount
    from ._mounts.support import IdmapSupport, supports_idmap
    from ._namespaces.enter import Entered
    from ._namespaces.listing import NamespaceInfo, NamespaceList
    from ._namespaces.namespace import Namespace, NamespaceKind
    from ._namespaces.new import create_userns
    from ._processes.become import execvp
    from ._processes.output_limit import OutputLimitExceeded
    from ._processes.process import UsernsProcess
    from ._processes.reexec import reexec
    from ._processes.run import CompletedCommand, call, check_call, check_output, run

__all__ = [
    "DEVNULL",
    "PIPE",
    "STDOUT",
    "Ability",
    "CalledProcessError",
    "CompletedCommand",
    "CompletedProcess",
    "CredentialsError",
    "DetachedMount",
    "Diagnosis",
    "Entered",
    "IdMap",
    "IdMapError",
    "IdMapLike",
    "IdMapPermissionError",
    "IdRange",
    "IdmapSupport",
    "MapToolError",
    "Mount",
    "Namespace",
    "NamespaceInfo",
    "NamespaceKind",
    "NamespaceList",
    "OutputLimitExceeded",
    "SubIds",
    "SubprocessError",
    "TimeoutExpired",
    "UsernsError",
    "UsernsProcess",
    "call",
    "check_call",
    "check_output",
    "create_userns",
    "diagnose",
    "execvp",
    "idmapped_mount",
    "lowlevel",
    "open_idmapped",
    "reexec",
    "run",
    "subids",
    "supports_idmap",
]

__version__ = "0.1.0"

# A program that makes namespaces need not load what runs commands, and the other
# way round: a name is loaded with its module when it is first asked for (PEP 562).
_MODULES = {
    "subprocess": (
        "DEVNULL",
        "PIPE",
        "STDOUT",
        "CalledProcessError",
        "CompletedProcess",
        "SubprocessError",
        "TimeoutExpired",
    ),
    "._diagnosis.diagnosis": ("Ability", "Diagnosis", "diagnose"),
    "._mounts.detached": ("DetachedMount",),
    "._namespaces.enter": ("Entered",),
    "._errors": ("CredentialsError", "IdMapError", "IdMapPermissionError", "MapToolError", "UsernsError"),
    "._maps.idmap": ("IdMap", "IdMapLike", "IdRange"),
    "._mounts.support": ("IdmapSupport", "supports_idmap"),
    "._mounts.idmapped": ("idmapped_mount", "open_idmapped"),
    "._mounts.mount": ("Mount",),
    "._namespaces.namespace": ("Namespace", "NamespaceKind"),
    "._namespaces.new": ("create_userns",),
    "._namespaces.listing": ("NamespaceInfo", "NamespaceList"),
    "._processes.become": ("execvp",),
    "._processes.output_limit": ("OutputLimitExceeded",),
    "._processes.reexec": ("reexec",),
    "._processes.process": ("UsernsProcess",),
    "._processes.run": ("CompletedCommand", "call", "check_call", "check_output", "run"),
    "._maps.subids": ("SubIds", "subids"),
}
_MODULE_OF = {name: module for module, names in _MODULES.items() for name in names}


def __getattr__(name: str) -> object:
    if name == "lowlevel":
        return importlib.import_module(".lowlevel", __name__)
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(_MODULE_OF[name], __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
