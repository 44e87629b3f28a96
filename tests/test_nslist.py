"""The list of existing namespaces."""

from __future__ import annotations

import fcntl
import os
import pickle
import socket
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import alone
import pytest
from alone import run_alone
from programs import nslist

from usernsproc import (
    Namespace,
    NamespaceInfo,
    NamespaceKind,
    NamespaceList,
    UsernsError,
    UsernsProcess,
    _core,
    _system_calls,
    create_userns,
    run,
)
from usernsproc._namespaces.listing import _kernel_list

OWN = f"0:{os.geteuid()}:1", f"0:{os.getegid()}:1"


def info_of(namespace: Namespace, found: NamespaceList | None = None) -> NamespaceInfo:
    infos = Namespace.list() if found is None else found
    (info,) = [info for info in infos if (info.device, info.inode) == (namespace.device, namespace.inode)]
    return info


def is_listed(kind: str, inode: int) -> bool:
    return any((info.kind, info.inode) == (kind, inode) for info in Namespace.list(kind))


def test_the_callers_namespaces_are_listed_with_this_process() -> None:
    found = Namespace.list()
    for kind in NamespaceKind:
        with Namespace.current(kind) as current:
            info = info_of(current, found)
        assert info.kind is kind
        assert os.getpid() in info.pids
    assert [(i.kind, i.inode) for i in found] == sorted(
        ((i.kind, i.inode) for i in found), key=lambda key: (list(NamespaceKind).index(key[0]), key[1])
    )


def test_a_kind_is_listed_alone() -> None:
    assert {info.kind for info in Namespace.list("net")} == {"net"}
    with pytest.raises(ValueError, match="not a kind"):
        Namespace.list("mount")


def test_those_of_a_process_have_owner_parent_and_maps() -> None:
    kinds = ("mnt", "net", "uts", "ipc", "cgroup", "pid", "time")
    with UsernsProcess(uid_map="root", namespaces=kinds) as holder, Namespace.current() as own:
        found = Namespace.list()
        with holder.namespace() as userns:
            info = info_of(userns, found)
            assert info == NamespaceInfo(
                kind=NamespaceKind.USER,
                inode=userns.inode,
                device=userns.device,
                owner=own.inode,
                owner_uid=os.geteuid(),
                parent=own.inode,
                pids=(holder.pid,),
                pins=(),
                uid_map=OWN[0],
                gid_map=OWN[1],
                routes=((f"/proc/{holder.pid}/task/{holder.pid}/ns/user",), *info.routes[1:]),
            )
            assert all(isinstance(number, int) for (number,) in info.routes[1:])  # if the kernel lists it
        for kind in kinds:
            with holder.namespace(kind) as namespace, Namespace.current(kind) as current:
                owned = info_of(namespace, found)
                assert (owned.owner, owned.owner_uid, owned.uid_map) == (info.inode, None, None)
                assert owned.pids == (holder.pid,)
                assert owned.parent == (current.inode if kind == "pid" else None)


def test_one_that_only_a_descriptor_holds_is_found_with_its_maps() -> None:
    with create_userns("root", "root") as userns:
        info = info_of(userns)
        assert (info.pids, info.pins, info.uid_map, info.gid_map) == ((), (), *OWN)
        with info.open() as again:
            assert again == userns
        with pytest.raises(AttributeError):
            info.inode = 5  # type: ignore[misc]


def test_one_that_has_ended_is_listed_no_more_and_does_not_open() -> None:
    with create_userns("root", "root") as userns:
        info = info_of(userns)
    assert info not in Namespace.list()
    with pytest.raises(FileNotFoundError, match=r"user:\[") as caught:
        info.open()
    assert isinstance(caught.value, UsernsError)
    assert (caught.value.step, caught.value.cause) == ("open_ns", "namespace-gone")


def test_no_descriptor_stays_open_and_the_values_can_be_pickled() -> None:
    before = os.listdir("/proc/self/fd")
    found = Namespace.list()
    assert os.listdir("/proc/self/fd") == before
    again = pickle.loads(pickle.dumps(found))
    assert again == found
    assert isinstance(again, NamespaceList)
    assert again.unseen_processes == found.unseen_processes


def test_an_ancestor_that_nothing_else_holds_is_found_through_its_child() -> None:
    """The one in the middle has no process, descriptor or pin: only a child and a network namespace refer to it."""
    nested = alone.command(nslist.enter_nested, 2)
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with (
        UsernsProcess(nested, uid_map="root", env=alone.environment(), **pipes) as process,
        Namespace.current() as own,
    ):
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        found = {info.inode: info for info in Namespace.list("user")}
        chain = [next(info for info in found.values() if process.pid in info.pids)]
        while chain[-1].inode != own.inode:
            chain.append(found[chain[-1].parent or 0])
        assert len(chain) == 4
        for info in chain[1:3]:
            assert info.pids == ()
        assert [info.uid_map for info in chain[:3]] == [OWN[0]] * 3
        for info in chain:
            with info.open() as namespace:
                assert namespace.inode == info.inode
        process.communicate()


