"""A command in existing namespaces."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import alone
import pytest
from alone import run_alone
from commands import SLEEP, output, sleeping
from programs import join
from unprivileged import as_unprivileged_user

from usernsproc import (
    DEVNULL,
    PIPE,
    IdMap,
    Namespace,
    NamespaceKind,
    UsernsError,
    UsernsProcess,
    check_output,
    create_userns,
    run,
)
from usernsproc._caller import Caller
from usernsproc._namespaces.join import open_joins

TRUE = ("/bin/true",)
OTHERS = tuple(kind for kind in NamespaceKind if kind != "user")
SHIFTED: dict[str, Any] = {"uid_map": "0:100000:65536", "gid_map": "0:100000:65536"}
OWN_UID, OWN_GID = os.geteuid(), os.getegid()


@pytest.fixture(scope="module")
def all_kinds() -> Iterator[UsernsProcess[bytes]]:
    """A holder in a namespace of each kind."""
    with UsernsProcess(uid_map="root", gid_map="root", namespaces=OTHERS) as holder:
        yield holder


@contextmanager
def namespaces_of(process: Any, *kinds: str) -> Iterator[list[Namespace]]:
    opened_now = [Namespace.of(process, kind) for kind in kinds]
    try:
        yield opened_now
    finally:
        for namespace in opened_now:
            namespace.close()


@contextmanager
def host_owned(*kinds: str) -> Iterator[list[Namespace]]:
    """New namespaces that the caller's user namespace owns. Requires root."""
    names = {"net": "--net", "uts": "--uts", "ipc": "--ipc"}
    command = ["unshare", *(names[kind] for kind in kinds), "sh", "-c", "echo; exec sleep 1000"]
    with subprocess.Popen(command, stdout=PIPE) as process:
        assert process.stdout is not None
        try:
            process.stdout.readline()
            with namespaces_of(process.pid, *kinds) as found:
                yield found
        finally:  # also if the test fails
            process.kill()


# ---- what is joined ----


def inode_in(kind: str, **options: Any) -> int:
    return int(output(["stat", "-Lc", "%i", f"/proc/self/ns/{kind}"], **options))


def test_a_process_stands_for_all_of_its_namespaces(all_kinds: UsernsProcess[bytes]) -> None:
    for joined in (all_kinds, all_kinds.pid, all_kinds.pidfd, [all_kinds], (all_kinds.pid,)):
        with sleeping(join=joined) as process:
            for kind in NamespaceKind:
                with process.namespace(kind) as its, all_kinds.namespace(kind) as wanted:
                    assert its == wanted


def test_only_those_that_differ_from_the_callers_are_entered() -> None:
    """Entering the current mount namespace requires capabilities that an unprivileged user lacks."""
    with (
        UsernsProcess(uid_map="root", gid_map="root", namespaces=["net"]) as holder,
        sleeping(join=holder) as process,
    ):
        for kind in NamespaceKind:
            with process.namespace(kind) as its, Namespace.current(kind) as own:
                assert (its != own) == (kind in ("user", "net"))


def test_namespaces_that_are_named_one_by_one(all_kinds: UsernsProcess[bytes]) -> None:
    """The others stay the caller's, in whichever order they are given; also as an iterator."""
    with namespaces_of(all_kinds, "net", "user", "uts") as some:
        for joined in (some, some[::-1], iter(some)):
            with sleeping(join=joined) as process:
                for kind in NamespaceKind:
                    with process.namespace(kind) as its, Namespace.current(kind) as own:
                        assert (its != own) == (kind in ("user", "net", "uts"))


def test_a_user_namespace_alone() -> None:
    with create_userns("root", "root") as userns, sleeping(join=userns) as process, process.namespace() as its:
        assert its == userns


def test_a_path(all_kinds: UsernsProcess[bytes]) -> None:
    paths: list[Any] = [all_kinds.namespace_path(kind) for kind in ("user", "net")]
    paths[1] = Path(paths[1])
    with all_kinds.namespace("net") as net:
        for joined in (paths, [os.fsencode(paths[0]), paths[1]]):
            assert output(["stat", "-Lc", "%i", "/proc/self/ns/net"], join=joined) == f"{net.inode}\n"


def test_a_path_where_one_is_pinned() -> None:
    """A bind mount of a namespace file, when no process is left in the namespace."""
    run_alone(join.a_path_where_one_is_pinned)


