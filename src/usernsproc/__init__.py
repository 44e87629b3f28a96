"""subprocess for Linux user namespaces.

Three jobs: a user namespace as a file descriptor (`create_userns`), a command in a
new user namespace (`UsernsProcess` with arguments), and a tiny process that holds
one (`UsernsProcess` without).
"""

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
from ._errors import CredentialsError, IdMapError, IdMapPermissionError, UsernsError
from ._idmap import IdMap, IdMapLike, IdRange
from ._mount import Mount, idmapped_mount
from ._namespace import Namespace, NamespaceKind, create_userns
from ._process import UsernsProcess
from ._run import call, check_call, check_output, run

__all__ = [
    "DEVNULL",
    "PIPE",
    "STDOUT",
    "CalledProcessError",
    "CompletedProcess",
    "CredentialsError",
    "IdMap",
    "IdMapError",
    "IdMapLike",
    "IdMapPermissionError",
    "IdRange",
    "Mount",
    "Namespace",
    "NamespaceKind",
    "SubprocessError",
    "TimeoutExpired",
    "UsernsError",
    "UsernsProcess",
    "call",
    "check_call",
    "check_output",
    "create_userns",
    "idmapped_mount",
    "lowlevel",
    "run",
]

__version__ = "0.1.0"
