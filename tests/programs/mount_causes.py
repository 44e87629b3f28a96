"""Idmapped mounts that are refused, for each reason."""

from __future__ import annotations

import errno
import json
import os
import resource
from collections.abc import Callable

import native
from leaks import close_kept, descriptors
from mounting import (
    MAP,
    create_as,
    failure,
    has_maps,
    make_file_system,
    mounts_below,
    own_file_system,
    owners,
    run,
)

from usernsproc import (
    Namespace,
    UsernsError,
    UsernsProcess,
    create_userns,
    idmapped_mount,
    open_idmapped,
    supports_idmap,
)

NR_MOVE_MOUNT, NR_OPEN_TREE, NR_MOUNT_SETATTR, NR_OPEN_TREE_ATTR = 429, 428, 442, 467
CAP_SYS_ADMIN = 21


def cause(*arguments: object, quiet: bool = False, **options: object) -> tuple[str | None, str, str | None]:
    error = failure(idmapped_mount, *arguments, **options)
    assert error.errno
    assert quiet or error.__notes__
    return error.step, errno.errorcode[error.errno], error.cause


def of_the_user_namespace() -> None:
    _, source, target = own_file_system("tmpfs")
    with Namespace.current("net") as net:
        assert cause(source, target, net) == ("mount_setattr", "EINVAL", "not-a-user-namespace")
    with open("/etc/passwd") as file:
        assert cause(source, target, file.fileno()) == ("mount_setattr", "EINVAL", "not-a-user-namespace")
    with Namespace.current() as initial:
        assert cause(source, target, initial) == ("mount_setattr", "EPERM", "initial-user-namespace")
    with UsernsProcess() as holder:
        assert cause(source, target, holder) == ("mount_setattr", "EINVAL", "map-missing")
        assert "uid_map and gid_map" in failure(idmapped_mount, source, target, holder).__notes__[0]
        holder.write_gid_map("root")
        assert cause(source, target, holder) == ("mount_setattr", "EINVAL", "map-missing")
        assert "written: uid_map of" in failure(idmapped_mount, source, target, holder).__notes__[0]
    with UsernsProcess() as holder:
        holder.write_uid_map("root")
        assert cause(source, target, holder) == ("mount_setattr", "EINVAL", "map-missing")
        assert "written: gid_map of" in failure(idmapped_mount, source, target, holder).__notes__[0]
    with create_userns(MAP, MAP) as userns:
        closed = os.dup(userns.fileno())
    os.close(closed)
    for fd in (closed, -errno.EBADF, 2**31, 2**63 - 1, 2**64):
        assert cause(source, target, fd) == ("mount_setattr", "EBADF", None)
    for nonsense in (None, 1.5, ("0:0:1",), ("0:0:1",) * 3):
        try:
            idmapped_mount(source, target, nonsense)  # type: ignore[arg-type]
        except TypeError:
            pass
        else:
            raise AssertionError(nonsense)


def of_the_user_namespace_of_another_user() -> None:
    _, _, _target = own_file_system("tmpfs")
    with create_userns(MAP, MAP) as sibling, create_userns("0:200000:65536", "0:200000:65536") as own:
        reader, writer = os.pipe()
        pid = os.fork()
        if pid == 0:
            own.enter()
            native.unshare(native.CLONE_NEWNS)
            os.setuid(0)
            os.setgid(0)
            run("mount", "-t", "tmpfs", "tmpfs", "/mnt/disk-tmpfs")
            os.mkdir("/mnt/disk-tmpfs/target")
            result = cause("/mnt/disk-tmpfs", "/mnt/disk-tmpfs/target", sibling)
            os.write(writer, repr(result).encode())
            os._exit(0)
        os.close(writer)
        with open(reader) as file:
            assert file.read() == repr(("mount_setattr", "EPERM", "no-rights-over-userns"))
        assert os.waitpid(pid, 0)[1] == 0