@pytest.mark.root
def test_a_network_namespace_that_the_user_namespace_does_not_own(all_kinds: UsernsProcess[bytes]) -> None:
    """It is entered first, while the caller has capabilities over it; the others after the user namespace."""
    with (
        host_owned("net", "uts") as outer,
        namespaces_of(all_kinds, "ipc", "user") as inner,
    ):
        for joined in ([*outer, *inner], [*inner, *outer], [inner[0], outer[0], inner[1], outer[1]]):
            with sleeping(join=joined) as process:
                for namespace in joined:
                    with process.namespace(namespace.kind) as its:
                        assert its == namespace


@pytest.mark.root
def test_staying_in_the_callers_user_namespace() -> None:
    """It is named in `join`, and the capabilities in it are kept; other namespaces are entered."""
    script = "id -u; cat /proc/self/uid_map; stat -Lc %i /proc/self/ns/net; grep CapEff /proc/self/status"
    effective = next(line for line in Path("/proc/self/status").read_text().splitlines() if "CapEff" in line)
    with host_owned("net") as (net,), Namespace.current() as own:
        shown = output(["sh", "-c", script], join=[own, net]).split()
        assert shown == ["0", *Path("/proc/self/uid_map").read_text().split(), str(net.inode), *effective.split()]
        ids = ["sh", "-c", "id -u; id -g; id -G"]
        assert output(ids, join=[net, own], user=7, group=8, extra_groups=[9]) == "7\n8\n8 9\n"


def test_staying_in_the_callers_user_namespace_as_its_root() -> None:
    """Also for root in a new user namespace."""
    run_alone(join.staying_in_the_callers_user_namespace_as_its_root)


@pytest.mark.root
def test_a_new_user_namespace_and_other_namespaces_that_are_joined() -> None:
    """If no user namespace is joined, a new one is created as always. It does not own the joined namespaces."""
    with (
        host_owned("net") as (net,),
        sleeping(join=net, uid_map="root", gid_map="root", namespaces=["uts"]) as process,
        namespaces_of(process, "net", "user", "uts") as (its, userns, uts),
        uts.owner() as owner,
        Namespace.current() as own,
    ):
        assert its == net
        assert str(process.uid_map) == "0:0:1"
        assert owner == userns != own


def test_new_namespaces_in_a_joined_user_namespace(all_kinds: UsernsProcess[bytes]) -> None:
    with all_kinds.namespace() as userns:
        for options in ({}, {"init": True, "mount_proc": True}):
            with sleeping(join=userns, namespaces=("mnt", "pid", "net"), **options) as process:
                for kind in ("mnt", "pid", "net"):
                    with process.namespace(kind) as made, made.owner() as owner, Namespace.current(kind) as own:
                        assert owner == userns
                        assert made != own


def test_a_new_one_of_a_kind_that_is_joined(all_kinds: UsernsProcess[bytes]) -> None:
    """A copy of the joined mount namespace, in which `/proc` shows the joined PID namespace."""
    script = "cd /proc; echo [0-9]*; echo $$"
    with all_kinds.namespace("mnt") as joined:
        shown = output(["sh", "-c", script], join=all_kinds, mount_proc=True)
        assert shown.split()[0] == "1"
        assert shown.split()[1] == shown.split()[2]
        assert len(shown.split()) == 3
        assert inode_in("mnt", join=all_kinds, namespaces=["mnt"]) != joined.inode


def test_a_holder_that_joins(all_kinds: UsernsProcess[bytes]) -> None:
    with UsernsProcess(join=all_kinds) as holder:
        for kind in NamespaceKind:
            with holder.namespace(kind) as its, all_kinds.namespace(kind) as wanted:
                assert its == wanted
        assert os.listdir(f"/proc/{holder.pid}/fd") == ["0"]
        assert Path(f"/proc/{holder.pid}/environ").read_bytes() == b""
        assert os.getsid(holder.pid) == holder.pid
    assert holder.returncode == -signal.SIGKILL


def test_a_holder_with_new_namespaces_in_a_joined_user_namespace() -> None:
    with (
        create_userns("root", "root") as userns,
        UsernsProcess(join=userns, namespaces=["net", "pid"]) as holder,
        holder.namespace("net") as net,
        net.owner() as owner,
    ):
        assert owner == userns


