"""The set-up steps `Capabilities` and `NoUserNamespaces`, as the command sees them."""

from __future__ import annotations

import errno
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from alone import run_alone
from programs import setup_privileges
from step_processes import NEW, OWN, ROOT, SHIFTED, done, joined, seen, status

from conftest import IS_ROOT
from usernsproc import UsernsError, UsernsProcess
from usernsproc.setup import Bind, Capabilities, Dev, Landlock, NoUserNamespaces, Proc, Root, Seccomp, Tmpfs

SETS = ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")
NET_ADMIN, CHOWN, SETUID = 12, 0, 7
SUBIDS: dict[str, Any] = {"uid_map": "subids", "gid_map": "subids"}
INIT: dict[str, Any] = {"namespaces": ["pid"], "init": True}
USERS: list[dict[str, Any]] = [{}, {"user": 5}, {"user": 5, "group": 6, "extra_groups": [7]}]


def sets(*steps: Any, **options: Any) -> dict[str, int]:
    found = status(*steps, **options)
    return {name: int(found[name], 16) for name in SETS}


@pytest.fixture(params=["root", "shifted", "joined", "joined and shifted", "own"] if IS_ROOT else ["root", "joined"])
def userns(request: pytest.FixtureRequest) -> Iterator[dict[str, Any]]:
    kinds = {"root": ROOT, "shifted": SHIFTED, "own": OWN}
    if request.param in kinds:
        yield kinds[request.param]
        return
    with joined(SHIFTED if "shifted" in request.param else ROOT) as options:
        yield options


# ---- Capabilities ----


@pytest.mark.parametrize("more", [{}, INIT], ids=["", "init"])
def test_without_keep_all_five_sets_are_empty(userns: dict[str, Any], more: dict[str, Any]) -> None:
    assert set(sets(Capabilities(), **userns, **more).values()) == {0}


@pytest.mark.parametrize("more", [{}, INIT], ids=["", "init"])
def test_what_is_kept_is_in_all_five_sets(userns: dict[str, Any], more: dict[str, Any]) -> None:
    found = sets(Capabilities(["net_admin", "CAP_CHOWN"]), **userns, **more)
    assert set(found.values()) == {1 << NET_ADMIN | 1 << CHOWN}


@pytest.mark.root
@pytest.mark.parametrize("options", [SHIFTED, OWN], ids=["new", "own"])
@pytest.mark.parametrize("keep", [(), ("chown",)])
def test_the_same_for_another_user(options: dict[str, Any], keep: tuple[str, ...]) -> None:
    found = sets(Capabilities(keep), user=5, group=6, extra_groups=[], **options)
    assert set(found.values()) == {1 << CHOWN if keep else 0}


def test_a_larger_bounding_set_is_what_root_has_after_exec(userns: dict[str, Any]) -> None:
    found = sets(Capabilities(["chown"], bounding=["chown", "net_admin"]), **userns)
    assert found["CapBnd"] == found["CapPrm"] == found["CapEff"] == 1 << NET_ADMIN | 1 << CHOWN
    assert found["CapInh"] == found["CapAmb"] == 1 << CHOWN


@pytest.mark.root
def test_another_user_does_not_get_the_bounding_set() -> None:
    found = sets(Capabilities(["chown"], bounding=["chown", "net_admin"]), user=5, **SHIFTED)
    assert found.pop("CapBnd") == 1 << NET_ADMIN | 1 << CHOWN
    assert set(found.values()) == {1 << CHOWN}


@pytest.mark.root
def test_a_dropped_capability_has_no_effect_in_the_callers_own_namespace(tmp_path: Path) -> None:
    """Without CAP_CHOWN, root cannot give a file away."""
    file = tmp_path / "file"
    file.touch()
    assert done(f"chown 5 {file}", Capabilities(["setuid"]), **OWN).returncode == 1
    assert file.stat().st_uid == 0
    assert done(f"chown 5 {file}", Capabilities(["chown"]), **OWN).returncode == 0
    assert file.stat().st_uid == 5


def test_it_may_mount_before_it_has_no_capability() -> None:
    assert seen("grep ' /mnt tmpfs ' /proc/mounts", Tmpfs("/mnt"), Capabilities(), namespaces=["mnt"], **ROOT)
    assert done("mount -t tmpfs tmpfs /mnt", Tmpfs("/mnt"), Capabilities(), namespaces=["mnt"], **ROOT).returncode


