"""What a mount is to be like, besides its maps."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from .._uapi import MOUNT_ATTR_NODEV, MOUNT_ATTR_NOEXEC, MOUNT_ATTR_NOSUID, MOUNT_ATTR_RDONLY, PROPAGATIONS

if TYPE_CHECKING:
    from typing_extensions import Self


class Attributes(NamedTuple):
    """For `mount_setattr(2)`: bits to set and to clear, and a propagation or 0."""

    to_set: int
    to_clear: int
    propagation: int

    @classmethod
    def wanted(
        cls,
        read_only: bool | None,
        nosuid: bool | None,
        nodev: bool | None,
        noexec: bool | None,
        propagation: str | None,
    ) -> Self:
        """`None`: as it is."""
        if propagation is not None and propagation not in PROPAGATIONS:
            raise ValueError(f"propagation={propagation!r} is none of {', '.join(PROPAGATIONS)}")
        to_set = to_clear = 0
        for wanted, bit in (
            (read_only, MOUNT_ATTR_RDONLY),
            (nosuid, MOUNT_ATTR_NOSUID),
            (nodev, MOUNT_ATTR_NODEV),
            (noexec, MOUNT_ATTR_NOEXEC),
        ):
            if wanted is not None:
                to_set |= bit if wanted else 0
                to_clear |= 0 if wanted else bit
        return cls(to_set, to_clear, 0 if propagation is None else PROPAGATIONS[propagation])