def test_a_holder_that_joins_outlives_the_thread_that_created_it(all_kinds: UsernsProcess[bytes]) -> None:
    with ThreadPoolExecutor(1) as pool:
        holder = pool.submit(UsernsProcess, join=all_kinds).result()
        userns = pool.submit(lambda: UsernsProcess(join=all_kinds.namespace_path())).result()
    time.sleep(0.05)
    with holder, userns:
        assert holder.poll() is None
        assert userns.poll() is None


def test_it_ends_with_the_creating_process(all_kinds: UsernsProcess[bytes]) -> None:
    """Commands and holders, in another PID namespace as well."""
    run_alone(join.it_ends_with_the_creating_process, all_kinds.pid)


# ---- its IDs in the namespace ----


@pytest.mark.root
def test_it_becomes_inside_root_without_supplementary_groups() -> None:
    with UsernsProcess(**SHIFTED) as holder:
        assert output(["id"], join=holder).startswith("uid=0(root) gid=0(root) groups=0(root)")
        shown = output(["cat", "/proc/self/status"], join=holder)
    assert "Uid:\t0\t0\t0\t0\n" in shown
    assert "Groups:\t \n" in shown


@pytest.mark.root
def test_it_becomes_the_user_that_is_asked_for() -> None:
    with UsernsProcess(**SHIFTED) as holder, sleeping(join=holder, user=5, group=6, extra_groups=[7, 8]) as process:
        lines = Path(f"/proc/{process.pid}/status").read_text().splitlines()
        status = dict(line.split(":\t", 1) for line in lines)
    assert status["Uid"].split() == ["100005"] * 4
    assert status["Gid"].split() == ["100006"] * 4
    assert status["Groups"].split() == ["100007", "100008"]
    assert int(status["CapEff"], 16) == int(status["CapPrm"], 16) == int(status["CapInh"], 16) == 0


@pytest.mark.root
def test_capabilities_that_are_kept() -> None:
    with UsernsProcess(**SHIFTED) as holder:
        options: dict[str, Any] = {"join": holder, "user": 5, "ambient_caps": ["CAP_KILL"], "no_new_privs": True}
        shown = output(["grep", "-E", "CapEff|NoNewPrivs", "/proc/self/status"], **options)
    assert shown.split() == ["CapEff:", f"{1 << 5:016x}", "NoNewPrivs:", "1"]


def test_an_id_that_is_mapped_is_kept() -> None:
    with UsernsProcess(uid_map="current", gid_map="current") as holder:
        assert output(["sh", "-c", "id -u; id -g"], join=holder) == f"{OWN_UID}\n{OWN_GID}\n"
    with UsernsProcess(uid_map="root", gid_map="root") as holder:
        assert output(["sh", "-c", "id -u; id -g"], join=holder) == "0\n0\n"


def test_inside_root_has_all_capabilities_in_the_namespace(all_kinds: UsernsProcess[bytes]) -> None:
    program = "import socket; socket.sethostname('joined'); print(socket.gethostname())"
    assert output([sys.executable, "-c", program], join=all_kinds) == "joined\n"
    assert output(["uname", "-n"], join=all_kinds) == "joined\n"
    assert os.uname().nodename != "joined"


def test_ids_that_are_not_mapped_are_refused() -> None:
    with UsernsProcess(uid_map="root", gid_map="root") as holder:
        for options in ({"user": 5}, {"group": 5}, {"extra_groups": [5]}):
            with pytest.raises(PermissionError) as caught:
                UsernsProcess(TRUE, join=holder, **options)
            assert isinstance(caught.value, UsernsError)
            assert (caught.value.step, caught.value.cause) == ("setid", "id-not-mapped")


def test_a_namespace_without_a_map_has_no_ids_to_become() -> None:
    with UsernsProcess() as holder, pytest.raises(ValueError, match="no group id is mapped"):
        UsernsProcess(TRUE, join=holder)


def test_where_setgroups_is_denied() -> None:
    """No supplementary group can be set, and those of the caller would be kept: this is an error."""
    with UsernsProcess(uid_map="root", gid_map="root", setgroups="deny") as holder:
        with pytest.raises(PermissionError) as caught:
            UsernsProcess(TRUE, join=holder, extra_groups=[0])
        assert isinstance(caught.value, UsernsError)
        assert caught.value.cause == "setgroups-denied"
        assert output(["sh", "-c", "id -u; cat /proc/self/setgroups"], join=holder) == "0\ndeny\n"


