"""The step that mounts an overlay."""

from __future__ import annotations

import os

from .._mounts.detached import DetachedMount
from .._typing import TYPE_CHECKING
from .file_systems import gather, new_file_system, source_of
from .files import needs_mounts
from .step import Step, inside, refuse, text_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from typing import Any, ClassVar

    from .compiler import Emitter, Process
    from .file_systems import Source
    from .step import Path

    Options = list[tuple[str, str | None]]

_IN_MEMORY = "tmpfs"


class Overlay(Step):
    """Directories on top of each other. Changes are made in the uppermost.

    Args:
        target: a path in the root of the command; created where it is missing.
        lower: a source as of `Bind`, or several, the topmost first. They are not changed.
        upper: the directory that receives the changes; `"tmpfs"`: memory, and the changes are lost when the
            last process has left the mount namespace; `None`: the overlay is read-only.
        work: an empty directory on the same mount as *upper*, for the kernel.

    In a user namespace (Linux 5.11), the kernel keeps its notes in the extended attributes `user.overlay.*` of the
    upper directory (`userxattr`), otherwise in `trusted.overlay.*`.

    See the kernel's `filesystems/overlayfs`, `fsconfig(2)`.
    """

    __slots__ = ("lower", "target", "upper", "work")
    target: str
    lower: tuple[str | int | DetachedMount, ...]
    upper: str | None
    work: str | None
    namespace: ClassVar[str | None] = "mnt"

    def __init__(
        self,
        target: Path,
        lower: Source | Iterable[Source],
        upper: Path | None = None,
        work: Path | None = None,
    ) -> None:
        layers = tuple(source_of(self, layer) for layer in _each(lower))
        if not layers:
            raise refuse(type(self), "lower is empty")
        if upper is not None and not os.fspath(upper):
            raise refuse(type(self), "upper is an empty path")
        if upper in (None, _IN_MEMORY) and work is not None:
            raise refuse(type(self), "work is for a directory as upper")
        if upper not in (None, _IN_MEMORY) and not work:
            raise refuse(type(self), "a directory as upper needs work: an empty directory on the same file system")
        self._set(
            target=inside(self, "target", target),
            lower=layers,
            upper=None if upper is None else text_of(self, "upper", upper),
            work=None if work is None else text_of(self, "work", work),
        )

    def is_constant(self) -> bool:
        relative = (path for path in (self.upper, self.work) if path and path != _IN_MEMORY and path[0] != "/")
        return all(isinstance(layer, str) for layer in self.lower) and not any(relative)

    def check(self, steps: Sequence[Step], process: Process) -> None:
        super().check(steps, process)
        needs_mounts(self, process)

    def emit(self, calls: Emitter) -> None:
        scratch = calls.scratch
        # By names that need no escape, and on mounts that are attached: before Linux 6.15 the kernel wants both.
        layers = [scratch.mount(gather(calls, layer, recursive=True), path=str(layer)).decode() for layer in self.lower]
        if self.upper is None and len(layers) == 1:
            layers.append(scratch.directory().decode())  # it wants two
        options: Options = [("lowerdir", ":".join(layers)), *self._upper(calls)]
        if calls.process.in_userns:
            options.append(("userxattr", None))
        scratch.enter()
        overlay = new_file_system(calls, "overlay", options, path=self.target)
        calls.tree.attach(overlay, self.target)

    def _upper(self, calls: Emitter) -> Options:
        scratch = calls.scratch
        if self.upper is None:
            return []
        if self.upper == _IN_MEMORY:
            return [("upperdir", scratch.directory().decode()), ("workdir", scratch.directory().decode())]
        assert self.work is not None
        paths = [os.path.abspath(path) for path in (self.upper, self.work)]
        common = os.path.commonpath(paths)  # a mount for both: the kernel refuses two
        mount = scratch.mount(gather(calls, common, recursive=True), path=common).decode()
        names = [f"{mount}/{os.path.relpath(path, common)}".replace("\\", "\\\\") for path in paths]
        return list(zip(("upperdir", "workdir"), names, strict=True))


def _each(lower: Any) -> Iterator[Any]:
    """Several, or one of them."""
    if isinstance(lower, (list, tuple)):
        yield from lower  # pyright: ignore[reportUnknownVariableType]
    else:
        yield lower
