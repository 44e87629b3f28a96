"""Options that several commands have."""

from __future__ import annotations

import grp
import os
import pwd
import re
import signal

from .. import _system_calls
from .._maps.idmap import PRESETS, as_id_map
from .._namespaces.kind import NamespaceKind
from .._proc import read_sysctl
from .._setup.capabilities import capability_mask
from .._typing import TYPE_CHECKING
from .options import Option, Take, adds, duration, each, one, several

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from .._setup.step import Step
    from .options import Options

STATUS = (
    "Exit status: the command's; 128+n for signal n; 125 error of usernsproc, 126 not executable, "
    "127 not found. Signals are forwarded."
)


# ---- ID maps ----


def _joined(kept: str | None, text: str) -> str:
    if kept not in (None, text) and {kept, text} & set(PRESETS):
        raise ValueError(f"the map is {kept} already")
    together = text if kept in (None, text) else f"{kept},{text}"
    if together not in PRESETS:
        as_id_map(together)
    return together


def _maps(convert: Callable[[str], str]) -> Take:
    """A preset, or ranges; the ranges of several options together."""
    return Take(None, lambda kept, *values: _joined(kept, *map(convert, values)))


MAP = _maps(str)


def _auto(text: str) -> str:
    return "subids" if text == "auto" else text


def _adds_preset(preset: str) -> Take:
    """A preset, or what two of them are together."""

    def add(kept: str | None, *_: str) -> str:
        if kept in (None, preset):
            return preset
        if {kept, preset} <= {"root", "subids", "rootless"}:
            return "rootless"
        raise ValueError(f"the map is {kept} already")

    return Take(None, add)


def map_options(default: str) -> tuple[Option, ...]:
    return (
        Option("--map", "MAP", f"both ID maps; {default}", MAP),
        Option("--uid-map", "MAP", "the user ID map", MAP),
        Option("--gid-map", "MAP", "the group ID map", MAP),
    )


UNSHARE_MAPS = (
    Option("--map-root-user -r", help="as --map root", take=_adds_preset("root"), to="map"),
    Option("--map-current-user -c", help="as --map current", take=_adds_preset("current"), to="map"),
    Option(
        "--map-auto",
        help="as --map subids; with --map-root-user, as --map rootless",
        take=_adds_preset("subids"),
        to="map",
    ),
    Option("--map-users", "MAP", "as --uid-map; 'auto' is 'subids'", _maps(_auto), to="uid_map"),
    Option("--map-groups", "MAP", "as --gid-map; 'auto' is 'subids'", _maps(_auto), to="gid_map"),
    Option(
        "--map-user",
        "ID",
        "map this user ID to the caller's",
        _maps(lambda text: f"{_user(text)}:{os.geteuid()}:1"),
        to="uid_map",
    ),
    Option(
        "--map-group",
        "ID",
        "map this group ID to the caller's",
        _maps(lambda text: f"{_group(text)}:{os.getegid()}:1"),
        to="gid_map",
    ),
    Option("-U", help="no effect: the user namespace is always a new one"),
)


def maps_of(options: Options) -> dict[str, str | None]:
    """`uid_map` and `gid_map`; `None` if it is not given."""
    maps: dict[str, str | None] = {"uid_map": options.uid_map, "gid_map": options.gid_map}
    for name, own in maps.items():
        if options.map is not None and own not in (None, options.map):
            raise ValueError(f"--map {options.map} and --{name.replace('_', '-')} {own} contradict each other")
    return {name: options.map if own is None else own for name, own in maps.items()}


# ---- the command ----


def _kind(text: str) -> str:
    return str(NamespaceKind(text))


def _capability(text: str) -> str:
    capability_mask([text])
    return text


