"""Capabilities by name (`capabilities(7)`)."""

from __future__ import annotations

from operator import index

from .._typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

_NAMES = (  # noqa: SIM905, one string reads better than 41
    "chown dac_override dac_read_search fowner fsetid kill setgid setuid setpcap linux_immutable net_bind_service "
    "net_broadcast net_admin net_raw ipc_lock ipc_owner sys_module sys_rawio sys_chroot sys_ptrace sys_pacct "
    "sys_admin sys_boot sys_nice sys_resource sys_time sys_tty_config mknod lease audit_write audit_control setfcap "
    "mac_override mac_admin syslog wake_alarm block_suspend audit_read perfmon bpf checkpoint_restore"
).split()
"""In the kernel's order, without `CAP_`."""

HIGHEST = 62  # what fits in the word that the core gets; the kernel has 41


def capability_mask(capabilities: Iterable[str | int]) -> int:
    """A bit for each: by name, with or without `CAP_`, in any case, or by number.

    Raises:
        ValueError: no such capability.
        TypeError: one name in place of several.
    """
    if isinstance(capabilities, str):
        raise TypeError(f"capabilities are several names, not one string: ({capabilities!r},)")
    mask = 0
    for capability in capabilities:
        mask |= 1 << _number_of(capability)
    return mask


def _number_of(capability: str | int) -> int:
    if isinstance(capability, str):
        name = capability.lower().removeprefix("cap_")
        if name not in _NAMES:
            raise ValueError(f"{capability!r} is not a capability")
        return _NAMES.index(name)
    number = index(capability)
    if not 0 <= number <= HIGHEST:
        raise ValueError(f"{number} is not a capability")
    return number
