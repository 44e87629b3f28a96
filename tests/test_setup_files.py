"""Set-up steps for files and mounts, seen by the command."""

from __future__ import annotations

import errno
import os
import pickle
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from alone import run_alone
from commands import output
from programs import setup_files
from programs.setup_files import DEVICES, HOST, SHELL, look
from unprivileged import as_unprivileged_user

from usernsproc import UsernsError, UsernsProcess
from usernsproc._setup import tree
from usernsproc.setup import (
    Bind,
    Chroot,
    Dir,
    File,
    Mask,
    Overlay,
    Proc,
    Remount,
    Root,
    Symlink,
    Tmpfs,
    Unmount,
)

ROOTED: dict[str, Any] = {"uid_map": "root", "gid_map": "root"}
OWN_USERNS = pytest.param("own", marks=pytest.mark.root)
"""No new user namespace: the mount namespace belongs to the caller's."""


@pytest.fixture
def folder() -> Iterator[Path]:
    """In memory or on disk, as `TMPDIR` says; other users can enter it."""
    with tempfile.TemporaryDirectory() as path:
        Path(path).chmod(0o755)
        yield Path(path)


@pytest.fixture(params=["new", "joined", OWN_USERNS])
def where(request: pytest.FixtureRequest) -> Iterator[dict[str, Any]]:
    """The user namespace of the command."""
    if request.param == "new":
        yield ROOTED
    elif request.param == "own":
        yield {"uid_map": None, "gid_map": None, "join": "/proc/self/ns/user"}
    else:
        with UsernsProcess(**ROOTED) as holder:
            yield {"uid_map": None, "gid_map": None, "join": f"/proc/{holder.pid}/ns/user"}


def failure(*steps: Any, **options: Any) -> UsernsError:
    marker = File("/ran", "")
    with pytest.raises(UsernsError) as raised:
        look("true", *steps, marker, **options)
    return raised.value


# ---- Dir ----


def test_a_directory_has_its_mode_and_those_above_it_too(where: dict[str, Any]) -> None:
    assert look("stat -c %a /a /a/b /a/b/c", Dir("/a/b/c", 0o1770), **where).split() == ["755", "755", "1770"]


def test_an_existing_directory_keeps_its_mode() -> None:
    assert look("stat -c %a /a", Dir("/a", 0o700), Dir("/a", 0o755)) == "700\n"


def test_a_file_is_not_taken_for_a_directory() -> None:
    error = failure(File("/a", "x"), Dir("/a"))
    assert (error.errno, error.step, error.call, error.filename) == (errno.ENOTDIR, "Dir", "openat2", "/a")


# ---- Symlink ----


@pytest.mark.parametrize("to", ["usr/bin", "/absolute/and missing", "../../up", "ü"])
def test_a_link_has_its_text(to: str, where: dict[str, Any]) -> None:
    assert look("readlink /deep/er/link", Symlink(to, "/deep/er/link"), **where) == f"{to}\n"


@pytest.mark.parametrize("other", [Dir("/a"), File("/a", "ab"), *(Symlink(to, "/a") for to in ("aa", "a", "abb", "/"))])
def test_a_link_where_something_else_is(other: Any) -> None:
    error = failure(other, Symlink("ab", "/a"))
    assert (error.errno, error.step, error.filename, error.call) == (errno.EEXIST, "Symlink", "/a", "is_equal")


def test_a_link_that_exists_stays() -> None:
    assert look("readlink /a", Symlink("../to", "/a"), Symlink("../to", "/a")) == "../to\n"


def test_a_link_leads_nowhere_outside(folder: Path) -> None:
    """Later steps follow it inside the root of the command."""
    (folder / "outside").mkdir()
    steps = [Symlink(str(folder / "outside"), "/link"), Dir(str(folder / "outside")), File("/link/made", "x")]
    assert look(f"cat {folder}/outside/made", *steps) == "x"
    assert list((folder / "outside").iterdir()) == []


# ---- File ----