def _variable(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not name or not equals:
        raise ValueError("NAME=VALUE is needed")
    return name, value


def signal_number(text: str = "KILL") -> int:
    name = text.upper().removeprefix("SIG")
    numbers = {known.name.removeprefix("SIG"): known.value for known in signal.Signals}
    found = numbers.get(name, int(name) if name.isascii() and name.isdigit() else 0)
    if not 1 <= found < signal.NSIG:
        raise ValueError("there is no such signal")
    return found


def _user(text: str) -> int:
    return _id(text, lambda name: pwd.getpwnam(name).pw_uid)


def _group(text: str) -> int:
    return _id(text, lambda name: grp.getgrnam(name).gr_gid)


def _id(text: str, number_of: Callable[[str], int]) -> int:
    if text.isascii() and text.isdigit():
        return int(text)
    try:
        return number_of(text)
    except KeyError:
        raise ValueError("no such name on this system") from None


IDENTITY = (
    Option(
        "--user --setuid -S",
        "ID",
        "user ID in the namespace, or a user name known to the caller",
        one(_user),
        hint="for a user namespace, did you mean -U?",
    ),
    Option("--group --setgid -G", "ID", "group ID in the namespace, or a group name known to the caller", one(_group)),
    Option("--no-new-privs", help="never gain rights by executing a program"),
    Option(
        "--ambient-caps",
        "CAP[,...]",
        "keep these capabilities across execve(2), if not UID 0",
        several(_capability),
    ),
    Option("--keep-caps", help="keep all capabilities across execve(2), if not UID 0"),
)
ENVIRONMENT = (
    Option("--env", "NAME=VALUE", "set an environment variable; can be repeated", each(_variable)),
    Option(
        "--cgroup",
        "DIR",
        "the cgroup (version 2) to start in",
        hint="for a cgroup namespace, did you mean -C?",
    ),
    Option(
        "--session-keyring",
        "new|inherit",
        "the session keyring of the command: an empty one, or that of the caller with its keys; default: new "
        "when a namespace is joined, otherwise inherit",
    ),
)
NAMESPACES = (
    Option(
        "--namespaces",
        "KIND[,...]",
        "further namespaces to create: mnt, pid, net, ipc, uts, cgroup, time",
        several(_kind),
    ),
    Option(
        "--init",
        help="a tiny init as PID 1 of the new PID namespace; without it the command is PID 1 itself, and as such "
        "ignores Ctrl-C and other signals that it has no handler for",
    ),
    Option("--mount-proc", help="a new /proc for the PID namespace, in a new mount namespace"),
    Option(
        "--propagation",
        "private|slave|shared|unchanged",
        "mount propagation of a new mount namespace; default: private",
    ),
)
ENDING = (
    Option("--new-session", help="call setsid(2): the command has no controlling terminal"),
    Option(
        "--timeout",
        "DURATION",
        "after this time send SIGTERM to the command, and exit with status 124, as timeout(1); in seconds, or with a "
        "unit: 10m, 2h, 1d",
        one(duration),
    ),
    Option(
        "--kill-after",
        "DURATION",
        "send SIGKILL if the command still runs so long after --timeout; the exit status is then 137",
        one(duration),
    ),
    Option(
        "--pdeathsig", "SIGNAL", "send this signal to the command when the caller's process ends", one(signal_number)
    ),
    Option(
        "--kill-child",
        "[=SIGNAL]",
        "a process stays between, and the command gets this signal when it ends; default: KILL",
        one(signal_number),
    ),
    Option("--fork -f", help="a process stays between the caller and the command"),
)

UNSHARE_KINDS = (
    Option("--mount -m", help="as --namespaces mnt", take=adds("mnt"), to="namespaces"),
    Option("--pid -p", help="as --namespaces pid", take=adds("pid"), to="namespaces"),
    Option("--net -n", help="as --namespaces net", take=adds("net"), to="namespaces"),
    Option("--ipc -i", help="as --namespaces ipc", take=adds("ipc"), to="namespaces"),
    Option("--uts -u", help="as --namespaces uts", take=adds("uts"), to="namespaces"),
    Option("-C", help="as --namespaces cgroup", take=adds("cgroup"), to="namespaces"),
    Option("--time -T", help="as --namespaces time", take=adds("time"), to="namespaces"),
)


def process_options(options: Options) -> dict[str, Any]:
    """For `UsernsProcess`, from the options above."""
    kinds = list(dict.fromkeys(options.namespaces))
    if options.init and "pid" not in kinds:
        raise ValueError("--init requires --namespaces pid: it is PID 1 of a new PID namespace")
    if options.propagation and not options.mount_proc and "mnt" not in kinds:
        raise ValueError("--propagation requires --namespaces mnt: it is that of a new mount namespace")
    if options.kill_after is not None and options.timeout is None:
        raise ValueError("--kill-after requires --timeout: it is the time after that")
    if options.kill_child is not None and options.pdeathsig is not None:
        raise ValueError("--kill-child and --pdeathsig cannot be combined")
    found: dict[str, Any] = {
        "user": options.user,
        "group": options.group,
        "cwd": options.cwd,
        "no_new_privs": options.no_new_privs,
        "ambient_caps": options.ambient_caps,
        "cgroup": options.cgroup,
        "session_keyring": options.session_keyring,
        "namespaces": kinds,
        "init": options.init,
        "mount_proc": options.mount_proc,
        "propagation": options.propagation,
        "start_new_session": options.new_session,
        "env": {**os.environ, **dict(options.env)} if options.env else None,
    }
    if options.keep_caps:
        found["ambient_caps"] = range(int(read_sysctl("kernel/cap_last_cap")) + 1)
    ending = options.pdeathsig if options.kill_child is None else options.kill_child
    if ending is not None:
        found["pdeathsig"] = ending
    return found


def death_signal_of(options: Options) -> list[Step]:
    """`--pdeathsig`. If a process stays above, it gets the signal as well."""
    if options.pdeathsig is None:
        return []
    from .._setup.sandbox import DeathSignal

    return [DeathSignal(options.pdeathsig)]


def supervise(options: Options, start: Callable[..., int]) -> int:
    """The exit status of the command that *start* runs, with the options that concern its end."""
    if options.pdeathsig is not None:
        _system_calls.set_death_signal(options.pdeathsig)
    stays = bool(options.fork or options.kill_child is not None)
    return start(stays_above=stays, limits=(options.timeout or 0, options.kill_after or 0))


# ---- set-up steps that have a word ----


def _limit(text: str) -> Step:
    from .._setup.process import Rlimit

    found = re.fullmatch(r"(\w+)=(\d+|infinity)(?::(\d+|infinity))?", text, re.ASCII)
    if not found:
        raise ValueError("NAME=SOFT[:HARD] is needed, in numbers or 'infinity'")
    name, *limits = found.groups()
    return Rlimit(name, *(limit if limit == "infinity" else int(limit) for limit in limits if limit))


def _cpus(text: str) -> range:
    first, dash, last = text.partition("-")
    if not all(end.isascii() and end.isdigit() and len(end) < 6 for end in ([first, last] if dash else [first])):
        raise ValueError("a list such as 0-3,5 is needed")
    return range(int(first), int(last or first) + 1)


STEPS = (
    Option(
        "--rlimit",
        "NAME=SOFT[:HARD]",
        "a resource limit, such as NOFILE=64 or AS=1073741824:infinity; the hard limit is the soft one if omitted",
        each(_limit),
    ),
    Option("--nice", "N", "nice value, from -20 to 19", one(int)),
    Option("--cpu-affinity", "LIST", "the CPUs to run on, such as 0-3,5", several(_cpus)),
    Option("--loopback", help="activate the loopback device of the network namespace"),
    Option("--root -R", "DIR", "change the root directory, with chroot(2)"),
    Option("--boottime", "SECONDS", "how far CLOCK_BOOTTIME of the new time namespace is ahead", one(int)),
    Option("--monotonic", "SECONDS", "how far CLOCK_MONOTONIC of the new time namespace is ahead", one(int)),
)


def steps_of(options: Options) -> list[Step]:
    steps: list[Step] = list(options.rlimit)
    if options.nice is not None:
        from .._setup.process import Nice

        steps.append(Nice(options.nice))
    if options.cpu_affinity:
        from .._setup.process import Affinity

        steps.append(Affinity({cpu for cpus in options.cpu_affinity for cpu in cpus}))
    if options.loopback:
        from .._setup.names import Loopback

        steps.append(Loopback())
    if options.root is not None:
        from .._setup.files import Chroot

        steps.append(Chroot(os.path.abspath(options.root)))
    if options.boottime is not None or options.monotonic is not None:
        from .._setup.names import TimeOffset

        if "time" not in options.namespaces:
            raise ValueError(
                "--boottime and --monotonic require --namespaces time: they are offsets of a new time namespace"
            )
        steps.append(TimeOffset(boottime=options.boottime, monotonic=options.monotonic))
    return steps
