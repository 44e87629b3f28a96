"""Which maps a caller may write, decided without the kernel: constructed callers, no privileges.

`test_idmap_kernel.py` shows that the kernel decides in the same way.
"""

from __future__ import annotations

import os
import pickle
import re
from collections.abc import Callable
from errno import EPERM
from typing import Any

import pytest
from test_idmap_kernel import ranges_with_text_of

from usernsproc import IdMap, IdMapError, IdRange, UsernsError
from usernsproc._caller import CAP_SETFCAP, CAP_SETGID, CAP_SETUID, Caller
from usernsproc._errors import IdMapPermissionError
from usernsproc._maps import permission as _permission
from usernsproc._maps import subids as _subids
from usernsproc._maps.idmap import IDENTITY
from usernsproc._maps.side import GID as GIDS
from usernsproc._maps.side import UID as UIDS
from usernsproc._maps.side import Side
from usernsproc._maps.writer import Maps

UID, GID = 1000, 2000
SETUID, SETGID, SETFCAP = 1 << CAP_SETUID, 1 << CAP_SETGID, 1 << CAP_SETFCAP
EVERY_CAPABILITY = (1 << 41) - 1

ROOT = Caller(0, 0, EVERY_CAPABILITY, IDENTITY, IDENTITY)
ORDINARY = Caller(UID, GID, 0, IDENTITY, IDENTITY)
NESTED_UIDS = IdMap.parse("0:100000:1000,1000:300000:50,5000:400000:50")
NESTED_GIDS = IdMap.parse("0:100000:10")
NESTED_ROOT = Caller(0, 0, EVERY_CAPABILITY, NESTED_UIDS, NESTED_GIDS)


Fake = Callable[[str, list[tuple[int, int]]], None]


@pytest.fixture(autouse=True)
def subids(monkeypatch: pytest.MonkeyPatch) -> Fake:
    """No user has subordinate IDs, and newuidmap could write them; a test may set some."""
    given: dict[str, list[tuple[int, int]]] = {}
    status = {"CapBnd": f"{EVERY_CAPABILITY:x}", "NoNewPrivs": "0"}
    monkeypatch.setattr(_subids.Owner, "ranges", lambda _owner, side: given.get(side.file, []))
    monkeypatch.setattr(_permission, "read_status", lambda _process: status)
    monkeypatch.setattr(_permission, "_tool_without_rights", lambda _side, _path: iter(()))
    monkeypatch.setattr(_permission, "_is_dumpable", lambda _caller: True)
    for name, own_id in (("getuid", UID), ("geteuid", UID), ("getgid", GID), ("getegid", GID)):
        monkeypatch.setattr(os, name, lambda own_id=own_id: own_id)
    monkeypatch.setattr(_subids.Owner, "of", lambda _user: _subids.Owner("ordinary", UID))
    return lambda step, ranges: given.update({step: ranges})


def but(caller: Caller, **others: Any) -> Caller:
    return Caller(**{name: getattr(caller, name) for name in Caller.__slots__} | others)


def without(capability: int, caller: Caller = ROOT) -> Caller:
    return but(caller, capabilities=caller.capabilities & ~capability)


def with_only(capability: int, caller: Caller = ORDINARY) -> Caller:
    return but(caller, capabilities=capability)


def wanted(caller: Caller, *, uid_map: Any = None, gid_map: Any = None, setgroups: str | None = None) -> Maps:
    return Maps.resolve(uid_map, gid_map, setgroups, caller)


def refusal(caller: Caller, **maps: Any) -> IdMapPermissionError:
    with pytest.raises(IdMapPermissionError) as caught:
        wanted(caller, **maps)
    return caught.value


# ---- root ----


@pytest.mark.parametrize(
    "text", ["0:0:4294967295", "0:100000:65536", "0:0:1,1:100000:65535", "4294967294:0:1", "5:7:1"]
)
@pytest.mark.parametrize("file", ["uid_map", "gid_map"])
def test_root_in_the_initial_namespace_may_map_everything(file: str, text: str) -> None:
    assert str(getattr(wanted(ROOT, **{file: text}), file)) == text


# ---- without CAP_SETUID, CAP_SETGID ----