@pytest.mark.parametrize("data", ["", "text ü\n", b"\0\xff" * 3, bytearray(b"b"), b"x" * 300_000])
@pytest.mark.parametrize("kind", [{}, {"cover": True}, {"read_only": True}])
def test_a_file_has_its_content(data: Any, kind: dict[str, bool], where: dict[str, Any]) -> None:
    whole = data.encode() if isinstance(data, str) else bytes(data)
    found = look("od -An -v -tx1 /d/f; stat -c %a /d/f", File("/d/f", data, 0o640, **kind), **where)
    *content, mode = found.split()
    assert bytes.fromhex("".join(content)) == whole
    assert mode == "640"


def test_a_file_from_a_descriptor(folder: Path) -> None:
    (folder / "data").write_bytes(b"0123456789" * 20_000)
    with (folder / "data").open("rb", buffering=0) as file:
        file.seek(5)
        assert look("wc -c < /f", File("/f", file.fileno())) == f"{200_000 - 5}\n"
    read_end, write_end = os.pipe()
    os.write(write_end, b"piped")
    os.close(write_end)
    assert look("cat /f", File("/f", read_end)) == "piped"
    os.close(read_end)


def test_a_descriptor_that_is_closed() -> None:
    with pytest.raises(ValueError, match=r"setup\[\d+\]: File.*descriptor 999999 cannot be read: Bad file descriptor"):
        look("true", File("/f", 999_999))


def test_a_file_where_something_is() -> None:
    error = failure(Dir("/d"), File("/d", "x"))
    assert (error.errno, error.step, error.call, error.filename) == (errno.EEXIST, "File", "openat", "/d")


def test_a_file_does_not_follow_a_link() -> None:
    error = failure(Symlink("/elsewhere", "/f"), File("/f", "x"))
    assert error.errno == errno.EEXIST


@pytest.mark.parametrize("read_only", [False, True])
def test_a_covering_file_leaves_what_it_covers(folder: Path, read_only: bool, where: dict[str, Any]) -> None:
    (folder / "f").write_text("below")
    script = "cat /d/f; (echo more >> /d/f) 2>/dev/null && echo written; cat /d/f"
    cover = File("/d/f", "over", cover=True, read_only=read_only)
    found = look(f"set +e; {script}", Bind(folder, "/d"), cover, **where)
    assert found == ("overover" if read_only else "overwritten\novermore\n")
    assert (folder / "f").read_text() == "below"


def test_a_read_only_file_is_not_writable_by_any_way() -> None:
    script = (
        "set +e; for c in 'chmod 777' 'touch' 'truncate -s 0' 'rm -f'; do $c /f 2>/dev/null && echo $c; done; cat /f"
    )
    assert look(script, File("/f", "x", 0o666, True)) == "x"


# ---- Mask ----


def test_a_mask_has_the_kind_of_what_it_covers(folder: Path, where: dict[str, Any]) -> None:
    (folder / "inner").mkdir()
    (folder / "inner" / "secret").touch()
    (folder / "secret").write_text("secret")
    os.mkfifo(folder / "pipe")
    script = (
        "set +e; stat -c '%F %n' /d/*; ls -A /d/inner; cat /d/secret /d/pipe; "
        "for f in /d/secret /d/pipe /d/inner/x; do (echo > $f) 2>/dev/null && echo written; done; true"
    )
    masks = [Mask("/d/inner"), Mask("/d/secret"), Mask("/d/pipe")]
    assert look(script, Bind(folder, "/d"), *masks, **where).splitlines() == [
        "directory /d/inner",
        "regular empty file /d/pipe",
        "regular empty file /d/secret",
    ]
    assert (folder / "secret").read_text() == "secret"


def test_a_mask_covers_what_a_link_leads_to() -> None:
    assert look("cat /l /f", File("/f", "secret"), Symlink("/f", "/l"), Mask("/l")) == ""


def test_a_mask_of_what_is_missing() -> None:
    assert failure(Mask("/missing")).errno == errno.ENOENT
    assert look("ls -d /missing || true", Mask("/missing", missing_ok=True)) == ""


