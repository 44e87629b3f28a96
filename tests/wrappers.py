"""Lists of options that Python packages give to bubblewrap, in their order.

They are for the packages named here, from PyPI, as of 2026. What a package takes from its configuration or from
the machine is an example of it.
"""

from __future__ import annotations

import os
from pathlib import Path


def merged_usr() -> list[str]:
    """The links of `/` to `/usr`, as the machine has them."""
    options: list[str] = []
    for name in ("bin", "sbin", "lib", "lib32", "lib64", "libx32"):
        path = Path("/", name)
        if path.is_symlink():
            options += ["--symlink", os.readlink(path), str(path)]
        elif path.is_dir():
            options += ["--ro-bind", str(path), str(path)]
    return options


def _each(option: str, *paths: str) -> list[str]:
    return [word for path in paths for word in (option, path, path)]


def lists(home: Path, project: Path, seccomp: str) -> dict[str, list[str]]:
    """By the package and version.

    Args:
        home: the home directory.
        project: a directory in it, with a file `notes`, and directories `session`, `upper` and `work`.
        seccomp: a descriptor with a filter.
    """
    at, notes, session = str(project), str(project / "notes"), str(project / "session")
    here = str(home)
    found: dict[str, list[str]] = {}
    found["agent-nook 0.1.2"] = [
        "--die-with-parent", "--new-session", "--dev", "/dev", "--ro-bind", "/etc", "/etc", *merged_usr(),
        "--proc", "/proc", "--tmpfs", "/tmp", "--ro-bind", "/usr", "/usr", "--tmpfs", here, "--bind", at, at,
        "--cap-drop", "ALL", "--unshare-pid", "--unshare-uts", "--unshare-ipc", "--unshare-cgroup", "--unshare-user",
        "--unshare-net", "--unshare-uts", "--hostname", "nook", "--clearenv", "--setenv", "PATH", "/usr/bin",
        "--setenv", "TERM", "-dumb", "--chdir", at,
    ]  # fmt: skip
    found["agentbubble 0.1.0"] = [
        *_each("--ro-bind", "/usr", "/lib", "/lib64", "/bin", "/etc/hosts", "/etc/passwd", "/etc/group"),
        *_each("--ro-bind-try", f"{here}/.config/uv", f"{here}/.nvm", "/run/user/1000/fnm_multishells"),
        "--bind", at, at, *_each("--bind-try", f"{here}/.cache/uv", session), "--tmpfs", "/tmp", "--proc", "/proc",
        "--dev", "/dev", "--share-net", "--unshare-pid", "--die-with-parent", "--chdir", at,
        "--ro-bind-try", "/dev/null", f"{at}/settings.toml", "--ro-bind", "/dev/null", notes,
    ]  # fmt: skip
    found["buddelkiste 0.4.4"] = [
        "--unshare-all", "--uid", str(os.getuid()), "--gid", str(os.getgid()), "--cap-drop", "ALL", "--clearenv",
        "--die-with-parent", "--chdir", at, *_each("--ro-bind", "/usr", "/etc"), *merged_usr(), "--dev", "/dev",
        "--proc", "/proc", "--dir", "/run/user/7", "--tmpfs", "/tmp", "--dev-bind", "/dev/zero", "/dev/zero",
        "--tmpfs", here, "--bind", at, at, "--dir", "/run/dbus", "--overlay-src", session, "--tmp-overlay", session,
        "--overlay-src", session, "--overlay", f"{at}/upper", f"{at}/work", f"{at}/kept",
        "--setenv", "LANG", "C.UTF-8", "--setenv", "USER", "me", "--setenv", "LOGNAME", "me",
    ]  # fmt: skip
    found["bwrapwrap 0.1.1"] = [
        *_each("--ro-bind", "/usr", "/lib", "/lib64", "/bin", "/sbin", "/etc/alternatives", "/etc/ssl"),
        *_each("--ro-bind-try", "/etc/resolv.conf", "/run/systemd/resolve", "/etc/hosts"),
        "--proc", "/proc", "--dev", "/dev", "--tmpfs", "/tmp", "--unshare-all", "--share-net", "--hostname", "sandbox",
        "--bind", at, at, "--chdir", at, "--ro-bind", session, f"{here}/.cargo", "--setenv", "HOME", here,
        "--setenv", "PATH", "/usr/bin:/bin",
    ]  # fmt: skip
    found["claude-sandbox 5.1.2"] = [
        "--ro-bind", "/", "/", "--dev", "/dev", "--ro-bind", "/proc", "/proc", "--tmpfs", "/tmp", "--tmpfs", here,
        "--bind", at, at, "--tmpfs", session, "--ro-bind", "/usr/share", f"{here}/skills",
        "--bind", "/dev/null", f"{here}/.netrc", "--ro-bind", "/dev/null", notes,
        "--cap-drop", "ALL", "--unshare-user-try", "--unshare-pid", "--unshare-ipc", "--unshare-uts",
        "--unshare-cgroup-try", "--die-with-parent", "--clearenv", "--setenv", "PATH", "/usr/bin:/bin",
        "--setenv", "HOME", here, "--setenv", "USER", "root",
    ]  # fmt: skip
    found["deepagents-sandbox 0.0.2"] = [
        "--unshare-all", "--unshare-user", "--uid", "1000", "--gid", "1000", "--die-with-parent", "--new-session",
        "--clearenv", "--disable-userns", "--cap-drop", "ALL", "--bind", at, "/workspace", "--bind", session, "/tmp",
        "--dir", "/run/user", "--dir", "/etc", "--proc", "/proc", "--dev", "/dev",
        *_each("--ro-bind", "/usr", "/bin", "/lib", "/lib64", "/sbin"), "--ro-bind", "/etc/passwd", "/etc/passwd",
        "--chdir", "/workspace", "--unshare-net", "--setenv", "PATH", "/usr/bin", "--setenv", "HOME", "/workspace",
    ]  # fmt: skip
    found["hozo 0.4.1"] = [
        "--die-with-parent", "--unshare-pid", "--unshare-ipc", "--unshare-uts", "--unshare-cgroup-try",
        "--seccomp", seccomp, "--unshare-net", *merged_usr(), "--proc", "/proc", "--dev", "/dev", "--dir", here,
        "--tmpfs", "/tmp", "--tmpfs", "/run", "--ro-bind", "/usr", "/usr", "--ro-bind-try", "/opt/none", "/opt/none",
        "--bind", at, at, "--bind-try", session, session, "--dir", "/tmp/hozo", "--chdir", at,
    ]  # fmt: skip
    found["kartikeya 0.5.2"] = [
        "--unshare-net", "--dev", "/dev", "--proc", "/proc", "--tmpfs", "/tmp", "--tmpfs", "/dev/shm",
        "--unshare-pid", "--unshare-ipc", "--unshare-uts", "--new-session", "--as-pid-1", "--die-with-parent",
        "--ro-bind", "/usr", "/usr", "--ro-bind", "/etc", "/etc", "--bind", at, at, "--ro-bind", session, session,
        *merged_usr(), "--symlink", at, f"{here}/alias",
    ]  # fmt: skip
    found["lisa-pack-bwrap 0.1.1"] = [
        "--unshare-pid", "--unshare-uts", "--unshare-ipc", "--unshare-net", "--ro-bind", "/", "/", "--proc", "/proc",
        "--dev-bind", "/dev/null", "/dev/null", "--size", "1048576", "--tmpfs", "/tmp", "--bind", at, at,
        "--ro-bind", session, session, "--cap-drop", "ALL", "--die-with-parent", "--new-session",
    ]  # fmt: skip
    found["projectwrap 202610.0.0"] = [
        "--ro-bind", "/", "/", "--dev-bind", "/dev", "/dev", "--proc", "/proc", "--tmpfs", "/tmp",
        "--ro-bind", here, here, "--die-with-parent", "--unshare-ipc", "--tmpfs", session,
        "--ro-bind", "/dev/null", notes, "--bind", at, at, "--new-session", "--unshare-net", "--unshare-pid",
        "--clearenv", "--setenv", "PATH", "/usr/bin:/bin", "--setenv", "PROJECT_WRAP", "1", "--chdir", at,
    ]  # fmt: skip
    return found