FOREIGN_UIDS = ["0:1001:1", "0:1000:2", "0:999:2", "0:1:1", "0:2000:1", "0:100000:65536"]
FOREIGN_GIDS = ["0:2001:1", "0:2000:2", "0:1999:2", "0:0:1", "0:1000:1", "0:100000:65536"]
CAPABLE_OF_ALL_BUT_SETUID = with_only(EVERY_CAPABILITY & ~SETUID)
CAPABLE_OF_ALL_BUT_SETGID = with_only(EVERY_CAPABILITY & ~SETGID)


@pytest.mark.parametrize("caller", [ORDINARY, CAPABLE_OF_ALL_BUT_SETUID, CAPABLE_OF_ALL_BUT_SETGID, ROOT])
@pytest.mark.parametrize("inside", [0, 1, UID, GID, 2**32 - 2])
def test_every_user_may_map_its_own_ids_alone(caller: Caller, inside: int) -> None:
    uids, gids = [(inside, caller.uid, 1)], [(inside, caller.gid, 1)]
    maps = wanted(caller, uid_map=uids, gid_map=gids)
    assert (maps.uid_map, maps.gid_map) == (IdMap(uids), IdMap(gids))


@pytest.mark.parametrize("caller", [ORDINARY, with_only(SETGID | SETFCAP), CAPABLE_OF_ALL_BUT_SETUID])
@pytest.mark.parametrize("text", FOREIGN_UIDS)
def test_mapping_other_user_ids_requires_cap_setuid(caller: Caller, text: str) -> None:
    error = refusal(caller, uid_map=text)
    assert error.cause == "no-subids"
    assert "CAP_SETUID" in str(error)
    assert wanted(with_only(SETUID), uid_map=text).uid_map == IdMap.parse(text)


@pytest.mark.parametrize("caller", [ORDINARY, with_only(SETUID | SETFCAP), CAPABLE_OF_ALL_BUT_SETGID])
@pytest.mark.parametrize("text", FOREIGN_GIDS)
@pytest.mark.parametrize("setgroups", [None, "deny", "allow"])
def test_mapping_other_group_ids_requires_cap_setgid(caller: Caller, text: str, setgroups: str | None) -> None:
    error = refusal(caller, gid_map=text, setgroups=setgroups)
    assert error.cause == "no-subids"
    assert "CAP_SETGID" in str(error)
    assert wanted(with_only(SETGID), gid_map=text, setgroups=setgroups).gid_map == IdMap.parse(text)


@pytest.mark.parametrize("text", ["0:1000:1,1:1001:1", "1:1001:1,0:1000:1"])
def test_the_callers_id_among_others_requires_the_capability_too(text: str) -> None:
    assert refusal(ORDINARY, uid_map=text).cause == "no-subids"
    assert refusal(but(ORDINARY, gid=UID), gid_map=text).cause == "no-subids"


def test_a_refusal_without_the_capability_names_the_callers_id() -> None:
    assert re.search(rf"caller's ID .*\b{UID}\b", str(refusal(ORDINARY, uid_map="0:5:1")))
    assert re.search(rf"caller's ID .*\b{GID}\b", str(refusal(ORDINARY, gid_map="0:5:1")))


def test_the_capability_for_users_does_not_help_with_groups_nor_the_other_way_round() -> None:
    assert wanted(with_only(SETUID), uid_map="0:5:9").uid_map == IdMap.parse("0:5:9")
    assert refusal(with_only(SETUID), gid_map="0:5:9").cause == "no-subids"
    assert wanted(with_only(SETGID), gid_map="0:5:9").gid_map == IdMap.parse("0:5:9")
    assert refusal(with_only(SETGID), uid_map="0:5:9").cause == "no-subids"


# ---- outside ID 0 ----


@pytest.mark.parametrize("text", ["0:0:1", "5:0:1", "0:0:65536", "5:100000:9,0:0:1"])
def test_mapping_outside_root_requires_cap_setfcap_even_of_root(text: str) -> None:
    error = refusal(without(SETFCAP), uid_map=text)
    assert error.cause == "no-cap-setfcap"
    assert f"range {text.split(',')[-1]}:" in str(error)


def test_cap_setfcap_is_needed_for_nothing_but_outside_user_0() -> None:
    maps = wanted(without(SETFCAP), uid_map="0:1:65535", gid_map="0:0:65536")
    assert maps == Maps(IdMap.parse("0:1:65535"), IdMap.parse("0:0:65536"), None)