@pytest.mark.parametrize("path", ["/proc/sys", "/proc/keys", "/proc/irq"])
def test_a_mask_in_a_fresh_proc(path: str) -> None:
    with_pid: dict[str, Any] = {"namespaces": ["pid"], "init": True}
    assert look(f"ls {path}; cat {path} 2>/dev/null || true", Proc(), Mask(path), **with_pid).strip() in ("", path)


def test_masks_over_masks() -> None:
    assert look("ls -A /d", Tmpfs("/d"), Dir("/d/e"), Mask("/d/e"), Mask("/d/e"), Mask("/d")) == ""


# ---- Overlay ----


@pytest.fixture
def layers(folder: Path) -> tuple[Path, Path]:
    low, high = folder / "low", folder / "a,b:c\\d"
    for layer, names in ((low, ("low", "both")), (high, ("high", "both"))):
        layer.mkdir()
        for name in names:
            (layer / name).write_text(f"{layer.name}\n")
    return low, high


def contents(folder: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in folder.iterdir()}


@pytest.mark.kernel("5.11")
@pytest.mark.parametrize("upper", [None, "tmpfs"])
def test_an_overlay_of_two(layers: tuple[Path, Path], upper: str | None, where: dict[str, Any]) -> None:
    before = [contents(layer) for layer in layers]
    low, high = layers
    script = "cd /o; cat both high low; rm both; echo x > new; ls; (exec 2>&1; mv low lower); cat lower; true"
    found = look(f"set +e; exec 2>/dev/null; {script}", Overlay("/o", (high, low), upper), **where)
    assert found.startswith(f"{high.name}\n{high.name}\nlow\n")
    if upper is None:
        assert found.endswith("both\nhigh\nlow\nmv: cannot move 'low' to 'lower': Read-only file system\n")
    else:
        assert found.endswith("high\nlow\nnew\nlow\n")
    assert [contents(layer) for layer in layers] == before


@pytest.mark.kernel("5.11")
def test_an_overlay_of_one_that_is_read_only(layers: tuple[Path, Path]) -> None:
    assert look("cat /o/low; (echo > /o/low) 2>/dev/null || echo refused", Overlay("/o", layers[0])) == "low\nrefused\n"


@pytest.mark.kernel("5.11")
def test_an_overlay_keeps_its_changes_in_its_upper_directory(layers: tuple[Path, Path], folder: Path) -> None:
    names = ("up\\per", "work")
    for name in names:
        (folder / name).mkdir()
    overlay = Overlay("/o", layers[0], folder / names[0], folder / names[1])
    look("echo changed > /o/low; mkdir -p /o/sub; rm -r /o/sub", overlay)
    assert contents(folder / "up\\per") == {"low": "changed\n"}
    assert look("cat /o/low", overlay) == "changed\n"
    assert (layers[0] / "low").read_text() == "low\n"
    look("true", Dir("/x"))
    for path in (folder / "work").rglob("*"):
        path.chmod(0o700)


@pytest.mark.kernel("5.11")
def test_an_overlay_in_the_tree_of_the_caller(layers: tuple[Path, Path]) -> None:
    """Over one of its own layers, and on a relative path."""
    over = Overlay(layers[0], os.path.relpath(layers[0]), "tmpfs")
    options: dict[str, Any] = {**ROOTED, "namespaces": ["mnt"], "setup": [over]}
    assert (
        output([*SHELL, f"cd {layers[0]}; echo new > new; cat new low; ls"], **options) == "new\nlow\nboth\nlow\nnew\n"
    )
    assert contents(layers[0]) == {"low": "low\n", "both": "low\n"}


@pytest.mark.kernel("5.11")
def test_an_overlay_that_the_kernel_refuses(layers: tuple[Path, Path], folder: Path) -> None:
    missing = failure(Overlay("/o", folder / "none"))
    assert (missing.errno, missing.step, missing.call) == (errno.ENOENT, "Overlay", "open_tree")
    assert missing.filename == str(folder / "none")
    inner = failure(Overlay("/o", layers[0], folder / "none", folder / "work"))
    assert (inner.errno, inner.call, inner.filename) == (errno.ENOENT, "fsconfig", "/o")


# ---- Remount, Unmount ----


