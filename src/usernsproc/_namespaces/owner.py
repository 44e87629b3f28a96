"""The user who is to own a new user namespace, in place of the calling one."""

from __future__ import annotations

from operator import index

from .._caller import CAP_DAC_OVERRIDE, CAP_SETUID, CAP_SYS_ADMIN, Caller
from .._errors import credentials_error

# To become that id; then to write maps of a namespace that is not one's own, of a process whose
# files in /proc are root's.
_TO_GIVE_AWAY = (
    (CAP_SETUID, "CAP_SETUID", "no-cap-setuid"),
    (CAP_SYS_ADMIN, "CAP_SYS_ADMIN", "no-cap-sys-admin"),
    (CAP_DAC_OVERRIDE, "CAP_DAC_OVERRIDE", "no-cap-dac-override"),
)


def checked_owner(owner: int | None, caller: Caller) -> int | None:
    """`None` where nothing is to be done: it is the caller.

    Raises:
        CredentialsError: there is no such id here, or this caller may not become it.
        ValueError: a negative number.
    """
    if owner is None:
        return None
    if not hasattr(owner, "__index__"):
        raise TypeError(f"owner is a user id, not {owner!r}")
    owner = index(owner)
    if owner < 0:
        raise ValueError(f"owner={owner} is no id")
    if owner not in caller.uid_map:
        raise credentials_error(
            "owner", f"owner={owner} is no id of this process' own user namespace ({caller.uid_map})", "id-not-mapped"
        )
    if owner == caller.uid:
        return None
    for capability, name, cause in _TO_GIVE_AWAY:
        if not caller.has(capability) and not (capability == CAP_DAC_OVERRIDE and caller.uid == 0):
            raise credentials_error(
                "owner", f"owner={owner}: without {name} only the own id {caller.uid} can own it", cause
            )
    return owner