@contextmanager
def nested(outer: str, inner: str) -> Iterator[tuple[int, UsernsProcess[str]]]:
    """A holder two levels below: its PID, and the process that created it."""
    command = alone.command(join.hold_a_namespace, inner)
    options: dict[str, Any] = {"uid_map": outer, "gid_map": outer, "env": alone.environment()}
    with UsernsProcess(command, stdin=PIPE, stdout=PIPE, text=True, **options) as between:
        assert between.stdout is not None
        yield int(between.stdout.readline()), between
        between.communicate()


def test_a_namespace_two_levels_below() -> None:
    """Its root is the caller's ID, mapped twice."""
    with nested("root", "root") as (pid, between), Namespace.of(pid) as userns:
        assert output(["sh", "-c", "id -u; stat -Lc %i /proc/self/ns/user"], join=pid) == f"0\n{userns.inode}\n"
        with open_joins(pid) as joins:
            assert str(joins.maps(Caller.now()).uid_map) == f"0:{OWN_UID}:1"
        with between.namespace() as middle:
            assert output(["stat", "-Lc", "%i", "/proc/self/ns/user"], join=middle) == f"{middle.inode}\n"


@pytest.mark.root
def test_maps_are_composed_through_the_levels() -> None:
    with nested("0:0:1,1:100001:65535", "0:1000:10") as (pid, _), open_joins(pid) as joins:
        maps = joins.maps(Caller.now())
        assert maps.uid_map == maps.gid_map == IdMap.parse("0:101000:10")
        assert maps.setgroups == "allow"
        with sleeping(join=pid, user=3) as process:
            assert os.stat(f"/proc/{process.pid}").st_uid == 101003


@pytest.mark.root
def test_a_network_namespace_that_a_level_between_owns() -> None:
    """A caller with capabilities in its own user namespace has them there too, but not from below."""
    with (
        nested("0:0:1,1:100001:65535", "0:0:1") as (pid, between),
        UsernsProcess(join=between.namespace_path(), namespaces=["net"]) as holder,
        holder.namespace("net") as net,
        Namespace.of(pid) as userns,
    ):
        assert inode_in("net", join=[userns, net]) == net.inode


# ---- PID namespaces ----


def test_the_command_is_a_process_of_the_joined_pid_namespace(all_kinds: UsernsProcess[bytes]) -> None:
    with UsernsProcess(["sh", "-c", "echo $$; exec sleep 1000"], stdout=PIPE, text=True, join=all_kinds) as process:
        assert process.stdout is not None
        inside = process.stdout.readline().strip()
        info = Path(f"/proc/self/fdinfo/{process.pidfd}").read_text().split()
        assert info[info.index("NSpid:") + 1 :][:2] == [str(process.pid), inside]
        assert os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None  # a child
        process.kill()
    assert process.returncode == -signal.SIGKILL


def test_it_is_part_of_the_callers_process_group_and_session(all_kinds: UsernsProcess[bytes]) -> None:
    """Like every child, although another process was created before it."""
    with sleeping(join=all_kinds) as process:
        assert (os.getpgid(process.pid), os.getsid(process.pid)) == (os.getpgrp(), os.getsid(0))
    with sleeping(join=all_kinds, process_group=0) as process:
        assert os.getpgid(process.pid) == process.pid
    with sleeping(join=all_kinds, start_new_session=True) as process:
        assert os.getsid(process.pid) == process.pid


@pytest.mark.parametrize("status", [0, 1, 77, 255])
def test_the_exit_status_is_the_commands(status: int, all_kinds: UsernsProcess[bytes]) -> None:
    assert run(["/bin/sh", "-c", f"exit {status}"], join=all_kinds).returncode == status


def test_the_signal_that_ended_it_is_reported(all_kinds: UsernsProcess[bytes]) -> None:
    """It is not process 1, so signals have their usual effect."""
    for sig in (signal.SIGTERM, signal.SIGINT, signal.SIGKILL):
        with sleeping(join=all_kinds) as process:
            process.send_signal(sig)
            assert process.wait(timeout=60) == -sig