def test_root_of_a_nested_namespace_needs_it_for_its_own_0() -> None:
    """Outside IDs are those of the caller's namespace, whatever they are in its ancestors."""
    assert refusal(without(SETFCAP, NESTED_ROOT), uid_map="7:0:1").cause == "no-cap-setfcap"
    assert wanted(NESTED_ROOT, uid_map="7:0:1").uid_map == IdMap.parse("7:0:1")


# ---- the caller's own namespace ----


@pytest.mark.parametrize(
    "text", ["0:0:1000", "0:999:1", "0:1000:50", "0:5000:50", "0:5049:1", "0:0:1000,1000:1000:50,1050:5000:50"]
)
def test_what_the_callers_namespace_maps_in_one_piece_may_be_mapped_on(text: str) -> None:
    assert wanted(NESTED_ROOT, uid_map=text).uid_map == IdMap.parse(text)


@pytest.mark.parametrize(
    "text",
    [
        "0:1050:1",
        "0:4999:1",
        "0:4999:2",
        "0:5049:2",
        "0:100000:1",
        "0:0:4294967295",
        "0:900:5000",
    ],
    ids=["after", "before", "into", "out of", "outer ids", "all", "over a hole"],
)
def test_what_the_callers_namespace_does_not_map_is_refused(text: str) -> None:
    error = refusal(NESTED_ROOT, uid_map=text)
    assert error.cause == "not-mapped-in-parent"
    assert f"range {text}:" in str(error)
    assert str(NESTED_UIDS) in str(error)


@pytest.mark.parametrize(
    ("text", "pieces"),
    [
        ("0:999:2", "0:999:1,1:1000:1"),
        ("7:0:1050", "7:0:1000,1007:1000:50"),
        ("9:5:1,100:990:20,5000:5000:50", "9:5:1,100:990:10,110:1000:10,5000:5000:50"),
    ],
)
def test_a_range_across_a_seam_of_the_map_of_the_callers_namespace_is_split_there(text: str, pieces: str) -> None:
    """The kernel refuses a range that two of the parent's ranges map together."""
    assert wanted(NESTED_ROOT, uid_map=text).uid_map == IdMap.parse(pieces)


def test_a_range_is_split_for_newuidmap_too(subids: Fake) -> None:
    subids("uid_map", [(900, 200)])
    nested = but(ORDINARY, uid_map=NESTED_UIDS)
    maps = wanted(nested, uid_map="0:950:100")
    assert (str(maps.uid_map), maps.via_newidmap) == ("0:950:50,50:1000:50", (UIDS,))


def test_more_pieces_than_a_map_has_ranges_is_an_error_that_names_the_file() -> None:
    pairs = but(NESTED_ROOT, uid_map=IdMap([(2 * n, 2 * n, 2) for n in range(300)]))
    across = [(3 * n, 2 * n + 1, 2) for n in range(200)]
    assert len(wanted(pairs, uid_map=across[:170]).uid_map or ()) == 340
    with pytest.raises(IdMapError, match="^uid_map: .*400 ranges") as caught:
        wanted(pairs, uid_map=across)
    assert caught.value.step == "uid_map"


@pytest.mark.parametrize(
    ("text", "missing"),
    [
        ("0:1050:1", "outside id 1050 is not mapped"),
        ("0:900:4200", "outside ids 1050 … 4999, 5050 … 5099 are not mapped"),
        ("0:4999:1", "outside id 4999 is not"),
        ("0:3000000000:1000000000", "outside ids 3000000000 … 3999999999 are not mapped"),
    ],
)
def test_the_ids_that_the_callers_namespace_does_not_map_are_named(text: str, missing: str) -> None:
    assert missing in str(refusal(NESTED_ROOT, uid_map=text))


def test_the_range_at_fault_is_named_among_others() -> None:
    message = str(refusal(NESTED_ROOT, uid_map="0:0:5,77:1049:2,100:5000:3"))
    assert "range 77:1049:2:" in message


def test_user_ids_are_looked_up_in_the_user_map_and_group_ids_in_the_group_map() -> None:
    assert wanted(NESTED_ROOT, uid_map="0:10:1").uid_map == IdMap.parse("0:10:1")
    error = refusal(NESTED_ROOT, gid_map="0:10:1")
    assert (error.cause, error.step) == ("not-mapped-in-parent", "gid_map")
    assert wanted(NESTED_ROOT, gid_map="0:9:1").gid_map == IdMap.parse("0:9:1")