def test_a_mount_becomes_read_only_and_writable_again(where: dict[str, Any]) -> None:
    steps: list[Any] = [Tmpfs("/a"), Tmpfs("/a/b"), Tmpfs("/c"), Tmpfs("/c/d")]
    steps += [Remount("/a"), Remount("/c", recursive=True), Remount("/c/d", read_only=False)]
    script = "for d in /a /a/b /c /c/d; do (: > $d/x) 2>/dev/null && echo $d; done; true"
    assert look(script, *steps, **where).split() == ["/a/b", "/c/d"]


def test_a_root_that_becomes_read_only() -> None:
    script = "(: > /x) 2>/dev/null || echo refused; : > /tmp/x"
    assert look(script, Tmpfs("/tmp"), Remount("/")) == "refused\n"


def test_what_is_not_a_mount_point_cannot_be_remounted() -> None:
    error = failure(Dir("/a"), Remount("/a"))
    assert (error.step, error.call, error.filename) == ("Remount", "mount_setattr", "/a")
    assert error.errno == (errno.EINVAL if tree.has_mount_setattr() else errno.ENOSYS)


def test_an_unmounted_file_system_is_gone(where: dict[str, Any]) -> None:
    steps = [Tmpfs("/a"), Dir("/a/b"), Unmount("/a", lazy=True), Dir("/a/c")]
    assert look("ls /a; pwd", *steps, **where) == "c\n/\n"


@pytest.mark.root
def test_a_mount_of_the_caller_can_be_unmounted_without_a_new_user_namespace(folder: Path) -> None:
    steps: list[Any] = [Tmpfs(folder), Unmount(folder, lazy=True), File(folder / "f", "made", read_only=True)]
    options: dict[str, Any] = {"join": "/proc/self/ns/user", "namespaces": ["mnt"]}
    assert output([*SHELL, f"cat {folder}/f"], setup=steps, **options) == "made"


def test_unmounting_what_is_not_a_mount_point() -> None:
    error = failure(Dir("/a"), Unmount("/a"))
    assert (error.errno, error.step, error.call, error.filename) == (errno.EINVAL, "Unmount", "umount2", "/a")
    assert error.cause == "not-mounted"


# ---- Chroot ----


def test_a_chroot_needs_no_mount_namespace(folder: Path) -> None:
    script = "pwd; ls -A /; cat /made"
    (folder / "usr").symlink_to("/usr")
    options: dict[str, Any] = {**ROOTED, "setup": [Chroot("/usr"), Chroot("/")]}
    assert output([*SHELL, "pwd; test -d /share; test ! -e /etc/passwd"], **options) == "/\n"
    assert look(script, Tmpfs("/new"), *inside_new(), Chroot("/new"), File("/made", "x")).splitlines()[-1] == "x"


def inside_new() -> list[Any]:
    return [Bind(step.source, f"/new{step.target}", read_only=True) for step in HOST]


def test_a_chroot_to_what_is_not_a_directory() -> None:
    error = failure(File("/f", "x"), Chroot("/f"))
    assert (error.errno, error.step, error.filename) == (errno.ENOTDIR, "Chroot", "/f")


# ---- where, and whose ----


MAPS: dict[str, dict[str, Any]] = {
    "current": {"uid_map": "current", "gid_map": "current"},
    "root": ROOTED,
}
NEEDS_ROOT = {"shifted": {"uid_map": "0:100000:65536", "gid_map": "0:100000:65536"}}
NEEDS_SUBIDS = {"subids": {"uid_map": "subids", "gid_map": "subids"}, "rootless": {"uid_map": "rootless"}}
MADE = ["/d 755", "/d/e 750", "/l 777", "/f 604", "/cover 640", "/tmp 755", "/o/made 644"]


def assert_owners(printed: str, uid: int, gid: int) -> None:
    assert re.findall(r"(\S+) \S+ (\d+)", printed) == [tuple(line.split()) for line in MADE]
    assert {line.split()[1] for line in printed.splitlines()} == {f"{uid}:{gid}"}