def of_the_file_system() -> None:
    work, _, target = own_file_system("tmpfs")
    assert cause("/proc", target, (MAP, MAP)) == ("mount_setattr", "EINVAL", "no-idmap-support")
    disk = make_file_system("ext4", work)
    with create_userns("0:0:65536", "0:0:65536") as own:
        reader, writer = os.pipe()
        pid = os.fork()
        if pid == 0:
            own.enter()
            native.unshare(native.CLONE_NEWNS)
            refused = cause(disk, target, ("0:5:10", "0:5:10"))
            note = failure(idmapped_mount, disk, target, ("0:5:10", "0:5:10")).__notes__[0]
            answer = supports_idmap(disk)[:3]
            run("mount", "-t", "tmpfs", "tmpfs", "/mnt/disk-tmpfs")
            os.mkdir("/mnt/disk-tmpfs/target")
            same = cause("/mnt/disk-tmpfs", "/mnt/disk-tmpfs/target", own)
            answer_2 = supports_idmap("/mnt/disk-tmpfs")[:3]
            os.write(writer, json.dumps([refused, note, answer, same, answer_2]).encode())
            os._exit(0)
        os.close(writer)
        with open(reader) as file:
            results = json.load(file)
        assert os.waitpid(pid, 0)[1] == 0
    assert results[0] == ["mount_setattr", "EPERM", "no-rights-over-file-system"]
    assert f"CAP_SYS_ADMIN in the user namespace that mounted the ext4 at {disk.parent}" in results[1]
    assert results[2] == [False, "ext4", "no-rights-over-file-system"]
    assert results[3] == ["mount_setattr", "EINVAL", "same-user-namespace"]
    assert results[4] == [True, "tmpfs", None]


def of_a_source_that_has_maps_already() -> None:
    work, source, target = own_file_system("tmpfs")
    target_2 = work / "target-2"
    target_2.mkdir()
    other = "0:300000:2000"
    with idmapped_mount(source, target, (MAP, MAP)):
        with idmapped_mount(target, target_2, (other, other)) as mount:
            assert owners(target_2 / "of-1000") == (301000, 301000)
            assert has_maps(mount, other)
            assert create_as(300001, target_2 / "new") == 0
            assert owners(source / "new") == (1, 1)
            assert owners(target / "new") == (100001, 100001)
        with idmapped_mount(target, target_2, (other, other), read_only=True, recursive=True):
            assert create_as(300001, target_2 / "newer") == errno.EROFS
        assert supports_idmap(target)
        for refusal in (errno.ENOSYS, errno.EPERM):
            native.refuse_system_call(NR_OPEN_TREE_ATTR, refusal)
            assert cause(target, target_2, (other, other)) == ("mount_setattr", "EPERM", "already-idmapped")
            assert "6.15" in failure(idmapped_mount, target, target_2, (other, other)).__notes__[0]
        assert supports_idmap(target)[2] == "already-idmapped"
        # In a tree, it is the one mount that has them.
        tree = work / "tree"
        tree.mkdir()
        run("mount", "-t", "tmpfs", "tmpfs", tree)
        (tree / "below").mkdir()
        run("mount", "--bind", target, tree / "below")
        error = failure(idmapped_mount, tree, target_2, (other, other), recursive=True)
        assert (error.cause, error.filename) == ("already-idmapped", str(tree / "below"))
        with idmapped_mount(source, target_2, (other, other)):  # it still goes where it needs no new call
            pass


def of_a_kernel_without_idmapped_mounts() -> None:
    _, source, target = own_file_system("tmpfs")
    assert cause(source, target, (MAP, MAP)) == ("mount_setattr", "ENOSYS", "kernel-too-old")
    assert "5.12" in failure(open_idmapped, source, (MAP, MAP)).__notes__[0]
    assert supports_idmap(source)[:3] == (False, "tmpfs", "kernel-too-old")
    assert mounts_below(target) == []


def of_a_file_system_that_can_be_idmapped_later() -> None:
    _, source, target = own_file_system("tmpfs")
    assert cause(source, target, (MAP, MAP)) == ("mount_setattr", "EINVAL", "no-idmap-support")
    assert "6.3" in failure(open_idmapped, source, (MAP, MAP)).__notes__[0]
    assert supports_idmap(source)[:3] == (False, "tmpfs", "no-idmap-support")


