"""multiprocessing, with processes in user namespaces.

`get_context` returns a context of the standard library's `multiprocessing`: its `Process`, `Pool`, `Queue`, `Lock` and
`Manager`, and `concurrent.futures.ProcessPoolExecutor(mp_context=…)`, are used as always.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, overload

from ._multiprocessing.contexts import ForkServerContext, SpawnContext, context_of

if TYPE_CHECKING:
    from typing import Literal

    from typing_extensions import Unpack

    from ._processes.options import CommandOptions

__all__ = ["ForkServerContext", "SpawnContext", "get_context"]


@overload
def get_context(method: Literal["spawn"] = "spawn", **options: Unpack[CommandOptions]) -> SpawnContext: ...
@overload
def get_context(method: Literal["forkserver"], **options: Unpack[CommandOptions]) -> ForkServerContext: ...
@overload
def get_context(method: str, **options: Unpack[CommandOptions]) -> SpawnContext | ForkServerContext: ...
def get_context(method: str = "spawn", **options: Unpack[CommandOptions]) -> SpawnContext | ForkServerContext:
    """A context of `multiprocessing` whose processes run in user namespaces.

    Args:
        method: the start method. `"spawn"`: each process is a new interpreter, and a `UsernsProcess` in namespaces of
            its own. `"forkserver"`: the server is a `UsernsProcess`, and the processes are forks of it: they all are in
            the same namespaces, and they start faster. The server ends with the context. There is no `"fork"`: a forked
            copy of this program in the namespace would contain all that is in its memory.
        options: those of `UsernsProcess`, such as `uid_map`, `namespaces`, `join` and `setup`, for each process. A
            process has the working directory *cwd* if that is given, else that of the caller. In a new PID namespace
            `init` is true by default.

    `multiprocessing` itself needs these in the namespace:

    * The interpreter, and the modules of the function and its arguments, at the same paths.
    * For `Lock`, `Queue`, `Pool`, `Value`, shared memory and all that uses them: `/dev/shm` of the caller, and rights
      to the caller's files in it. The map must contain the caller's ID, as `"root"`, `"current"` and `"rootless"` do,
      and the process must have that ID or `CAP_DAC_OVERRIDE`. `Process` and `Pipe` do not need that.
    * For `Manager`: the caller's directory for temporary files, with the same rights.

    The child can send any object to the caller, and unpickling an object can run any code in the caller:
    this is not for functions that you do not trust.

    Raises:
        ValueError: an option that has no meaning here, such as `executable`, `shell` or `stdin`; an unknown method; a
            PID namespace with `"forkserver"`.
        TypeError: an unknown option.

    The start of a process raises what `UsernsProcess` raises. Linux 5.4.
    """
    return context_of(method, options)