@pytest.mark.kernel("5.11")
@pytest.mark.parametrize("maps", MAPS)
def test_files_belong_to_the_caller(maps: str, folder: Path) -> None:
    uid, gid = (0, 0) if maps == "root" else (os.geteuid(), os.getegid())
    assert_owners(run_alone(setup_files.owners_inside, MAPS[maps], str(folder)), uid, gid)


@pytest.mark.root
@pytest.mark.kernel("5.11")
def test_files_belong_to_an_id_that_is_mapped(folder: Path) -> None:
    assert_owners(run_alone(setup_files.owners_inside, NEEDS_ROOT["shifted"], str(folder)), 0, 0)


@pytest.mark.kernel("5.11")
@pytest.mark.parametrize("maps", NEEDS_SUBIDS)
def test_files_belong_to_a_subordinate_id(maps: str, folder: Path) -> None:
    assert_owners(as_unprivileged_user(setup_files.owners_inside, NEEDS_SUBIDS[maps], str(folder)), 0, 0)


@pytest.mark.parametrize("umask", [0o000, 0o077, 0o777])
def test_the_umask_and_the_directory_of_the_caller(umask: int, folder: Path) -> None:
    (folder / "inner").mkdir()
    (folder / "inner" / "name").write_text("found\n")
    found = run_alone(setup_files.with_umask_and_directory, umask, str(folder)).split()
    assert found == ["755", "755", "666", f"{umask:04o}", "/", "found"]


def test_without_a_root_the_command_starts_where_the_caller_is(folder: Path) -> None:
    assert run_alone(setup_files.cwd_without_a_root, str(folder), ["a", "b"]) == f"{folder}\nab"


# ---- values, and what is refused ----


WRONG = [
    (lambda: Dir("a"), r"Dir: path is an absolute path"),
    (lambda: Dir("/"), r"Dir: path is the root directory"),
    (lambda: Dir("/a/../b"), r"Dir: path leads upwards"),
    (lambda: Dir("/a", 0o10000), r"Dir: mode is a number from 0 to 4095"),
    (lambda: Symlink("", "/a"), r"Symlink: to is an empty text"),
    (lambda: Symlink("a\0", "/a"), r"Symlink: to contains a null byte"),
    (lambda: File("/f", -1), r"File: data is a number from 0"),
    (lambda: Mask("/"), r"Mask: path is the root directory"),
    (lambda: Unmount("/"), r"Unmount: path is the root directory"),
    (lambda: Overlay("/o", ()), r"Overlay: lower is empty"),
    (lambda: Overlay("/o", ""), r"Overlay: source is an empty path"),
    (lambda: Overlay("/o", "/a", "/b"), r"Overlay: a directory as upper needs work"),
    (lambda: Overlay("/o", "/a", "tmpfs", "/w"), r"Overlay: work is for a directory as upper"),
    (lambda: Overlay("/o", "/a", work="/w"), r"Overlay: work is for a directory as upper"),
]


@pytest.mark.parametrize(("make", "rule"), WRONG)
def test_a_wrong_value_is_refused(make: Any, rule: str) -> None:
    with pytest.raises(ValueError, match=rule):
        make()


STEPS: list[Any] = [
    Dir("/d", 0o700),
    Symlink("to", "/l"),
    File("/f", b"x", 0o600, True),
    File("/f", cover=True),
    Mask("/m", missing_ok=True),
    Overlay("/o", ["/a", "/b"], "/u", "/w"),
    Remount("/r", read_only=False, recursive=True),
    Unmount("/u", True),
    Chroot("/c"),
]


@pytest.mark.parametrize("step", STEPS, ids=repr)
def test_a_step_is_a_value(step: Any) -> None:
    assert eval(repr(step)) == step == pickle.loads(pickle.dumps(step))
    assert hash(step) == hash(eval(repr(step)))
    with pytest.raises(AttributeError, match="cannot be changed"):
        step.path = "/other"


@pytest.mark.parametrize(
    "step", [Mask("/m"), Overlay("/o", "/a"), Remount("/r"), Unmount("/u"), File("/f", "x", read_only=True)], ids=repr
)
def test_a_mount_needs_a_mount_namespace(step: Any) -> None:
    with pytest.raises(ValueError, match=rf'setup\[1\]: {step.__class__.__name__}.*namespaces=\("mnt",\)'):
        UsernsProcess(["/bin/true"], setup=[Dir("/tmp"), step], **ROOTED)


