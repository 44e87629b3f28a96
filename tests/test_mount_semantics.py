"""Files seen through an idmapped mount, as the xfstests program vfstest has it: rights follow the owners seen."""

from __future__ import annotations

from collections.abc import Callable
from textwrap import dedent

import pytest

pytestmark = [pytest.mark.root, pytest.mark.kernel("5.12")]

Script = Callable[..., str]

PREPARE = """
    import errno, stat, struct, sys
    import native
    from mounting import *
    from usernsproc import Namespace, create_userns, idmapped_mount
    work = own_mount_namespace()
    source, target, second = make_file_system(sys.argv[1], work), work / "target", work / "second"
    target.mkdir(), second.mkdir()
    A, B, UNMAPPED = 100001, 100002, 5  # ids as seen; on the disk 1 and 2
    mount = idmapped_mount(source, target, (MAP, MAP))
"""
FINISH = """
    mount.unmount()
"""


@pytest.fixture(params=["ext4", pytest.param("tmpfs", marks=pytest.mark.kernel("6.3"))])
def mounting(script: Script, request: pytest.FixtureRequest) -> Script:
    return lambda source: script(dedent(PREPARE) + dedent(source) + dedent(FINISH), request.param)


def test_fsids_mapped_and_unmapped(mounting: Script) -> None:
    """A mapped id can create anything, an unmapped one nothing, not even as root."""
    mounting("""
        makers = {
            "file": lambda path: open(path, "x").close(),
            "directory": os.mkdir,
            "symlink": lambda path: os.symlink("anywhere", path),
            "fifo": os.mkfifo,
        }
        for name, make in makers.items():
            assert errno_as(A, lambda: make(target / name)) == 0
            assert owners(target / name) == (A, A) and owners(source / name) == (1, 1)
            assert errno_as(UNMAPPED, lambda: make(target / f"{name}-2")) == errno.EOVERFLOW
            assert errno_as(0, lambda: make(target / f"{name}-2")) == errno.EOVERFLOW
            assert not (source / f"{name}-2").exists()
    """)


def test_chown(mounting: Script) -> None:
    """Ids that are seen are written to the disk shifted; others are refused."""
    mounting("""
        os.chown(target / "of-0", A, B)
        assert owners(source / "of-0") == (1, 2)
        for ids in ((UNMAPPED, -1), (-1, UNMAPPED), (200000, -1)):
            try:
                os.chown(target / "of-0", *ids)
            except OSError as error:
                assert error.errno == errno.EOVERFLOW
            else:
                raise AssertionError(ids)
        assert owners(source / "of-0") == (1, 2)
        assert errno_as(A, lambda: os.chown(target / "of-0", B, -1)) == errno.EPERM
    """)


def test_hardlink_and_rename_crossing(mounting: Script) -> None:
    """Two mounts of a file system are two mounts."""
    mounting("""
        with idmapped_mount(source, second, ("0:200000:1001", "0:200000:1001")):
            for function in (os.link, os.rename):
                for pair in ((target, second), (target, source), (source, target)):
                    try:
                        function(pair[0] / "of-0", pair[1] / "elsewhere")
                    except OSError as error:
                        assert error.errno == errno.EXDEV
                    else:
                        raise AssertionError(pair)
    """)


def test_hardlink_from_rename_from_and_truncate(mounting: Script) -> None:
    """In one mount they are allowed to the owner that is seen, and not to the one on the disk."""
    mounting("""
        assert create_as(A, target / "file") == 0
        (target / "file").chmod(0o600)
        for uid, expected in ((A, 0), (B, errno.EACCES), (1, errno.EACCES)):
            assert errno_as(uid, lambda: os.truncate(target / "file", 3)) == expected
        assert errno_as(A, lambda: os.link(target / "file", target / "link")) == 0
        assert errno_as(A, lambda: os.rename(target / "file", target / "renamed")) == 0
        assert owners(source / "renamed") == owners(source / "link") == (1, 1)
        assert (source / "renamed").stat().st_nlink == 2
    """)


def test_sticky_bit(mounting: Script) -> None:
    mounting("""
        (source / "sticky").mkdir()
        (source / "sticky").chmod(0o1777)
        directory = target / "sticky"
        assert create_as(A, directory / "file") == 0
        for uid in (B, 1):
            assert errno_as(uid, lambda: os.unlink(directory / "file")) == errno.EPERM
            assert errno_as(uid, lambda: os.rename(directory / "file", directory / "x")) == errno.EPERM
        assert errno_as(A, lambda: os.rename(directory / "file", directory / "x")) == 0
        assert errno_as(A, lambda: os.unlink(directory / "x")) == 0
    """)


def test_setgid_create(mounting: Script) -> None:
    """A directory's group goes to what is created in it."""
    mounting("""
        (source / "group").mkdir()
        os.chown(source / "group", 0, 2)
        (source / "group").chmod(0o2777)
        assert create_as(A, target / "group" / "file") == 0
        assert errno_as(A, lambda: os.mkdir(target / "group" / "directory")) == 0
        assert owners(source / "group" / "file") == (1, 2) and owners(target / "group" / "file") == (A, B)
        assert (source / "group" / "directory").stat().st_mode & stat.S_ISGID
    """)