def test_pipes_and_text(all_kinds: UsernsProcess[bytes]) -> None:
    with UsernsProcess(["tr", "a-z", "A-Z"], stdin=PIPE, stdout=PIPE, text=True, join=all_kinds) as process:
        assert process.communicate("words\n" * 20_000, timeout=60) == ("WORDS\n" * 20_000, None)


def test_a_pid_namespace_that_has_ended_is_reported() -> None:
    with (
        UsernsProcess(uid_map="root", gid_map="root", namespaces=["pid"]) as holder,
        namespaces_of(holder, "user", "pid") as left,
    ):
        holder.close()
        with pytest.raises(UsernsError) as caught:
            UsernsProcess(TRUE, join=left)
    assert (caught.value.errno, caught.value.step, caught.value.cause) == (errno.ENOMEM, "clone", "pid-namespace-ended")


def test_a_pid_namespace_above_is_impossible() -> None:
    """The kernel does not allow a process to enter an ancestor of its PID namespace."""
    run_alone(join.a_pid_namespace_above_is_impossible)


def test_from_a_thread_that_ends(all_kinds: UsernsProcess[bytes]) -> None:
    """Its keeper thread knows the process that continues."""
    with ThreadPoolExecutor(1) as pool:
        process = pool.submit(UsernsProcess, ["sleep", "0.3"], join=all_kinds).result()
    with process:
        assert process.wait(timeout=60) == 0


def test_from_many_threads_at_once(all_kinds: UsernsProcess[bytes]) -> None:
    def work(status: int) -> int:
        return run(["/bin/sh", "-c", f"exit {status}"], join=all_kinds).returncode

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(work, range(200))) == list(range(200))


def test_beside_a_loop_that_reaps_everything() -> None:
    """It may reap the first process, and the command. The status is the real one, or is reported as lost."""
    run_alone(join.beside_a_loop_that_reaps_everything)


def test_where_sigchld_is_ignored() -> None:
    run_alone(join.where_sigchld_is_ignored)


# ---- its directory and program ----