def test_without_the_right_to_drop_it_is_an_error() -> None:
    run_alone(setup_privileges.drop_without_setpcap)


def test_a_capability_that_the_kernel_does_not_know() -> None:
    with pytest.raises(UsernsError) as caught:
        sets(Capabilities([61]), **ROOT)
    assert (caught.value.step, caught.value.errno, caught.value.cause) == (
        "capabilities",
        errno.EINVAL,
        "capability-unknown",
    )


@pytest.mark.parametrize(
    ("make", "error", "text"),
    [
        (lambda: Capabilities(["net"]), ValueError, "Capabilities: 'net' is not a capability"),
        (lambda: Capabilities("chown"), TypeError, "Capabilities: capabilities are several names"),
        (lambda: Capabilities([63]), ValueError, "Capabilities: 63 is not a capability"),
        (lambda: Capabilities(["chown"], bounding=[]), ValueError, "bounding does not contain all of keep"),
    ],
)
def test_wrong_capabilities(make: Any, error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        make()


@pytest.mark.parametrize(
    ("steps", "options", "text"),
    [
        ([Capabilities()], {"ambient_caps": ["chown"]}, r"setup\[0\]: Capabilities\(\): ambient_caps= cannot be"),
        ([Capabilities(), Capabilities()], {}, r"setup\[0\]: Capabilities\(\): there is another"),
        ([NoUserNamespaces(), NoUserNamespaces()], {}, r"setup\[0\]: NoUserNamespaces\(\): there is another"),
    ],
)
def test_a_list_that_does_not_fit(steps: list[Any], options: dict[str, Any], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        done("true", *steps, **ROOT, **options)


@pytest.mark.parametrize("step", [Capabilities(), Landlock(), Seccomp(bytes(8))])
def test_a_holder_has_no_use_for_them(step: Any) -> None:
    with pytest.raises(ValueError, match="a holder"):
        UsernsProcess(setup=[step], **ROOT)


def test_they_are_values() -> None:
    step = Capabilities(["chown"], bounding=["chown", 1])
    assert step == pickle.loads(pickle.dumps(step)) == Capabilities(("chown",), bounding=("chown", 1))
    assert hash(step) != hash(Capabilities(["chown"]))
    assert repr(step) == "Capabilities(keep=('chown',), bounding=('chown', 1))"
    assert repr(NoUserNamespaces()) == "NoUserNamespaces()"
    assert NoUserNamespaces() == pickle.loads(pickle.dumps(NoUserNamespaces()))


# ---- NoUserNamespaces ----

ATTEMPT = "unshare --user true; echo $?"
LIMIT = "/proc/sys/user/max_user_namespaces"


def assert_refused(*steps: Any, **options: Any) -> None:
    """Also after an attempt to raise the limit."""
    for script in ("true", f"(echo 2147483647 > {LIMIT}) 2> /dev/null"):
        result = done(f"{script}; unshare --user true", *steps, **options)
        assert (result.returncode, result.stderr) == (1, "unshare: unshare failed: No space left on device\n")


@pytest.mark.parametrize("options", NEW)
@pytest.mark.parametrize("more", [{}, INIT], ids=["", "init"])
def test_no_user_namespace_can_be_created(options: dict[str, Any], more: dict[str, Any]) -> None:
    assert_refused(NoUserNamespaces(), **options, **more)


@pytest.mark.root
def test_none_in_the_callers_own_user_namespace_and_its_limit_stays() -> None:
    before = Path(LIMIT).read_text()
    assert_refused(NoUserNamespaces(), **OWN)
    assert Path(LIMIT).read_text() == before
    assert seen("unshare --user echo possible", **OWN) == "possible\n"


@pytest.mark.parametrize("options", NEW)
def test_the_ids_stay_as_they_are(options: dict[str, Any]) -> None:
    script = "id; grep -E '^(Uid|Gid|Groups):' /proc/self/status; cat /proc/self/setgroups"
    for user in USERS if options is SHIFTED else [{}]:
        assert seen(script, NoUserNamespaces(), **options, **user) == seen(script, **options, **user)


@pytest.mark.parametrize("options", NEW)
def test_all_ids_of_the_user_namespace_are_mapped_to_themselves(options: dict[str, Any]) -> None:
    inside = [line.split() for line in seen("cat /proc/self/uid_map", **options).splitlines()]
    found = [line.split() for line in seen("cat /proc/self/uid_map", NoUserNamespaces(), **options).splitlines()]
    assert found == [[first, first, count] for first, _, count in inside]


@pytest.mark.root
def test_several_ranges_and_ids_without_zero() -> None:
    maps = {"uid_map": "5:100000:1,7:200000:10", "gid_map": "6:100000:2"}
    script = "id -u; id -g; cat /proc/self/uid_map /proc/self/gid_map"
    found = seen(script, NoUserNamespaces(), Tmpfs("/mnt"), namespaces=["mnt"], user=8, group=7, **maps)
    assert found.split() == ["8", "7", "5", "5", "1", "7", "7", "10", "6", "6", "2"]


def test_a_command_in_a_new_root_with_an_init_of_its_own() -> None:
    """Also if the caller's IDs are not mapped: steps for files change IDs before."""
    steps = [Root("tmpfs"), *(Bind(path, read_only=True) for path in ("/usr", "/bin", "/lib", "/lib64")), Proc(), Dev()]
    for options in (ROOT, SHIFTED if IS_ROOT else SUBIDS):
        result = done(ATTEMPT, *steps, NoUserNamespaces(), **options, **INIT)
        assert (result.returncode, result.stdout) == (0, "1\n"), result


@pytest.mark.parametrize("options", NEW)
def test_together_with_the_other_privileges(options: dict[str, Any]) -> None:
    """Whatever comes later has the rights that it needs in the further namespace."""
    allowed = Landlock(read=["/"], write=["/"], execute=["/"])
    found = sets(NoUserNamespaces(), Capabilities(["chown"]), allowed, **options)
    assert set(found.values()) == {1 << CHOWN}


@pytest.mark.root
def test_another_user_keeps_ambient_capabilities() -> None:
    found = sets(NoUserNamespaces(), user=5, ambient_caps=["setuid"], **SHIFTED)
    assert found["CapEff"] == found["CapAmb"] == 1 << SETUID


def test_the_other_namespaces_belong_to_the_one_before() -> None:
    """As the docstring says: no mounting, no hostname."""
    result = done("mount -t tmpfs tmpfs /mnt || hostname x", NoUserNamespaces(), namespaces=["mnt", "uts"], **ROOT)
    assert result.returncode == 1
    assert "permission denied" in result.stderr
    assert "must be root" in result.stderr or "Operation not permitted" in result.stderr


@pytest.mark.root
def test_it_stays_out_of_reach_while_it_starts() -> None:
    run_alone(setup_privileges.out_of_reach)


def test_in_a_user_namespace_that_is_joined_it_is_refused() -> None:
    with joined(ROOT) as options, pytest.raises(ValueError, match=r"setup\[0\]: NoUserNamespaces\(\): other processes"):
        done("true", NoUserNamespaces(), **options)


def test_without_maps_it_is_refused() -> None:
    with pytest.raises(ValueError, match="it requires the maps"):
        done("true", NoUserNamespaces())


@pytest.mark.root
def test_with_another_owner_it_is_refused() -> None:
    with pytest.raises(ValueError, match="owner= cannot be combined"):
        done("true", NoUserNamespaces(), owner=100000, **SHIFTED)


def test_a_caller_that_may_not_write_the_maps() -> None:
    run_alone(setup_privileges.own_namespace_without_setuid)


def test_a_limit_that_is_reached() -> None:
    run_alone(setup_privileges.no_user_namespace_left)


def test_a_proc_whose_settings_are_covered() -> None:
    run_alone(setup_privileges.covered_settings)


def test_a_helper_that_fails_is_the_error_and_nothing_runs(tmp_path: Path) -> None:
    """Each of its calls, and those of the launcher around it, refused by an error."""
    run_alone(setup_privileges.each_call_fails, str(tmp_path / "ran"))


def test_the_helper_is_gone_when_the_command_runs() -> None:
    with UsernsProcess(["sleep", "1000"], setup=[NoUserNamespaces()], **ROOT) as process:
        assert Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text() == ""
        process.kill()


@pytest.mark.kernel(before="6.10")
def test_a_kernel_that_lacks_a_part_of_landlock() -> None:
    """The other tests of Landlock are for kernels that have all of it."""
    with pytest.raises(UsernsError) as caught:
        done("true", Landlock(read=["/"], execute=["/"]), **ROOT)
    assert (caught.value.step, caught.value.cause) == ("Landlock", "kernel-too-old")
    assert done("true", Landlock(read=["/"], execute=["/"], best_effort=True), **ROOT).returncode == 0