def test_nothing_can_be_mapped_where_the_callers_namespace_maps_nothing() -> None:
    unmapped = but(NESTED_ROOT, uid=65534, gid=65534, uid_map=IdMap(), gid_map=IdMap())
    assert refusal(unmapped, uid_map="0:65534:1").cause == "not-mapped-in-parent"
    assert refusal(unmapped, gid_map="0:65534:1").cause == "not-mapped-in-parent"


# ---- setgroups ----

OWN_GROUP = [(0, GID, 1)]


@pytest.mark.parametrize(
    ("caller", "asked", "gid_map", "written"),
    [
        (with_only(SETGID), None, OWN_GROUP, None),
        (with_only(SETGID), "allow", OWN_GROUP, "allow"),
        (with_only(SETGID), "deny", OWN_GROUP, "deny"),
        (ORDINARY, None, OWN_GROUP, "deny"),
        (ORDINARY, "deny", OWN_GROUP, "deny"),
        (without(SETGID), None, "root", "deny"),
        (ORDINARY, None, None, None),
        (ORDINARY, "deny", None, "deny"),
        (ORDINARY, "allow", None, "allow"),
        (with_only(SETGID), None, None, None),
        (with_only(SETGID), "allow", None, "allow"),
    ],
)
def test_setgroups_is_denied_exactly_where_the_group_map_demands_it_or_it_is_asked_for(
    caller: Caller, asked: str | None, gid_map: Any, written: str | None
) -> None:
    assert wanted(caller, uid_map=[(0, caller.uid, 1)], gid_map=gid_map, setgroups=asked).setgroups == written


@pytest.mark.parametrize("caller", [ORDINARY, CAPABLE_OF_ALL_BUT_SETGID])
def test_setgroups_cannot_stay_allowed_without_cap_setgid(caller: Caller) -> None:
    error = refusal(caller, gid_map=OWN_GROUP, setgroups="allow")
    assert (error.cause, error.step) == ("setgroups-allowed", "gid_map")
    assert f"range 0:{GID}:1:" in str(error)


def test_cap_setuid_does_not_matter_to_setgroups() -> None:
    assert wanted(CAPABLE_OF_ALL_BUT_SETUID, gid_map=OWN_GROUP, setgroups="allow").setgroups == "allow"


@pytest.mark.parametrize("setgroups", ["", "Deny", "deny\n", "yes", b"deny", True, 0])
def test_another_word_for_setgroups_is_a_value_error_that_repeats_it(setgroups: Any) -> None:
    with pytest.raises(ValueError, match="setgroups") as caught:
        wanted(ROOT, uid_map="root", setgroups=setgroups)
    assert repr(setgroups) in str(caught.value)
    assert not isinstance(caught.value, IdMapError)


# ---- presets ----


def test_a_preset_takes_the_callers_effective_ids() -> None:
    assert wanted(ORDINARY, uid_map="root", gid_map="root") == Maps(IdMap([(0, UID, 1)]), IdMap([(0, GID, 1)]), "deny")
    assert wanted(ORDINARY, uid_map="current", gid_map="root") == Maps(
        IdMap([(UID, UID, 1)]), IdMap([(0, GID, 1)]), "deny"
    )


@pytest.mark.parametrize("preset", ["root", "current"])
@pytest.mark.parametrize("given", ["uid_map", "gid_map"])
def test_one_preset_stands_for_both_maps(preset: str, given: str) -> None:
    assert wanted(ORDINARY, **{given: preset}) == wanted(ORDINARY, uid_map=preset, gid_map=preset)


@pytest.mark.parametrize("map_like", ["0:1000:1", [(0, 1000, 1)], IdMap.parse("0:1000:1")])
@pytest.mark.parametrize(("given", "other"), [("uid_map", "gid_map"), ("gid_map", "uid_map")])
def test_a_map_that_is_not_a_preset_leaves_the_other_unwritten(map_like: Any, given: str, other: str) -> None:
    maps = wanted(ROOT, **{given: map_like})
    assert getattr(maps, given) == IdMap.parse("0:1000:1")
    assert getattr(maps, other) is None