@pytest.mark.parametrize("step", [Mask("/m"), Overlay("/o", "/a"), File("/f", "x", cover=True)], ids=repr)
@pytest.mark.parametrize("propagation", ["shared", "unchanged"])
def test_what_is_put_together_must_not_spread(step: Any, propagation: str) -> None:
    with pytest.raises(ValueError, match=r"setup\[0\]: .* mounts have to be private"):
        UsernsProcess(["/bin/true"], setup=[step], namespaces=["mnt"], propagation=propagation, **ROOTED)


def test_the_root_comes_first_whatever_its_place() -> None:
    steps = [File("/f", "x"), *HOST, Root("tmpfs")]
    assert output([*SHELL, "cat /f"], setup=steps, **ROOTED) == "x"


# ---- a root that is prepared once ----


@pytest.fixture(scope="module")
def box() -> Iterator[UsernsProcess[bytes]]:
    steps = [Root("tmpfs"), *HOST, DEVICES, Tmpfs("/tmp"), File("/prepared", "once\n", read_only=True)]
    with UsernsProcess(setup=steps, namespaces=["net", "uts", "pid"], **ROOTED) as holder:
        yield holder


def identities(process: Any, *kinds: str) -> list[int]:
    found = []
    for kind in kinds:
        with process.namespace(kind) as namespace:
            found.append(namespace.inode)
    return found


KINDS = ("user", "mnt", "net", "pid", "uts")


@pytest.mark.parametrize("chosen", [("user", "mnt", "net"), ["mnt", "user"], {"user", "mnt", "net", "uts"}])
def test_a_command_takes_chosen_namespaces_of_a_holder(box: UsernsProcess[bytes], chosen: Any) -> None:
    with UsernsProcess(["/bin/sleep", "1000"], join=[(box, chosen)], namespaces=["pid"], init=True) as command:
        pairs = zip(KINDS, identities(box, *KINDS), identities(command, *KINDS), strict=True)
        assert {kind for kind, one, other in pairs if one == other} == set(chosen)
        command.kill()


def test_each_command_has_a_pid_namespace_of_its_own_in_the_prepared_root(box: UsernsProcess[bytes]) -> None:
    options: dict[str, Any] = {"join": [(box, ("user", "mnt"))], "namespaces": ["pid"]}
    for _ in range(2):
        assert output([*SHELL, "echo $$; cat /prepared; pwd; ls -d /etc"], **options) == "1\nonce\n/\n/etc\n"
    assert output([*SHELL, "cat /prepared"], join=box) == "once\n"
    assert run_alone(setup_files.enter_a_prepared_root, box.pid) == "once\n/\n"


def test_the_steps_of_a_command_in_a_prepared_root_are_its_own(box: UsernsProcess[bytes]) -> None:
    """With a mount namespace below; without one, the holder's tree is changed."""
    own: dict[str, Any] = {"join": [(box, ("user", "mnt"))], "namespaces": ["mnt"]}
    steps = [Tmpfs("/tmp"), File("/tmp/own", "x"), Mask("/prepared")]
    assert output([*SHELL, "ls /tmp; cat /prepared"], setup=steps, **own) == "own\n"
    assert output([*SHELL, "ls /tmp; cat /prepared"], join=box) == "once\n"
    assert output([*SHELL, "ls /tmp"], join=box, setup=[File("/tmp/all", "x")]) == "all\n"
    assert output([*SHELL, "ls /tmp; rm /tmp/all"], join=box) == "all\n"