@pytest.mark.root
def test_maps_of_nested_ones_are_shown_as_seen_from_here_with_and_without_a_process() -> None:
    """Outside IDs are the caller's, as in /proc/PID/uid_map, also if no process is left."""
    printed = run_alone(nslist.maps_of_nested_ones_are_shown_as_seen_from_here_with_and_without_a_process)
    assert printed == "() 100000 5:100010:20 5:200010:20\n5:10:20\n"


def test_an_unwritten_map_is_empty() -> None:
    with UsernsProcess() as holder, holder.namespace() as userns:
        info = info_of(userns)
        assert (info.uid_map, info.gid_map) == ("", "")
        holder.kill()
        holder.wait()
        info = info_of(userns)
        assert (info.pids, info.uid_map, info.gid_map) == ((), "", "")


def test_a_pin_is_shown_by_its_path(tmp_path: Path) -> None:
    """In the caller's mount namespace directly, in another one through a process that is in it."""
    run_alone(nslist.a_pin_is_shown_by_its_path, str(tmp_path))


def test_a_pin_that_two_roots_show_is_listed_once(tmp_path: Path) -> None:
    """The caller's root, and the root of a process in a chroot."""
    run_alone(nslist.a_pin_that_two_roots_show_is_listed_once, str(tmp_path))


def test_a_thread_in_another_namespace_counts_for_its_process() -> None:
    run_alone(nslist.a_thread_in_another_namespace_counts_for_its_process)


def test_one_that_waits_for_children_is_found() -> None:
    """unshare(CLONE_NEWTIME): it exists, but no process is in it yet."""
    run_alone(nslist.one_that_waits_for_children_is_found)


def test_processes_that_may_not_be_looked_into_are_counted() -> None:
    """By a caller without capabilities over them: here a process that has entered a new user namespace."""
    # In a PID namespace in which no other process starts or exits.
    there: dict[str, Any] = {"uid_map": "root", "namespaces": ["pid"], "init": True, "mount_proc": True}
    command = alone.command(nslist.processes_that_may_not_be_looked_into_are_counted)
    assert run(command, env=alone.environment(), **there).returncode == 0


def test_processes_that_come_and_go_meanwhile_are_not_an_error() -> None:
    """A shell that starts one process after the other, and lists all the time."""
    forks = "while :; do (exit 0); (exit 0); done"
    with subprocess.Popen(["sh", "-c", forks]) as busy:
        for _ in range(20):
            assert Namespace.list()
        busy.kill()


def test_two_hundred_that_descriptors_hold_are_all_there() -> None:
    held = [create_userns("root", "root") for _ in range(200)]
    inodes = {userns.inode for userns in held}
    found = Namespace.list("user")
    assert inodes <= {info.inode for info in found}
    assert all(info.uid_map == OWN[0] for info in found if info.inode in inodes)
    for userns in held:
        userns.close()


def test_where_descriptors_are_short_it_fails_and_nothing_is_left_out() -> None:
    """With one descriptor more each time: an error, until the list is complete."""
    run_alone(nslist.where_descriptors_are_short_it_fails_and_nothing_is_left_out)


def test_without_proc_it_says_so(tmp_path: Path) -> None:
    run_alone(nslist.without_proc_it_says_so, str(tmp_path))


def test_what_another_mount_namespace_shows_is_looked_at_before_it_is_opened(tmp_path: Path) -> None:
    """Its users can replace a pin by another file: opening a device or a FIFO could do harm."""
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    with Namespace.current() as current:
        info = info_of(current)._replace(routes=((str(fifo),), ("/dev/null",), (str(tmp_path / "missing"),)))
    with pytest.raises(FileNotFoundError):
        info.open()  # and does not hang


# ---- listns(2) of Linux 6.19, which the tests imitate on older kernels ----


def number_of(namespace: Namespace) -> int:
    """NS_GET_ID, Linux 6.18."""
    answer = bytearray(8)
    request = 2 << 30 | 8 << 16 | 0xB7 << 8 | 13  # the encoding of x86-64 and aarch64
    fcntl.ioctl(namespace.fileno(), request, answer)
    return int.from_bytes(answer, sys.byteorder)


@pytest.mark.kernel("6.18")
def test_a_namespace_is_opened_by_its_number() -> None:
    """By open_by_handle_at(2), Linux 6.18, with the number that the kernel never assigns again."""
    with Namespace.current("net") as net:
        try:
            fd = _system_calls.open_ns(number_of(net), net.kind.flag, net.inode)
        except OSError as error:
            # a caller that is not root in the user namespace of nsfs can only open its own namespaces
            assert (os.geteuid() != 0, type(error)) == (True, PermissionError)
        else:
            with Namespace(fd) as again:
                assert again == net