def test_a_missing_map_has_no_text_and_a_map_is_its_kernel_text() -> None:
    assert wanted(ROOT) == Maps(None, None, None)
    assert wanted(ROOT).for_core == (None, None, None)
    maps = wanted(ROOT, uid_map="0:5:1,1:6:2", gid_map="0:7:1")
    assert maps.for_core == (None, "0 5 1\n1 6 2\n", "0 7 1\n")


@pytest.mark.parametrize("caller", [ORDINARY, ROOT])
def test_rootless_is_the_callers_id_and_then_the_subordinate_ones(caller: Caller, subids: Fake) -> None:
    subids("uid_map", [(100000, 65536)])
    subids("gid_map", [(3000000000, 1000), (7, 2)])
    maps = wanted(caller, uid_map="rootless")
    assert str(maps.uid_map) == f"0:{caller.uid}:1,1:100000:65536"
    assert str(maps.gid_map) == f"0:{caller.gid}:1,1:3000000000:1000,1001:7:2"
    assert maps.setgroups is None
    assert maps.via_newidmap == (() if caller is ROOT else (UIDS, GIDS))
    assert (maps.for_core[1] is None) == (caller is ORDINARY)


def test_subids_are_the_subordinate_ids_alone(subids: Fake) -> None:
    subids("uid_map", [(100000, 10), (200000, 5)])
    subids("gid_map", [(300000, 10)])
    maps = wanted(ORDINARY, uid_map="subids")
    assert (str(maps.uid_map), str(maps.gid_map)) == ("0:100000:10,10:200000:5", "0:300000:10")


def test_files_of_subordinate_ids_are_looked_at_again(subids: Fake) -> None:
    for first in (100000, 200000):
        subids("uid_map", [(first, 10)])
        subids("gid_map", [(first, 10)])
        assert str(wanted(ORDINARY, uid_map="subids").uid_map) == f"0:{first}:10"
        assert wanted(ORDINARY, uid_map=f"0:{first}:10").via_newidmap == (UIDS,)
    assert refusal(ORDINARY, uid_map="0:100000:10").cause == "subids-foreign"


@pytest.mark.parametrize("preset", ["subids", "rootless"])
@pytest.mark.parametrize("caller", [ORDINARY, ROOT])
def test_a_preset_of_subordinate_ids_cannot_do_without(preset: str, caller: Caller, subids: Fake) -> None:
    assert (refusal(caller, uid_map=preset).step, refusal(caller, uid_map=preset).cause) == ("uid_map", "no-subids")
    subids("uid_map", [(100000, 10)])
    error = refusal(caller, uid_map=preset)
    assert (error.step, error.cause) == ("gid_map", "no-subids")
    assert "/etc/subgid" in str(error)
    assert "usermod --add-subuids" in error.__notes__[0]


def test_all_is_what_the_callers_namespace_maps_unchanged() -> None:
    assert wanted(ROOT, uid_map="all") == Maps(IDENTITY, IDENTITY, None)
    maps = wanted(NESTED_ROOT, uid_map="all")
    assert (str(maps.uid_map), str(maps.gid_map)) == ("0:0:1000,1000:1000:50,5000:5000:50", "0:0:10")


def test_all_of_a_namespace_with_the_callers_id_alone_requires_no_capability() -> None:
    own = IdMap([(UID, 7, 1)]), IdMap([(GID, 8, 1)])
    maps = wanted(but(ORDINARY, uid_map=own[0], gid_map=own[1]), uid_map="all")
    assert (str(maps.uid_map), str(maps.gid_map), maps.setgroups) == (f"{UID}:{UID}:1", f"{GID}:{GID}:1", "deny")


def test_all_requires_the_right_to_map_each_of_them() -> None:
    assert refusal(ORDINARY, uid_map="all").cause == "no-subids"
    assert refusal(without(SETFCAP), uid_map="all").cause == "no-cap-setfcap"


