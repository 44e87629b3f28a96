"""The two sides of the maps of a user namespace: user IDs and group IDs."""

from __future__ import annotations

from .._caller import CAP_SETGID, CAP_SETUID
from .._typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import Protocol, TypeVar

    Map = TypeVar("Map", covariant=True)
    Id = TypeVar("Id", covariant=True)

    class BothIds(Protocol[Id]):
        @property
        def uid(self) -> Id: ...
        @property
        def gid(self) -> Id: ...

    class BothMaps(Protocol[Map]):
        @property
        def uid_map(self) -> Map: ...
        @property
        def gid_map(self) -> Map: ...


class Side:
    """`UID` or `GID`: all that differs between the two."""

    __slots__ = ("capability", "capability_name", "file", "noun", "subids_file", "tool")

    def __init__(
        self, file: str, noun: str, capability: int, capability_name: str, tool: str, subids_file: str
    ) -> None:
        self.file = file
        """In `/proc/PID`. It also is the name of the step, and of the parameter."""
        self.noun = noun
        """For messages: *noun* ID."""
        self.capability = capability
        """It permits to map other IDs than the caller's."""
        self.capability_name = capability_name
        self.tool = tool
        """It writes a map of subordinate IDs for an unprivileged user."""
        self.subids_file = subids_file

    def __repr__(self) -> str:
        return self.file

    @property
    def no_capability(self) -> str:
        """The cause of a refusal."""
        return f"no-{self.capability_name.lower().replace('_', '-')}"

    def map_of(self, both: BothMaps[Map]) -> Map:
        return both.uid_map if self is UID else both.gid_map

    def id_of(self, both: BothIds[Id]) -> Id:
        """Of a caller the effective ID."""
        return both.uid if self is UID else both.gid


UID = Side("uid_map", "user", CAP_SETUID, "CAP_SETUID", "newuidmap", "/etc/subuid")
GID = Side("gid_map", "group", CAP_SETGID, "CAP_SETGID", "newgidmap", "/etc/subgid")
SIDES = (UID, GID)
"""In the order in which the maps are written."""
