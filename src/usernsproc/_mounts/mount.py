"""A mount of ours, and how it is taken away again."""

from __future__ import annotations

from errno import EINVAL
from typing import TYPE_CHECKING, NoReturn

from .._errors import UsernsError, at_step, userns_error
from .._proc import own_namespace_identity
from .maps import maps_of_mount
from .unmount import unmount_one, unmount_tree
from .whereabouts import locate

if TYPE_CHECKING:
    from types import TracebackType

    from typing_extensions import Self

    from .._maps.idmap import IdMap
    from .table import MountId

__all__ = ["Mount"]


class Mount:
    """A mount that this program made. Leaving a `with` block unmounts it.

    Dropping the object leaves the mount where it is.
    """

    def __init__(self, target: str, mount_id: MountId, below: dict[int, MountId]) -> None:
        self.target = target
        """Where it was mounted, as an absolute path without symbolic links."""
        self._id = mount_id
        self._below = below
        self._namespace = own_namespace_identity("mnt")
        self._mounted = True

    def unmount(self, *, lazy: bool = False) -> None:
        """Unmount it, with `umount2(2)`, and the submounts that were mounted with it. Again: no effect.

        It is found where it is now, also when a directory above it was renamed, and
        unmounted through a descriptor of its directory. If another process has
        unmounted it, there is nothing left to do. Another mount at its path is not
        touched.

        As long as it is in use, it stays, with all its submounts: what seems to be an
        empty directory would be the source to who deletes it. Remove a target with
        `os.rmdir`, which fails there, not with `shutil.rmtree`.

        Args:
            lazy: detach it although it is in use, with everything that is mounted
                below it. Who has files open in it keeps them, until they are closed.

        Raises:
            UsernsError: `EBUSY`: files are open in it, it is somebody's working
                directory, something was mounted below it or over it; the note says
                who or what. `EBUSY`, cause `mount-moved`: a process that may write to
                its directory exchanged it with another mount at this moment. `EINVAL`: the
                calling thread is in another mount namespace now, or the mount is out of
                its root directory's reach. It is still mounted.
        """
        if not self._mounted:
            return
        self._check_namespace()
        with at_step("umount", self.target):
            place = locate(self._id, self.target)
            if place is not None:
                with place:
                    if lazy or self._below:
                        unmount_tree(self._id, place, self._below, lazy=lazy)
                    else:
                        unmount_one(self._id, place)
        self._mounted = False

    def _check_namespace(self) -> None:
        """Elsewhere it is not to be found, which must not be taken for unmounted."""
        if own_namespace_identity("mnt") != self._namespace:
            raise userns_error(
                "umount",
                EINVAL,
                self.target,
                cause="other-mount-namespace",
                note="It was mounted in another mount namespace, and is still mounted there. Unmount it in a thread "
                "that is in that namespace.",
            )

    @property
    def uid_map(self) -> IdMap:
        """The user id map, from ids on disk to ids seen, asked of the kernel with `statmount(2)`.

        The ids seen are as in the calling process' user namespace; a range that is
        not mapped there is left out.

        Raises:
            UsernsError: `ENOSYS`: the kernel does not tell before Linux 6.15; `ENOENT`:
                it is not mounted any more.
        """
        return maps_of_mount(self._id, self.target)[0]

    @property
    def gid_map(self) -> IdMap:
        """The group id map; as `uid_map`."""
        return maps_of_mount(self._id, self.target)[1]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            self.unmount()
        except UsernsError as error:
            raise error from exc

    def __repr__(self) -> str:
        return f"<Mount at {self.target}{'' if self._mounted else ', unmounted'}>"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a Mount cannot be pickled: it would be unmounted twice")
