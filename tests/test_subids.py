"""The subordinate IDs of a user, from files, or from another source that nsswitch.conf names."""

from __future__ import annotations

import os
import pwd
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from alone import run_alone
from programs import subids as programs
from unprivileged import UID, as_unprivileged_user

import usernsproc
from usernsproc import IdMap, IdMapError, subids
from usernsproc._maps import side as _side
from usernsproc._maps import subids as _subids

OWN_NAME, OWN_UID = pwd.getpwuid(os.getuid()).pw_name, os.getuid()
ROOT_NAME = pwd.getpwuid(0).pw_name

Write = Callable[..., None]


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Write:
    """Files of the test instead of those in /etc."""
    monkeypatch.setattr(_side.UID, "subids_file", str(tmp_path / "subuid"))
    monkeypatch.setattr(_side.GID, "subids_file", str(tmp_path / "subgid"))
    monkeypatch.setattr(_subids, "NSSWITCH", str(tmp_path / "nsswitch.conf"))

    def write(**texts: str) -> None:
        for name, text in texts.items():
            (tmp_path / name.replace("_", ".")).write_text(text)

    return write


def test_all_lines_count_by_name_and_by_number(files: Write) -> None:
    files(
        subuid=f"other:1:5\n{OWN_NAME}:100000:65536\n{OWN_UID}:300000:10\n{OWN_NAME}:200000:5\n",
        subgid=f"{OWN_UID}:500000:7\n",
    )
    uids, gids = subids()
    assert str(uids) == "0:100000:65536,65536:300000:10,65546:200000:5"
    assert str(gids) == "0:500000:7"
    assert (subids().uids, subids().gids) == (uids, gids)


def test_group_ids_are_looked_up_for_the_user(files: Write) -> None:
    """Not for a group with the same name or number."""
    files(subuid="", subgid="somebody:100:5\n4242:200:5\n")
    assert str(subids("somebody").gids) == "0:100:5"
    assert str(subids(4242).gids) == "0:200:5"


@pytest.mark.parametrize("user", [ROOT_NAME, 0])
def test_a_user_is_given_by_name_or_number(user: str | int, files: Write) -> None:
    files(subuid=f"{ROOT_NAME}:100:5\n0:200:5\n00:300:5\n", subgid="")
    assert str(subids(user).uids) == "0:100:5,5:200:5"


def test_an_unknown_user_has_what_is_written_for_that_name_or_number(files: Write) -> None:
    files(subuid="no-such-user:100:5\n123456789:200:5\n", subgid="")
    assert str(subids("no-such-user").uids) == "0:100:5"
    assert str(subids(123456789).uids) == "0:200:5"


def test_files_that_are_missing_have_no_lines() -> None:
    """And a line gives IDs to its user only."""
    assert subids("no-such-user") == (IdMap(), IdMap())


def test_nothing_is_remembered(files: Write) -> None:
    for first in (100000, 200000):
        files(subuid=f"{OWN_NAME}:{first}:5\n")
        assert subids().uids == IdMap([(0, first, 5)])


@pytest.mark.parametrize(
    "line",
    [
        "",
        "# a comment",
        "NAME",
        "NAME:100",
        "NAME:100:",
        "NAME::5",
        "NAME:x:5",
        "NAME:100:5x",
        "NAME:100:0",
        "NAME:-100:5",
        "NAME:1_00:5",
        "NAME:100:-5",
        "NAME:100:5 ",
        "NAME:100:5\t",
        "NAME:100:5\r",
        "NAME:100 :5",
        "NAME:100:5 # five",
        "NAME:0o100:5",
        "NAME:0b11:5",
        "NAME:\u0661\u0660:5",
        "NAME:100:18446744073709551616",
        "NAME :100:5",
        ":100:5",
        "NAME:4294967295:5",
        "NAME:99999999999999999999999999:5",
    ],
)
def test_a_malformed_line_is_passed_over(line: str, files: Write) -> None:
    """As newuidmap ignores it."""
    name = OWN_NAME
    files(subuid=f"{line.replace('NAME', name)}\n{name}:200:5", subgid="")
    assert str(subids().uids) == "0:200:5"


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("NAME:0x64:0x5", "0:100:5"),
        ("NAME:0144:05", "0:100:5"),
        ("NAME: 100:+5", "0:100:5"),
        ("NAME:100:18446744073709551615", "0:100:4294967195"),
        ("NAME:100:5:more", "0:100:5"),
        ("NAME:4294967290:100", "0:4294967290:5"),
        ("NAME:3000000000:1000000000", "0:3000000000:1000000000"),
    ],
)
def test_numbers_are_read_as_the_tools_read_them(line: str, expected: str, files: Write) -> None:
    files(subuid=line.replace("NAME", OWN_NAME), subgid="")
    assert str(subids().uids) == expected