def test_programs_and_directories_are_those_of_the_joined_mount_namespace(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    fill = f"mount -t tmpfs none {tmp_path}; mkdir {tmp_path}/in; cp /bin/pwd {tmp_path}/in/there"
    prepare = f"{fill}; echo; exec sleep 1000"
    options: dict[str, Any] = {"uid_map": "root", "gid_map": "root", "namespaces": ["mnt"]}
    with UsernsProcess(["sh", "-c", prepare], stdout=PIPE, **options) as container:
        assert container.stdout is not None
        container.stdout.readline()
        for joined in (container, [container.namespace_path(kind) for kind in ("mnt", "user")]):
            where: dict[str, Any] = {"join": joined, "env": {"PATH": f"{tmp_path}/in"}}
            assert output(["there"], cwd=tmp_path / "in", **where) == f"{tmp_path}/in\n"
            assert output([f"{tmp_path}/in/there"], **where) == "/\n"
            with pytest.raises(FileNotFoundError) as caught:
                UsernsProcess(["there"], cwd=tmp_path / "elsewhere", **where)
            assert isinstance(caught.value, UsernsError)
            assert caught.value.step == "chdir"
        assert os.listdir(tmp_path) == []
        container.kill()


# ---- its descriptors ----


def descriptors_of(**options: Any) -> list[str]:
    shown = output([sys.executable, "-S", "-c", "import os; print(*os.listdir('/proc/self/fd'))"], **options)
    return sorted(shown.split(), key=int)


def test_it_has_no_descriptors_but_those_passed_on(all_kinds: UsernsProcess[bytes]) -> None:
    usual = descriptors_of(join=all_kinds)
    assert usual == ["0", "1", "2", "3"]  # the last one is of ls itself
    folder = os.open("/", os.O_RDONLY)
    os.set_inheritable(folder, True)
    numbers = [30, 31, 40, 200]
    try:
        for number in [*numbers, 35]:
            os.dup2(folder, number, inheritable=True)
        assert descriptors_of(join=all_kinds) == usual
        assert descriptors_of(join=all_kinds, pass_fds=numbers) == sorted([*usual, *map(str, numbers)], key=int)
    finally:
        for number in [folder, *numbers, 35]:
            os.close(number)


def test_without_close_fds_others_are_inherited_but_none_of_the_library(all_kinds: UsernsProcess[bytes]) -> None:
    kinds = [*NamespaceKind]
    program = "for fd in /proc/self/fd/*; do readlink $fd; done; true"
    with namespaces_of(all_kinds, *kinds) as namespaces:
        shown = output(["sh", "-c", program], join=namespaces, close_fds=False, stdin=DEVNULL, stderr=DEVNULL)
    assert [link for link in shown.split() if (":[" in link and "pipe" not in link) or "pidfd" in link] == []


def test_where_standard_input_output_and_error_are_closed() -> None:
    """The descriptors that the call needs do not get the numbers 0, 1 and 2."""
    run_alone(join.where_standard_input_output_and_error_are_closed)


# ---- on_created ----


def test_on_created_is_shown_the_process_that_will_be_the_command(all_kinds: UsernsProcess[bytes]) -> None:
    seen: list[tuple[int, str]] = []

    def look(process: UsernsProcess[Any]) -> None:
        info = Path(f"/proc/self/fdinfo/{process.pidfd}").read_text().split()
        seen.append((process.pid, info[info.index("NSpid:") + 1]))

    with sleeping(join=all_kinds, on_created=look) as process:
        assert seen == [(process.pid, str(process.pid))]


def test_an_exception_in_on_created_leaves_nothing(all_kinds: UsernsProcess[bytes]) -> None:
    def refuse(process: UsernsProcess[Any]) -> None:  # noqa: ARG001
        raise KeyError("no")

    for joined in (all_kinds, all_kinds.namespace_path()):
        with pytest.raises(KeyError):
            UsernsProcess(SLEEP, join=joined, on_created=refuse)


# ---- refused ----


def test_two_of_one_kind(all_kinds: UsernsProcess[bytes]) -> None:
    """The same namespace twice counts as one."""
    with create_userns("root", "root") as other, all_kinds.namespace() as userns:
        with pytest.raises(ValueError, match="two namespaces of the kind user"):
            UsernsProcess(TRUE, join=[all_kinds, other])
        assert run(TRUE, join=[userns, all_kinds, all_kinds.pid]).returncode == 0


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"uid_map": "root"}, "has its maps"),
        ({"gid_map": "root"}, "has its maps"),
        ({"setgroups": "deny"}, "has its maps"),
        ({"owner": OWN_UID}, "has its owner"),
        ({"namespaces": ["user"]}, "no new one is made"),
        ({"namespaces": ["pid"]}, "a pid namespace is joined"),
    ],
)
def test_what_a_joined_namespace_has_already(
    options: dict[str, Any], words: str, all_kinds: UsernsProcess[bytes]
) -> None:
    with pytest.raises(ValueError, match=words):
        UsernsProcess(TRUE, join=all_kinds, **options)


def test_a_process_that_is_in_no_other_namespace() -> None:
    with subprocess.Popen(SLEEP) as process:
        for joined in (os.getpid(), process.pid):
            with pytest.raises(ValueError, match="nothing to join"):
                UsernsProcess(TRUE, join=joined)
        process.kill()


@pytest.mark.parametrize("joined", [[None], ["/proc/self/ns/user", 3.5], 3.5, object()])
def test_what_does_not_stand_for_a_namespace(joined: Any) -> None:
    with pytest.raises(TypeError, match="join takes namespaces, paths, pids and processes"):
        UsernsProcess(TRUE, join=joined)


def test_what_is_not_a_pid() -> None:
    for joined in (-1, [-(2**40)], 2**31, [2**64]):
        with pytest.raises(ValueError, match="is neither a pid nor a pidfd"):
            UsernsProcess(TRUE, join=joined)


def test_a_file_that_is_not_a_namespace(tmp_path: Path) -> None:
    (tmp_path / "plain").write_text("")
    for path, number in ((tmp_path / "plain", errno.ENOTTY), (tmp_path / "missing", errno.ENOENT)):
        with pytest.raises(OSError, match=str(path)) as caught:
            UsernsProcess(TRUE, join=path)
        assert isinstance(caught.value, UsernsError)
        assert (caught.value.errno, caught.value.step) == (number, "open_ns")
    memfd = os.memfd_create("no namespace")
    with pytest.raises(UsernsError):
        UsernsProcess(TRUE, join=f"/proc/self/fd/{memfd}")
    os.close(memfd)