@pytest.mark.root
@pytest.mark.kernel("6.19")
def test_the_kernel_lists_what_nothing_in_proc_leads_to() -> None:
    """Here a namespace whose only descriptor is in transit through a socket."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        with create_userns("root", "root") as userns:
            identity = userns.inode, number_of(userns)
            socket.send_fds(ours, [b"x"], [userns.fileno()])
        found = Namespace.list("user")
        (info,) = [info for info in found if info.inode == identity[0]]
        assert (info.pids, info.pins, info.routes) == ((), (), ((identity[1],),))
        assert (info.owner_uid, info.uid_map) == (os.geteuid(), OWN[0])
        assert found.unseen_namespaces == 0
        with info.open() as namespace:
            assert (namespace.inode, number_of(namespace)) == identity
    assert not is_listed("user", identity[0])


@pytest.mark.root
@pytest.mark.kernel("6.19")
def test_the_kernel_lists_what_is_mounted_where_no_process_is() -> None:
    run_alone(nslist.the_kernel_lists_what_is_mounted_where_no_process_is)


@pytest.mark.root
@pytest.mark.kernel("6.19")
def test_all_that_the_kernel_lists_is_there() -> None:
    """More than it returns in one call. (An unprivileged user gets only those that it is in.)"""
    with ExitStack() as stack:
        made = [stack.enter_context(create_userns("root", "root")) for _ in range(600)]
        numbers = set(_kernel_list())
        assert numbers >= {number_of(namespace) for namespace in made}
        listed = {info.inode: info for info in Namespace.list("user")}
        for namespace in made:
            assert (number_of(namespace),) in listed[namespace.inode].routes


def let_the_kernel_list(namespaces: dict[int, Namespace], monkeypatch: pytest.MonkeyPatch) -> None:
    """As Linux 6.19, two at a time: the numbers above the argument, and none after the last."""

    def listns(after: int) -> list[int]:
        return sorted(number for number in namespaces if number > after)[:2]

    def open_ns(number: int, nstype: int, inode: int) -> _core.OwnedFd:
        assert (nstype, inode) == (0, 0)
        namespace = namespaces[number]
        if namespace.closed:
            raise OSError(116, "Stale file handle")
        return _core.dup(namespace.fileno())

    monkeypatch.setattr(_system_calls, "listns", listns)
    monkeypatch.setattr(_system_calls, "open_ns", open_ns)


def network_that_a_socket_holds() -> socket.socket:
    """Nothing in /proc leads to it: a socket is not a link to its namespace."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.set_inheritable(True)
        command = alone.command(nslist.send_a_socket_of_a_new_network, theirs.fileno())
        subprocess.run(command, pass_fds=[theirs.fileno()], env=alone.environment(), check=True)
        _, (fd,), _, _ = socket.recv_fds(ours, 1, 1)
    return socket.socket(fileno=fd)


@pytest.mark.root
def test_what_only_the_kernel_lists_is_there_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """Here a network namespace that only a socket holds (which Linux 7.3 does not list). Its owner comes with it."""
    SIOCGSKNS = 0x894C  # noqa: N806
    holding = network_that_a_socket_holds()
    with holding:
        with Namespace(fcntl.ioctl(holding, SIOCGSKNS)) as net:
            inode = net.inode
        assert not is_listed("net", inode)
        with Namespace(fcntl.ioctl(holding, SIOCGSKNS)) as net, Namespace.current("net") as own:
            numbers = {1 << 40: own, 1 << 41: net, 1 << 42: own}
            listed = os.listdir("/proc/self/fd")
            let_the_kernel_list(numbers, monkeypatch)
            found = Namespace.list()
            info = next(i for i in found if (i.kind, i.inode) == ("net", inode))
            assert info.routes[-1] == (1 << 41,)
            owner = next(i for i in found if i.inode == info.owner)
            assert (owner.kind, owner.uid_map, owner.pids) == ("user", OWN[0], ())
            for one in (info._replace(routes=info.routes[-1:]), owner):
                with one.open() as namespace:
                    assert namespace.inode == one.inode
            assert os.listdir("/proc/self/fd") == listed
            assert found.unseen_namespaces == 0


def test_what_the_kernel_lists_and_does_not_open_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    with create_userns("root", "root") as one, create_userns("root", "root") as other:
        pass
    let_the_kernel_list({1 << 40: one, 1 << 41: other}, monkeypatch)
    assert Namespace.list().unseen_namespaces == 2


@pytest.mark.parametrize("errno", [38, 2, 1])
def test_where_the_kernel_does_not_list_proc_does(errno: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """ENOSYS before 6.19, EPERM of a seccomp profile, ENOENT after the last."""

    def fail(_: int) -> list[int]:
        raise OSError(errno, os.strerror(errno))

    monkeypatch.setattr(_system_calls, "listns", fail)
    found = Namespace.list()
    assert {info.kind for info in found} == set(NamespaceKind)
    assert found.unseen_namespaces == 0