def of_a_source_that_has_maps_already_before_others_could_replace_them() -> None:
    work, source, target = own_file_system("tmpfs")
    source = make_file_system("ext4", work)
    with idmapped_mount(source, target, (MAP, MAP)):
        assert cause(target, source, ("root", "root")) == ("mount_setattr", "EPERM", "already-idmapped")
        assert "6.15" in failure(open_idmapped, target, (MAP, MAP)).__notes__[0]


def of_an_old_kernel() -> None:
    _, source, target = own_file_system("tmpfs")
    native.refuse_system_call(NR_MOUNT_SETATTR, errno.ENOSYS)
    assert cause(source, target, (MAP, MAP)) == ("mount_setattr", "ENOSYS", "kernel-too-old")
    assert supports_idmap(source)[:3] == (False, "tmpfs", "kernel-too-old")
    native.refuse_system_call(NR_OPEN_TREE, errno.ENOSYS)
    assert cause(source, target, (MAP, MAP)) == ("open_tree", "ENOSYS", "kernel-too-old")
    assert supports_idmap(source)[:3] == (False, "tmpfs", "kernel-too-old")


def of_a_seccomp_profile() -> None:
    _, source, target = own_file_system("tmpfs")
    native.refuse_system_call(NR_MOUNT_SETATTR, errno.EPERM)
    # open_tree_attr() creates the mount, but a step after it is attached fails: the mount is removed again
    assert cause(source, target, (MAP, MAP), quiet=True)[:2] == ("mount_setattr", "EPERM")
    native.refuse_system_call(NR_OPEN_TREE_ATTR, errno.EPERM)
    assert cause(source, target, (MAP, MAP)) == ("mount_setattr", "EPERM", "idmap-refused")


def of_rights_in_the_mount_namespace() -> None:
    _, source, target = own_file_system("tmpfs")
    with create_userns(MAP, MAP) as userns, open_idmapped(source, userns) as detached:
        native.drop_capability(CAP_SYS_ADMIN)
        assert cause(source, target, userns) == ("open_tree", "EPERM", "no-mount-rights")
        assert supports_idmap(source)[:3] == (False, "tmpfs", "no-mount-rights")
        error = failure(detached.attach, target)
        assert (error.step, error.errno, error.cause) == ("move_mount", errno.EPERM, "no-mount-rights")


def of_a_source_or_target_in_another_mount_namespace() -> None:
    _, source, target = own_file_system("tmpfs")
    with UsernsProcess(["sleep", "10"], uid_map="root", gid_map="root", namespaces=("mnt",)) as process:
        elsewhere = f"/proc/{process.pid}/root{source}"
        assert cause(elsewhere, target, (MAP, MAP)) == ("open_tree", "EINVAL", "other-mount-namespace")
        elsewhere = f"/proc/{process.pid}/root{target}"
        assert cause(source, elsewhere, (MAP, MAP)) == ("move_mount", "EINVAL", "other-mount-namespace")
        process.kill()


def of_what_a_less_privileged_mount_namespace_may_not_undo() -> None:
    work, source, target = own_file_system("tmpfs")
    (source / "sub").mkdir()
    run("mount", "-t", "tmpfs", "tmpfs", source / "sub")
    read_only = work / "read-only"
    read_only.mkdir()
    run("mount", "--bind", "-o", "ro,nosuid", source, read_only)
    with UsernsProcess(["sleep", "10"], uid_map="root", gid_map="root", namespaces=("mnt",)) as process:
        with Namespace.of(process, "mnt") as inner:
            inner.enter()
        assert cause(source, target, (MAP, MAP)) == ("open_tree", "EINVAL", "locked-submounts")
        mount = idmapped_mount(source, target, (MAP, MAP), recursive=True)
        assert owners(target / "of-0") == (100000, 100000)
        assert len(mounts_below(target)) == 2
        error = failure(mount.unmount)
        assert (error.step, error.errno, error.cause) == ("umount", errno.EINVAL, "locked-mount")
        mount.unmount(lazy=True)
        assert mounts_below(target) == []
        for attributes in ({"read_only": False}, {"nosuid": False}, {"read_only": False, "noexec": True}):
            refused = cause(read_only, target, (MAP, MAP), **attributes)
            assert refused == ("mount_setattr", "EPERM", "locked-attributes")
        with idmapped_mount(read_only, target, (MAP, MAP), noexec=True, nodev=False):
            assert mounts_below(target)[0].split()[1].startswith("ro,nosuid,noexec")
        process.kill()