@pytest.mark.parametrize(
    ("uid_map", "gid_map", "via_newidmap", "setgroups"),
    [
        ("rootless", "root", (UIDS,), "deny"),
        ("root", "rootless", (GIDS,), None),
        ([(0, UID, 1)], [(0, GID, 1), (1, 100000, 1)], (GIDS,), None),
        ([(0, 100000, 1)], None, (UIDS,), None),
    ],
)
def test_a_tool_writes_only_what_this_process_may_not(
    subids: Fake, uid_map: Any, gid_map: Any, via_newidmap: tuple[Side, ...], setgroups: str | None
) -> None:
    """And setgroups is denied only if this process writes the group map."""
    subids("uid_map", [(100000, 65536)])
    subids("gid_map", [(100000, 65536)])
    maps = wanted(ORDINARY, uid_map=uid_map, gid_map=gid_map)
    assert (maps.via_newidmap, maps.setgroups) == (via_newidmap, setgroups)


@pytest.mark.parametrize("setgroups", ["allow", "deny", None])
def test_newgidmap_works_with_any_setgroups(subids: Fake, setgroups: str | None) -> None:
    subids("gid_map", [(100000, 65536)])
    assert wanted(ORDINARY, gid_map="0:100000:5", setgroups=setgroups).setgroups == setgroups


@pytest.mark.parametrize(
    ("text", "cause"),
    [
        ("0:100000:11", "subids-too-small"),
        ("0:100009:2", "subids-too-small"),
        ("0:99999:1", "subids-foreign"),
        ("0:99999:2", "subids-foreign"),
        ("0:100010:1", "subids-foreign"),
        (f"0:{UID}:2", "subids-foreign"),
        (f"0:100000:10,10:{UID}:1,11:{UID + 1}:1", "subids-foreign"),
        ("0:100000:10,10:2147483648:1", "subids-foreign"),
        ("0:0:4294967295", "subids-foreign"),
        ("0:3000000000:5", None),
        ("0:100000:10", None),
        (f"0:100005:5,9:{UID}:1,20:100000:5", None),
        ("0:3000000000:13", None),
        ("0:3000000000:14", "subids-too-small"),
    ],
)
def test_newuidmap_accepts_what_the_lines_of_the_user_give(subids: Fake, text: str, cause: str | None) -> None:
    """Lines may be adjacent; each range is the caller's ID alone or within the lines."""
    subids("uid_map", [(3000000005, 8), (100000, 10), (3000000000, 5)])
    if cause is None:
        assert wanted(ORDINARY, uid_map=text).via_newidmap == (UIDS,)
    else:
        error = refusal(ORDINARY, uid_map=text)
        assert (error.cause, error.step) == (cause, "uid_map")


def test_a_text_that_fits_only_without_its_last_newline_is_too_long_for_the_tool(subids: Fake) -> None:
    subids("uid_map", [(0, 4000)])
    fits = IdMap(ranges_with_text_of(4095, range(100, 1000)))
    too_long = IdMap(ranges_with_text_of(4096, range(100, 1000)))
    assert wanted(ORDINARY, uid_map=fits).via_newidmap == (UIDS,)
    assert refusal(ORDINARY, uid_map=too_long).cause == "too-many-ranges"
    assert wanted(ROOT, uid_map=too_long).via_newidmap == ()


# ---- malformed maps ----


@pytest.mark.parametrize("step", ["uid_map", "gid_map"])
@pytest.mark.parametrize("malformed", ["0:4294967296:1", "0:1:0", "0:1:1,0:2:1", "0:1", [(0, 1, 0)], [(1, 2)], "", []])
def test_a_malformed_map_is_refused_with_the_file_it_was_meant_for(step: str, malformed: Any) -> None:
    with pytest.raises(IdMapError, match=f"^{step}: ") as caught:
        wanted(ROOT, **{step: malformed})
    assert caught.value.step == step
    assert not isinstance(caught.value, OSError)


def test_a_malformed_map_is_malformed_also_to_a_caller_that_may_not_write_it() -> None:
    with pytest.raises(IdMapError, match="overlap") as caught:
        wanted(ORDINARY, uid_map="0:1:1,0:2:1")
    assert not isinstance(caught.value, IdMapPermissionError)


@pytest.mark.parametrize("step", ["uid_map", "gid_map"])
@pytest.mark.parametrize(
    "value", [5, 1.5, b"0:1:1", [b"abc"], [bytearray(b"abc")], [None], [(0, 1.0, 1)], [("0", "1", "1")], object()]
)
def test_what_is_not_a_map_is_a_type_error(step: str, value: Any) -> None:
    with pytest.raises(TypeError):
        wanted(ROOT, **{step: value})