def test_chosen_kinds_that_cannot_be_joined(box: UsernsProcess[bytes]) -> None:
    refused: list[tuple[Any, type[Exception], str]] = [
        ([(box, ("ipc",))], ValueError, r"shares its ipc namespace with the calling one"),
        ([(box, ("mnd",))], ValueError, r"'mnd' is not a kind of namespace"),
        ([(box, ())], ValueError, r"no kinds of the process .* are chosen"),
        ([(box, "mnt")], TypeError, r"are several, by name, not 'mnt'"),
        ([(box, 3)], TypeError, r"are several, by name, not 3"),
        ([("/proc/self/ns/user", ("user",))], TypeError, r"kinds are chosen of a process, not of '/proc"),
        ([(box, ("mnt",), 3)], TypeError, r"join takes namespaces"),
    ]
    for join, kind, rule in refused:
        with pytest.raises(kind, match=rule):
            UsernsProcess(["/bin/true"], join=join)
    with box.namespace() as namespace, pytest.raises(TypeError, match="chosen of a process, not of <Namespace"):
        UsernsProcess(["/bin/true"], join=[(namespace, ("user",))])


# ---- read-only, on every mount ----

WAYS = ("mount_setattr", "before 5.12")
"""The way of old kernels works on new ones, too; on an old one, both are that one."""
TREE = ["refused: /there/deep/er/new", "refused: /there/deep/new", "refused: /there/file", "refused: /there/new"]


@pytest.mark.parametrize("own", [True, False])
@pytest.mark.parametrize("way", WAYS)
def test_a_read_only_bind_is_so_with_each_mount_below(way: str, folder: Path, own: bool) -> None:
    where = {"uid_map": None, "gid_map": None, "join": "/proc/self/ns/user"} if own else ROOTED
    printed = run_alone(setup_files.write_to_each_mount, way, str(folder), where)
    assert printed.splitlines() == [*TREE, "refused: /there/with blank/new", "nodev,nosuid"]


@pytest.mark.parametrize("way", WAYS)
def test_mounts_of_the_list_are_remounted(way: str, where: dict[str, Any]) -> None:
    assert run_alone(setup_files.remount_what_the_list_makes, way, where).split() == ["/a/b", "/c/d", "/c/d:nosuid"]


@pytest.mark.parametrize("propagation", [None, "private", "slave"])
@pytest.mark.parametrize("way", WAYS)
def test_a_mount_that_comes_meanwhile_is_not_left_writable(way: str, propagation: str | None, folder: Path) -> None:
    """It does not arrive, or it is read-only as well; before Linux 5.12, it is an error if it arrives."""
    printed = run_alone(setup_files.mount_below_a_source_meanwhile, way, propagation, str(folder))
    is_old = way != WAYS[0] or not tree.has_mount_setattr()
    assert printed.split() == (
        ["EAGAIN", "Bind", "mounts-changed"] if is_old and propagation == "slave" else ["refused"]
    )


# ---- a mount on the root directory ----


def test_a_mount_on_the_root_directory_becomes_it(where: dict[str, Any]) -> None:
    """Later steps work in it, and the one before cannot be reached."""
    steps = [Dir("/hidden"), Bind("/", "/", dev=True), Tmpfs("/tmp"), File("/tmp/a", "a")]
    assert look("test ! -e /hidden; test ! -e /tmp/../../hidden; cat /tmp/a; pwd", *steps, **where) == "a/\n"


def test_a_mount_on_the_root_directory_without_a_new_one(where: dict[str, Any]) -> None:
    shown = output(["sh", "-c", "cat /a; pwd"], setup=[Tmpfs("/"), *HOST, File("/a", "a")], namespaces=["mnt"], **where)
    assert shown == "a/\n"


def test_a_source_that_may_be_missing_cannot_be_the_root_directory() -> None:
    with pytest.raises(ValueError, match="the root directory cannot be missing"):
        UsernsProcess(["true"], setup=[Root("tmpfs"), Bind("/none", "/", missing_ok=True)], uid_map="root")


def test_no_descriptor_of_the_setup_is_inherited(where: dict[str, Any]) -> None:
    script = "for fd in /proc/self/fd/*; do readlink $fd; done | grep -cx /"
    steps = [Root("tmpfs"), Bind("/", "/", dev=True), Tmpfs("/tmp")]
    shown = UsernsProcess(["sh", "-c", script], setup=steps, close_fds=False, stdout=-1, text=True, **where)
    assert shown.communicate()[0] == "0\n"