def of_source_and_target() -> None:
    work, source, target = own_file_system("tmpfs")
    (work / "file").touch()
    assert cause(source, work / "file", (MAP, MAP)) == ("move_mount", "EINVAL", "type-mismatch")
    assert cause(work / "file", target, (MAP, MAP)) == ("move_mount", "EINVAL", "type-mismatch")
    error = failure(idmapped_mount, work / "nothing", target, (MAP, MAP))
    assert (error.step, error.errno, error.filename) == ("open_tree", errno.ENOENT, str(work / "nothing"))
    error = failure(idmapped_mount, source, work / "file" / "x", (MAP, MAP))
    assert (error.step, error.errno) == ("move_mount", errno.ENOTDIR)
    (work / "loop").symlink_to("loop")
    error = failure(idmapped_mount, work / "loop", target, (MAP, MAP))
    assert (error.step, error.errno) == ("open_tree", errno.ELOOP)
    run("mount", "--make-unbindable", source.parent)
    assert cause(source, target, (MAP, MAP)) == ("open_tree", "EINVAL", "unbindable")


def of_too_many_mounts() -> None:
    work, source, target = own_file_system("tmpfs")
    (work / "many").mkdir()
    native.refuse_system_call(NR_MOVE_MOUNT, errno.ENOSPC)
    assert cause(source, target, (MAP, MAP)) == ("move_mount", "ENOSPC", "mount-max")


def an_unprivileged_user_has_no_rights_to_mount() -> None:
    if os.geteuid() == 0:
        os.setresgid(65533, 65533, 65533)
        os.setresuid(65533, 65533, 65533)
        native.prctl(native.PR_SET_DUMPABLE, 1)
    with create_userns("root", "root") as userns:
        calls: list[Callable[[], object]] = [
            lambda: idmapped_mount("/usr", "/mnt", userns),
            lambda: open_idmapped("/usr", userns),
        ]
        for call in calls:
            try:
                call()
            except PermissionError as error:
                assert isinstance(error, UsernsError)
                assert (error.step, error.errno, error.cause) == ("open_tree", errno.EPERM, "no-mount-rights")
            else:
                raise AssertionError("it was mounted")
    answer = supports_idmap("/usr")
    assert not answer
    assert answer.cause == "no-mount-rights"


def with_no_descriptor_left_to_look_with_the_refusal_itself_is_reported() -> None:
    _, _, target = own_file_system("tmpfs")
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    seen = []
    with create_userns(MAP, MAP) as userns:
        for more in range(1, 24):
            highest = max(int(fd) for fd in descriptors())
            resource.setrlimit(resource.RLIMIT_NOFILE, (highest + more, limits[1]))
            try:
                idmapped_mount("/proc", target, userns)
            except OSError as error:
                seen.append((errno.errorcode[error.errno or 0], getattr(error, "cause", "plain")))
            resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    assert len(seen) == 23
    assert set(seen) <= {("EMFILE", "open-files-limit"), ("EINVAL", None), ("EINVAL", "no-idmap-support")}, seen
    assert ("EINVAL", None) in seen, seen
    assert seen[-1] == ("EINVAL", "no-idmap-support"), seen


def without_proc() -> None:
    work, source, target = own_file_system("tmpfs")
    with create_userns(MAP, MAP) as userns:
        before = mounts_below(work)
        close_kept()
        run("mount", "-t", "tmpfs", "tmpfs", "/proc")
        try:
            idmapped_mount(source, target, userns)
        except UsernsError as error:
            found = error
        run("umount", "/proc")
        assert (found.step, found.errno, found.cause) == ("open_proc", errno.ENOENT, "no-proc")
        assert mounts_below(work) == before