def test_acls(mounting: Script) -> None:
    """The ids in them are shifted as well."""
    mounting("""
        USER_OBJ, USER, GROUP_OBJ, MASK, OTHER = 1, 2, 4, 16, 32
        NOBODY = 0xFFFFFFFF
        NAME = "system.posix_acl_access"
        def acl(uid):
            rest = [(GROUP_OBJ, 0, NOBODY), (MASK, 4, NOBODY), (OTHER, 0, NOBODY)]
            entries = [(USER_OBJ, 6, NOBODY), (USER, 4, uid), *rest]
            return struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *entry) for entry in entries)
        os.setxattr(target / "of-0", NAME, acl(B))
        assert os.getxattr(source / "of-0", NAME) == acl(2)
        assert os.getxattr(target / "of-0", NAME) == acl(B)
        assert errno_as(B, lambda: open(target / "of-0").read()) == 0
        assert errno_as(A, lambda: open(target / "of-0").read()) == errno.EACCES
        try:
            os.setxattr(target / "of-0", NAME, acl(UNMAPPED))
        except OSError as error:
            assert error.errno == errno.EINVAL
        else:
            raise AssertionError
    """)


def test_fscaps_and_setid_binaries_give_no_rights_of_the_host(mounting: Script) -> None:
    """File capabilities and set-user-id root, on the disk, are those of the shifted root."""
    mounting("""
        import shutil
        shutil.copy("/bin/cat", source / "cat")
        NET_RAW, EFFECTIVE, REVISION_2 = 1 << 13, 1, 0x02000000
        os.setxattr(source / "cat", "security.capability", struct.pack("<5I", REVISION_2 | EFFECTIVE, NET_RAW, 0, 0, 0))
        (source / "cat").chmod(0o755)

        def status(program, uid):
            read, write = os.pipe()
            pid = os.fork()
            if pid == 0:
                os.dup2(write, 1)
                os.setgroups([]), os.setresgid(uid, uid, uid), os.setresuid(uid, uid, uid)
                os.execv(program, ["cat", "/proc/self/status"])
            os.close(write), os.waitpid(pid, 0)
            with open(read) as file:
                lines = dict(line.split(":\\t", 1) for line in file.read().splitlines())
            return int(lines["CapEff"], 16), lines["Uid"].split()[1]

        assert status(source / "cat", 1000) == (NET_RAW, "1000")
        assert status(target / "cat", 101000) == (0, "101000")
        os.removexattr(source / "cat", "security.capability")
        (source / "cat").chmod(0o4755)
        assert status(source / "cat", 1000)[1] == "0"
        assert status(target / "cat", 101000) == (0, "100000")
    """)


def test_device_node_in_userns(mounting: Script) -> None:
    """Its root owns what is seen, and still makes no device."""
    mounting("""
        with create_userns(MAP, MAP) as userns:
            pid = os.fork()
            if pid == 0:
                userns.enter()
                os.setgid(0), os.setuid(0)
                try:
                    os.mknod(target / "null", 0o666 | stat.S_IFCHR, os.makedev(1, 3))
                except OSError as error:
                    os._exit(error.errno)
                os._exit(0)
            assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == errno.EPERM
    """)


def test_nested_userns(mounting: Script) -> None:
    """The maps of a namespace within a namespace are taken as the kernel sees them."""
    mounting("""
        import socket
        ours, theirs = socket.socketpair()
        with create_userns(MAP, MAP) as outer:
            pid = os.fork()
            if pid == 0:
                native.prctl(native.PR_SET_PDEATHSIG, 9)
                outer.enter()
                os.setgid(0), os.setuid(0)
                native.prctl(native.PR_SET_DUMPABLE, 1)
                with create_userns("0:1000:500", "0:1000:500") as inner:
                    socket.send_fds(theirs, [b"."], [inner.fileno()])
                os._exit(0)
            assert os.waitpid(pid, 0)[1] == 0
        _, [fd], _, _ = socket.recv_fds(ours, 1, 1)
        with Namespace(fd) as inner, idmapped_mount(source, second, inner) as nested:
            assert owners(second / "of-0") == (101000, 101000)
            assert tells(nested, "0:101000:500")
    """)


def test_a_circular_mapping(mounting: Script) -> None:
    """Two ids that change places."""
    mounting("""
        swap = "0:1000:1,1000:0:1"
        with idmapped_mount(source, second, (swap, swap)):
            assert owners(second / "of-0") == (1000, 1000) and owners(second / "of-1000") == (0, 0)
            os.chown(second / "of-0", 0, 0)
            assert owners(source / "of-0") == (1000, 1000)
            assert create_as(1000, second / "new") == 0
            assert owners(source / "new") == (0, 0) and owners(second / "new") == (1000, 1000)
    """)