def test_a_process_that_has_ended() -> None:
    """A zombie, one that has been reaped, and one that is closed."""
    with UsernsProcess(uid_map="root", gid_map="root", namespaces=["net"]) as holder:
        pid = holder.pid
        holder.kill()
        holder.waitid(os.WEXITED | os.WNOWAIT)
        for joined in (holder, pid, holder.pidfd):
            assert_gone(joined)
        holder.wait()
        assert_gone(holder)
    with pytest.raises(ValueError, match="closed"):
        UsernsProcess(TRUE, join=holder)


def assert_gone(joined: Any) -> None:
    with pytest.raises(ProcessLookupError) as caught:
        UsernsProcess(TRUE, join=joined)
    assert isinstance(caught.value, UsernsError)
    assert caught.value.cause == "process-gone"


def test_a_closed_namespace() -> None:
    userns = create_userns("root", "root")
    userns.close()
    with pytest.raises(ValueError, match="closed"):
        UsernsProcess(TRUE, join=userns)


def test_processes_of_another_user_cannot_be_joined() -> None:
    """An unprivileged user cannot even open the namespace of such a process; setns(2) refuses an open one."""
    as_unprivileged_user(join.processes_of_root_cannot_be_joined)


@pytest.mark.root
def test_a_namespace_of_another_user_cannot_be_joined() -> None:
    run_alone(join.another_user_cannot_join)


def test_a_process_in_one_container_cannot_join_its_sibling(all_kinds: UsernsProcess[bytes]) -> None:
    """For every descriptor that refers to it, and every kind."""
    with (
        UsernsProcess(uid_map="root", gid_map="root", namespaces=join.KINDS[1:]) as sibling,
        namespaces_of(sibling, *join.KINDS) as theirs,
        namespaces_of(all_kinds, "user", "net") as joined,
    ):
        fds = [namespace.fileno() for namespace in theirs]
        command = alone.command(join.try_to_join_each, *fds)
        assert output(command, join=joined, pass_fds=fds, env=alone.environment()) == "refused\n"


def test_a_program_that_is_missing_in_the_namespace(all_kinds: UsernsProcess[bytes]) -> None:
    with pytest.raises(FileNotFoundError) as caught:
        UsernsProcess(["/nonexistent/program"], join=all_kinds)
    assert isinstance(caught.value, UsernsError)
    assert (caught.value.step, caught.value.filename) == ("exec", "/nonexistent/program")


# ---- with asyncio, and run's kin ----


def test_check_output(all_kinds: UsernsProcess[bytes]) -> None:
    assert check_output(["id", "-u"], join=all_kinds) == b"0\n"


def test_with_asyncio(all_kinds: UsernsProcess[bytes]) -> None:
    import asyncio

    from usernsproc import aio

    async def work() -> list[int | None]:
        async def one(status: int) -> int | None:
            process = await aio.create_subprocess_exec("/bin/sh", "-c", f"exit {status}", join=all_kinds)
            return await process.wait()

        return await asyncio.gather(*map(one, range(20)))

    assert asyncio.run(work()) == list(range(20))


def test_the_calling_thread_stays_where_it_is(all_kinds: UsernsProcess[bytes]) -> None:
    before = {kind: os.readlink(f"/proc/thread-self/ns/{kind}") for kind in os.listdir("/proc/thread-self/ns")}
    run(TRUE, join=all_kinds)
    assert before == {kind: os.readlink(f"/proc/thread-self/ns/{kind}") for kind in os.listdir("/proc/thread-self/ns")}


def test_joining_while_others_join_and_leave(all_kinds: UsernsProcess[bytes]) -> None:
    """Two containers from two threads: no command starts in the wrong one."""
    with UsernsProcess(uid_map="root", gid_map="root", namespaces=["net", "pid"]) as other:
        wrong: list[int] = []

        def work(target: UsernsProcess[bytes]) -> None:
            with target.namespace("net") as net:
                wanted = net.inode
            for _ in range(25):
                if (found := inode_in("net", join=target)) != wanted:
                    wrong.append(found)

        threads = [threading.Thread(target=work, args=(target,)) for target in (all_kinds, other) * 2]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert wrong == []