def test_lines_that_overlap_give_each_id_once(files: Write) -> None:
    files(subuid=f"{OWN_NAME}:100:10\n{OWN_NAME}:105:10\n{OWN_UID}:100:10\n", subgid="")
    assert str(subids().uids) == "0:100:10,10:110:5"


def test_more_lines_than_a_map_has_ranges_are_an_error(files: Write) -> None:
    files(subuid="".join(f"{OWN_NAME}:{2 * n}:1\n" for n in range(341)), subgid="")
    with pytest.raises(IdMapError, match="341 ranges"):
        subids()


def test_a_file_that_cannot_be_read_is_reported(files: Write, tmp_path: Path) -> None:
    files(subgid="")
    (tmp_path / "subuid").mkdir()
    with pytest.raises(IsADirectoryError, match="subuid"):
        subids()


@pytest.mark.root
def test_a_file_that_only_root_may_read_is_reported_with_its_remedy() -> None:
    """The remedy is not that of another file which cannot be opened at this step."""
    printed = as_unprivileged_user(programs.ask, before="chmod 600 /etc/subgid")
    assert printed == "subids-unreadable prepare: Permission denied: '/etc/subgid' [EACCES, subids-unreadable]\n"


def test_names_are_decoded_alike_in_the_files_and_in_the_user_database(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where the encoding of the system is not that of the files."""
    for name, value in {"LC_ALL": "POSIX", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}.items():
        monkeypatch.setenv(name, value)
    run_alone(programs.names_are_not_ascii)


def test_what_subids_gives_is_a_map() -> None:
    """It can be passed unchanged to other calls."""
    assert all(isinstance(id_map, IdMap) for id_map in usernsproc.subids())


@pytest.mark.parametrize(
    ("text", "source"),
    [
        ("", None),
        ("passwd: files\n", None),
        ("subid: files\n", None),
        ("subid:files sss\n", None),
        ("# subid: sss\n", None),
        ("subid:\n", None),
        ("subid: sss\n", "sss"),
        ("  SubID:  sss # files\n", "sss"),
    ],
)
def test_the_source_is_the_first_that_nsswitch_names(text: str, source: str | None, files: Write) -> None:
    files(nsswitch_conf=text)
    assert _subids.other_source() == source


# ---- another source ----

PLUGIN = Path(__file__).with_name("subid_plugin.c")
USE_PLUGIN = """
mount -t tmpfs -o mode=755 tmpfs /mnt
cp {plugin} /mnt/libsubid_test.so
cp /etc/nsswitch.conf /mnt/nsswitch.conf
echo 'subid: test' >>/mnt/nsswitch.conf
mount --bind /mnt/nsswitch.conf /etc/nsswitch.conf
{{ cat /etc/ld.so.conf; echo /mnt; }} >/mnt/ld.so.conf
ldconfig -X -f /mnt/ld.so.conf -C /mnt/cache
mount --bind /mnt/cache /etc/ld.so.cache
{more}
"""


@pytest.fixture
def plugin(tmp_path: Path) -> Path:
    path = tmp_path / "libsubid_test.so"
    subprocess.run(["gcc", "-shared", "-fPIC", PLUGIN, "-o", path], check=True)
    return path


@pytest.mark.root
@pytest.mark.parametrize("more", ["", "mount --bind /dev/null /usr/bin/getsubids"], ids=["getsubids", "libsubid"])
@pytest.mark.parametrize("name", [None, "user name"])
def test_another_source_is_asked_as_newuidmap_asks_it(plugin: Path, more: str, name: str | None) -> None:
    """By getsubids, or by libsubid if that is not installed. The files are then ignored.
    Names in a directory may have blanks."""
    if name:
        more = f"{more}\necho '{name}:x:{UID}:{UID}::/:/bin/sh' >/etc/passwd"
    printed = as_unprivileged_user(programs.ask, before=USE_PLUGIN.format(plugin=plugin, more=more))
    found, maps, refused = printed.splitlines()
    assert found == "0:700000:1000 0:800000:1000"
    assert maps == "0:1000:1,1:700000:1000 0:1000:1,1:800000:1000"
    assert refused.startswith("subids-foreign")
    assert "'test' (of /etc/nsswitch.conf)" in refused


@pytest.mark.root
def test_another_source_that_nothing_can_ask_is_reported(plugin: Path) -> None:
    hide = "for file in /usr/bin/getsubids /usr/lib/*/libsubid.so.?; do mount --bind /dev/null $file; done"
    printed = as_unprivileged_user(programs.ask, before=USE_PLUGIN.format(plugin=plugin, more=hide))
    assert printed.startswith("getsubids-missing")