@pytest.mark.parametrize("imprecise", [1.0, 1 + 0j])
def test_a_float_is_a_type_error_also_after_the_int_that_equals_it(imprecise: Any) -> None:
    wanted(ROOT, uid_map=[(0, 100000, 1)])
    with pytest.raises(TypeError):
        wanted(ROOT, uid_map=[(0, 100000, imprecise)])


@pytest.mark.parametrize("step", ["uid_map", "gid_map"])
def test_iterators_and_lists_of_lists_are_accepted(step: str) -> None:
    ranges = [[0, 5, 1], [1, 7, 1]]
    for given in (ranges, iter(ranges), (IdRange(*r) for r in ranges), map(tuple, ranges)):
        maps: dict[str, Any] = {step: given}
        assert getattr(wanted(ROOT, **maps), step) == IdMap.parse("0:5:1,1:7:1")


def test_whatever_is_an_integer_to_a_range_is_one_here() -> None:
    class Integer:
        def __index__(self) -> int:
            return 5

    assert wanted(ROOT, uid_map=[(Integer(), 7, 1)]).uid_map == IdMap([(5, 7, 1)])
    assert wanted(ROOT, uid_map=[(0, 7, True)]).uid_map == IdMap([(0, 7, 1)])


def test_a_list_that_has_changed_is_read_again() -> None:
    ranges = [(0, 5, 1)]
    assert wanted(ROOT, uid_map=ranges).uid_map == IdMap(ranges)
    ranges.append((1, 7, 1))
    assert wanted(ROOT, uid_map=ranges).uid_map == IdMap(ranges)


def test_the_same_map_is_judged_anew_for_another_caller() -> None:
    for _ in range(2):
        assert wanted(ROOT, uid_map="0:5:1").uid_map == IdMap.parse("0:5:1")
        assert refusal(ORDINARY, uid_map="0:5:1").cause == "no-subids"
        assert refusal(NESTED_ROOT, uid_map="0:1050:1").cause == "not-mapped-in-parent"
        assert wanted(ROOT, uid_map="0:1050:1").uid_map == IdMap.parse("0:1050:1")


# ---- the exception ----

REFUSED = [
    (ORDINARY, "uid_map", {"uid_map": "0:5:2"}, "0:5:2", "no-subids"),
    (ORDINARY, "gid_map", {"gid_map": "0:5:2"}, "0:5:2", "no-subids"),
    (without(SETFCAP), "uid_map", {"uid_map": "0:0:2"}, "0:0:2", "no-cap-setfcap"),
    (NESTED_ROOT, "uid_map", {"uid_map": "0:0:5,5:2000:2"}, "5:2000:2", "not-mapped-in-parent"),
    (ORDINARY, "gid_map", {"gid_map": "0:2000:1", "setgroups": "allow"}, "0:2000:1", "setgroups-allowed"),
]


@pytest.mark.parametrize(
    ("caller", "step", "maps", "named", "cause"), REFUSED, ids=[f"{case[1]} {case[-1]}" for case in REFUSED]
)
def test_a_refusal_is_every_exception_that_a_caller_may_expect(
    caller: Caller, step: str, maps: dict[str, Any], named: str, cause: str
) -> None:
    error = refusal(caller, **maps)
    for expected in (IdMapPermissionError, UsernsError, PermissionError, OSError, IdMapError, ValueError):
        assert isinstance(error, expected)
    assert (error.errno, error.step, error.cause, error.filename) == (EPERM, step, cause, None)
    assert f"{step} range {named}:" in str(error)


@pytest.mark.parametrize(
    ("caller", "step", "maps", "named", "cause"), REFUSED, ids=[f"{case[1]} {case[-1]}" for case in REFUSED]
)
def test_a_refusal_survives_pickling(caller: Caller, step: str, maps: dict[str, Any], named: str, cause: str) -> None:
    error = refusal(caller, **maps)
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is type(error)
    assert (again.errno, str(again), again.step, again.cause) == (EPERM, str(error), step, cause)
    assert named in str(again)


def test_a_refused_map_is_refused_again_with_an_error_of_its_own() -> None:
    first, second = refusal(ORDINARY, uid_map="0:5:2"), refusal(ORDINARY, uid_map="0:5:2")
    assert first is not second
    assert str(first) == str(second)
