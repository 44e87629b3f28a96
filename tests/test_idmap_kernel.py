"""The library's verdict on an ID map compared with the running kernel's, for thousands of random maps.

What `IdMap` and `Maps.resolve` refuse, the kernel refuses, with the errno that the
exception stands for; what they accept, the kernel accepts. The exception is what
the kernel misreads without an error: there only the library's refusal is tested.

Run as a program, `test_idmap_kernel.py SETTING SEED COUNT` compares in another
setting: it imports everything first, because in another user namespace, or as
another user, the interpreter's own files may be out of reach.
"""

from __future__ import annotations

import ctypes
import json
import mmap
import os
import random
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from errno import EINVAL, EPERM
from pathlib import Path

import pytest
from alone import A_HANG

from usernsproc import IdMap, IdMapError, UsernsProcess, _core, create_userns
from usernsproc._caller import CAP_SETFCAP, CAP_SETGID, CAP_SETUID, Caller
from usernsproc._errors import IdMapPermissionError
from usernsproc._maps.writer import Maps
from usernsproc._namespaces.map_reader import read_maps

Triple = tuple[int, int, int]

ID_COUNT = 2**32 - 1
MOST_RANGES = 340
KEPT_IN_ORDER = 5
"""Up to so many ranges the kernel shows in the order written; more it sorts by inside."""
SEED = int(os.environ.get("IDMAP_SEED", "0")) or random.SystemRandom().randrange(1, 2**32)
MAPS = 3000
MAPS_IN_A_SETTING = 650
AT_LEAST = 10
"""Maps of each verdict, lest a comparison of nothing but refusals passes. The rarest of them
is expected 45 times: that it falls short by chance is one in 10^10."""

SETUID, SETGID, SETFCAP = 1 << CAP_SETUID, 1 << CAP_SETGID, 1 << CAP_SETFCAP
EVERY_CAPABILITY = 2**64 - 1
UNPRIVILEGED_UID, UNPRIVILEGED_GID = 1234, 4321


# ---- random maps ----


class RandomMaps:
    """Maps of which about half are good, and most of the others are nearly good."""

    def __init__(self, rng: random.Random, own_map: IdMap, own_id: int) -> None:
        self.rng = rng
        self.own_map = own_map
        self.own_id = own_id
        edges = {0, 1, 2**31 - 1, 2**31, 2**31 + 1, ID_COUNT - 1}
        self.inside = sorted({*edges, own_id, 7, 65535, 65536, ID_COUNT, -1})
        seams = {first + step for r in own_map for first in (r.inside, r.inside + r.count) for step in (-1, 0, 1)}
        self.outside = sorted(n for n in {*self.inside, own_id + 1, own_id - 1, *seams} if n <= ID_COUNT)
        sizes = {r.count + step for r in own_map for step in (-1, 0, 1)}
        counts = {0, 1, 2, 5, 65536, 2**31, ID_COUNT - 1, ID_COUNT, -1}
        self.counts = [1, 1, 1, 2, *sorted(n for n in counts | sizes if n <= ID_COUNT)]
        self.foreign_ids = [n for n in self.outside if 0 <= n < ID_COUNT and n not in own_map]
        self.low_ids = [id for id in range(1000) if id in own_map]
        self.makers = [
            *(self.edges, self.edges, self.own, self.own, self.own, self.pieces, self.pieces, self.pieces),
            *(self.pieces, self.nearly, self.nearly, self.nearly, self.foreign, self.foreign),
        ]

    def __iter__(self) -> Iterator[list[Triple]]:
        while True:
            yield self.rng.choice(self.makers)() if self.rng.random() < 0.95 else self.huge()

    def edges(self) -> list[Triple]:
        return [
            (self.rng.choice(self.inside), self.rng.choice(self.outside), self.rng.choice(self.counts))
            for _ in range(self.rng.choice((0, 1, 1, 1, 1, 2, 2, 3, 7)))
        ]

    def own(self) -> list[Triple]:
        own = (self.rng.choice(self.inside), self.own_id, self.rng.choice((1, 1, 1, 1, 2, 0)))
        return [own, *self.edges()][: self.rng.choice((1, 1, 1, 1, 2))]

    def pieces(self, most: int = 9) -> list[Triple]:
        """Pieces of the IDs that the caller's namespace maps, adjacent or apart."""
        free = [(r.inside, r.inside + r.count) for r in self.own_map]
        outside: list[tuple[int, int]] = []
        for _ in range(self.rng.randint(1, most)):
            start, end = free.pop(self.rng.randrange(len(free)))
            first = self.rng.choice((start, start, self.rng.randrange(start, end)))
            count = min(end - first, self.rng.choice((1, 2, 10, 65536, 2**31, end - first)))
            outside.append((first, count))
            free += [part for part in ((start, first), (first + count, end)) if part[0] < part[1]]
            if not free:
                break
        spare = ID_COUNT - sum(count for _, count in outside)
        position = self.rng.choice((0, spare, self.rng.randint(0, spare)))
        spare -= position
        found = []
        for first, count in outside:
            found.append((position, first, count))
            gap = min(spare, self.rng.choice((0, 0, 1, 1000)))
            spare -= gap
            position += count + gap
        self.rng.shuffle(found)
        return found

    def nearly(self) -> list[Triple]:
        """A good map with one number off by one, or one range twice."""
        good = self.pieces()
        spoilt = list(self.rng.choice(good))
        spoilt[self.rng.randrange(3)] += self.rng.choice((-1, 1))
        if any(number > ID_COUNT for number in spoilt):
            return good
        where = self.rng.randrange(len(good))
        return [*good[:where], (spoilt[0], spoilt[1], spoilt[2]), *good[where + self.rng.choice((0, 1, 1, 1)) :]]

    def foreign(self) -> list[Triple]:
        """A good map except for one ID that the caller's namespace does not map, if there is one."""
        good = self.pieces()
        if self.foreign_ids:
            where = self.rng.randrange(len(good))
            good[where] = (good[where][0], self.rng.choice(self.foreign_ids), 1)
        return good

    def huge(self) -> list[Triple]:
        maker = self.rng.choice((self.as_many_ranges_as_there_may_be, self.as_long_a_text_as_there_may_be))
        return maker()

    def as_many_ranges_as_there_may_be(self) -> list[Triple]:
        outside = self.rng.sample(self.low_ids, MOST_RANGES + self.rng.choice((-1, 0, 0, 0, 1, 2)))
        ranges = [(n, id, 1) for n, id in enumerate(outside)]
        self.rng.shuffle(ranges)
        if self.rng.random() < 0.3:
            victim = self.rng.randrange(1, len(ranges))
            inside, outside_id, _ = ranges[victim]
            ranges[victim] = self.rng.choice(((ranges[0][0], outside_id, 1), (inside, ranges[0][1], 1)))
        return ranges

    def as_long_a_text_as_there_may_be(self) -> list[Triple]:
        length = mmap.PAGESIZE + self.rng.choice((-2, -1, -1, 0, 0, 0, 1, 1, 1, 2))
        return ranges_with_text_of(length, self.rng.sample(self.low_ids, MOST_RANGES))


def ranges_with_text_of(length: int, outside_ids: Iterable[int]) -> list[Triple]:
    """Ranges whose text has exactly *length* bytes, of outside IDs of up to three digits."""
    outside = iter(outside_ids)
    ranges: list[Triple] = []
    rest = length
    while rest > 45:
        ranges.append((2 * 10**9 + len(ranges), next(outside), 1))
        rest -= len(kernel_text(ranges[-1:]))
    last = [next(outside) for _ in range(3)]
    digits = rest - sum(len(f" {id} 1\n") for id in last)
    for position, id in enumerate(last):
        ranges.append((10 ** ((digits + position) // 3 - 1) + position, id, 1))
    assert len(kernel_text(ranges)) == length
    return ranges


def kernel_text(triples: list[Triple]) -> str:
    """Return the text that the kernel reads, without `IdMap`, which is under test."""
    return "".join(f"{inside} {outside} {count}\n" for inside, outside, count in triples)


def shortest(text: str) -> str:
    """The kernel does not need the last newline, so the text is written without it if it fits only then."""
    return text if len(text) < mmap.PAGESIZE else text.removesuffix("\n")


# ---- the two verdicts ----


def verdict_of_the_library(
    step: str, triples: list[Triple], setgroups: str | None, caller: Caller
) -> tuple[int, str | None, list[Triple]]:
    """Return the errno that the refusal stands for, or 0; the value to write to setgroups; and the
    ranges, which may have been split."""
    try:
        id_map = IdMap(triples)
        uids, gids = (id_map, None) if step == "uid_map" else (None, id_map)
        maps = Maps.resolve(uids, gids, setgroups, caller)
        assert not maps.via_newidmap
        return 0, maps.setgroups, [(r.inside, r.outside, r.count) for r in maps.uid_map or maps.gid_map or ()]
    except IdMapPermissionError as error:
        assert error.step == step
        return error.errno or 0, None, triples
    except IdMapError:
        return EINVAL, None, triples


def kernel_verdict(step: str, text: str, setgroups: str | None) -> tuple[int, str]:
    """Return the errno, or 0; and sometimes (it needs a process) the map that the kernel shows."""
    try:
        userns = _core.create_userns(setgroups, *((text, None) if step == "uid_map" else (None, text)))
    except _core.Failure as failure:
        failed, errno, _ = failure.args
        assert failed == step, failure
        return errno, ""
    try:
        shown = read_maps(userns) if len(text) % 8 == 0 else ["", ""]
    finally:
        userns.close()
    return 0, shown[step == "gid_map"]


def setgroups_to_try(ours: int, asked: str | None, needed: str | None) -> tuple[str | None, ...]:
    """If no value is requested, a refusal means that the map cannot be written at all."""
    if ours == 0:
        return (needed,)
    return (None, "deny") if asked is None else (asked,)


def compare_one(step: str, triples: list[Triple], asked: str | None, caller: Caller) -> int:
    ours, needed, pieces = verdict_of_the_library(step, triples, asked, caller)
    if pieces != triples:
        assert kernel_verdict(step, shortest(kernel_text(triples)), needed)[0] == EPERM, "it need not have been split"
        triples = pieces
    text = shortest(kernel_text(triples))
    for setgroups in setgroups_to_try(ours, asked, needed):
        kernels, shown = kernel_verdict(step, text, setgroups)
        assert ours == kernels, f"ours {ours}, the kernel's {kernels}: {step}, setgroups {setgroups} of {asked}"
        if shown:
            expected = triples if len(triples) <= KEPT_IN_ORDER else sorted(triples)
            assert [tuple(r) for r in IdMap.from_kernel(shown)] == expected
    return ours


def compare(seed: int, maps: int) -> dict[str, int]:
    """Return the counts of the verdicts. Check that the library and the kernel agree on each."""
    rng, caller, verdicts = random.Random(seed), Caller.now(), Counter[str]()
    answers = [None, None, "deny"]
    if Path("/proc/self/setgroups").read_text() == "allow\n":
        answers.append("allow")  # what the parent denies, a namespace cannot allow
    for step, own_map, own_id in (
        ("uid_map", caller.uid_map, caller.uid),
        ("gid_map", caller.gid_map, caller.gid),
    ):
        for number, triples in zip(range(maps), RandomMaps(rng, own_map, own_id), strict=False):
            asked = rng.choice(answers) if step == "gid_map" else None
            try:
                verdicts[f"{step} {compare_one(step, triples, asked, caller)}"] += 1
            except AssertionError as error:
                raise AssertionError(f"IDMAP_SEED={seed}, map {number} {triples} by {caller}: {error}") from None
    return dict(verdicts)


# ---- settings ----

LIBC = ctypes.CDLL(None, use_errno=True)
PR_SET_DUMPABLE, PR_SET_KEEPCAPS = 4, 8
LINUX_CAPABILITY_VERSION_3 = 0x20080522

NESTED = "0:100000:1000,5000:300000:50"
NESTED_MANY = "200:300000:100,0:100000:100,100:100100:100,300:200000:50,350:4000000000:100,5000:7:1,450:200050:100"


def set_effective(capabilities: int) -> None:
    """Set the effective capabilities to these, which are permitted."""
    header = (ctypes.c_uint32 * 2)(LINUX_CAPABILITY_VERSION_3, 0)
    data = (ctypes.c_uint32 * 6)()
    if LIBC.capget(header, data):
        raise OSError(ctypes.get_errno(), "capget")
    data[0], data[3] = data[1] & capabilities, data[4] & capabilities >> 32
    if LIBC.capset(header, data):
        raise OSError(ctypes.get_errno(), "capset")


def become(uid: int, gid: int, capabilities: int | None = None) -> None:
    """Change to these IDs with these capabilities; by default root has all and other users have none."""
    LIBC.prctl(PR_SET_KEEPCAPS, 1, 0, 0, 0)
    os.setresgid(gid, gid, gid)
    os.setresuid(uid, uid, uid)
    set_effective(capabilities if capabilities is not None else EVERY_CAPABILITY if uid == 0 else 0)
    LIBC.prctl(PR_SET_DUMPABLE, 1, 0, 0, 0)  # otherwise the children's files in /proc would belong to root


def nest(id_map: str, uid: int = 0, gid: int = 0, *, setgroups: str | None = None) -> None:
    """Enter a new user namespace of these maps as these of its IDs."""
    with create_userns(id_map, id_map, setgroups=setgroups) as userns:
        userns.enter()
    become(uid, gid)


def nest_twice() -> None:
    nest(NESTED)
    nest("0:10:400,1000:5000:50,7000:500:9")


def nest_without(capability: int) -> None:
    nest(NESTED)
    set_effective(EVERY_CAPABILITY & ~capability)


SETTINGS: dict[str, Callable[[], None]] = {
    "root without CAP_SETUID": lambda: set_effective(EVERY_CAPABILITY & ~SETUID),
    "root without CAP_SETGID": lambda: set_effective(EVERY_CAPABILITY & ~SETGID),
    "root without CAP_SETFCAP": lambda: set_effective(EVERY_CAPABILITY & ~SETFCAP),
    "root without capabilities": lambda: set_effective(0),
    "unprivileged user": lambda: become(UNPRIVILEGED_UID, UNPRIVILEGED_GID),
    "unprivileged user with CAP_SETUID": lambda: become(UNPRIVILEGED_UID, UNPRIVILEGED_GID, SETUID),
    "unprivileged user with CAP_SETGID": lambda: become(UNPRIVILEGED_UID, UNPRIVILEGED_GID, SETGID),
    "nested root": lambda: nest(NESTED),
    "nested root, many ranges": lambda: nest(NESTED_MANY),
    "nested root, setgroups denied": lambda: nest(NESTED, setgroups="deny"),
    "nested twice": nest_twice,
    "nested root without CAP_SETUID": lambda: nest_without(SETUID),
    "nested root without CAP_SETGID": lambda: nest_without(SETGID),
    "nested root without CAP_SETFCAP": lambda: nest_without(SETFCAP),
    "nested unprivileged user": lambda: nest(NESTED, 5, 5049),
    "nested unprivileged user, setgroups denied": lambda: nest(NESTED, 5, 5049, setgroups="deny"),
}


def in_a_process_of_its_own(*arguments: object) -> str:
    result = subprocess.run(
        [sys.executable, __file__, *map(str, arguments)], capture_output=True, text=True, timeout=A_HANG, check=False
    )
    assert result.returncode == 0, f"{arguments}: {result.stdout}{result.stderr}"
    return result.stdout


# ---- the tests ----


def test_the_library_and_the_kernel_agree_on_every_map() -> None:
    verdicts = compare(SEED, MAPS)
    assert sum(verdicts.values()) == 2 * MAPS
    for step in ("uid_map", "gid_map"):
        assert verdicts[f"{step} 0"] > AT_LEAST
        assert verdicts[f"{step} {EINVAL}"] > AT_LEAST


@pytest.mark.root
@pytest.mark.parametrize("setting", SETTINGS)
def test_the_library_and_the_kernel_agree_for_every_caller(setting: str) -> None:
    verdicts = json.loads(in_a_process_of_its_own(setting, SEED, MAPS_IN_A_SETTING))
    assert sum(verdicts.values()) == 2 * MAPS_IN_A_SETTING
    for errno in (0, EPERM, EINVAL):
        assert sum(verdicts.get(f"{step} {errno}", 0) for step in ("uid_map", "gid_map")) > AT_LEAST


@pytest.mark.parametrize("excess", [2**32, 2**33, 2**64])
def test_numbers_that_the_kernel_would_cut_are_refused(excess: int) -> None:
    rng = random.Random(SEED)
    whole = IdMap([(0, 0, ID_COUNT)])
    for number, triples in zip(range(200), RandomMaps(rng, whole, 0), strict=False):
        if triples and min(map(min, triples)) >= 0:  # a negative number would become one of 32 bits
            where, cut = rng.randrange(len(triples)), rng.choice(((excess, 0, 0), (0, excess, 0), (0, 0, excess)))
            inside, outside, count = (number + more for number, more in zip(triples[where], cut, strict=True))
            spoilt = [*triples[:where], (inside, outside, count), *triples[where + 1 :]]
            with pytest.raises(IdMapError):
                IdMap(spoilt)
                pytest.fail(f"IDMAP_SEED={SEED}, map {number}: {spoilt}")


@pytest.mark.root
@pytest.mark.parametrize(
    ("written", "read"),
    [
        ("0:4294967296:1", "0:0:1"),
        ("4294967296:5:1", "0:5:1"),
        ("0:4294967297:1", "0:1:1"),
        ("0:5:4294967297", "0:5:1"),
        ("7:18446744073709551616:1", "7:0:1"),
    ],
)
def test_the_kernel_cuts_numbers_to_32_bits_and_the_library_refuses_them(written: str, read: str) -> None:
    text = written.replace(":", " ") + "\n"
    userns = _core.create_userns(None, text, text)
    try:
        shown = read_maps(userns)
    finally:
        userns.close()
    assert [str(IdMap.from_kernel(text)) for text in shown[:2]] == [read, read]
    with pytest.raises(IdMapError, match=written):
        IdMap.parse(written)


@pytest.mark.root
def test_the_kernel_ignores_what_follows_a_nul_and_the_library_refuses_it() -> None:
    with UsernsProcess() as holder:
        with open(f"/proc/{holder.pid}/uid_map", "wb", buffering=0) as file:
            assert file.write(b"0 100000 1\0 5 5 5") == len("0 100000 1\0 5 5 5")
        assert str(holder.uid_map) == "0:100000:1"
    with pytest.raises(IdMapError, match="5 5 5"):
        IdMap.parse("0:100000:1\0 5 5 5")


@pytest.mark.root
def test_whatever_map_the_kernel_has_taken_can_be_read() -> None:
    """Also a text of 4095 bytes that ends without a newline."""
    triples = ranges_with_text_of(mmap.PAGESIZE, range(1000))
    userns = _core.create_userns(None, kernel_text(triples).removesuffix("\n"), None)
    try:
        shown = read_maps(userns)[0]
    finally:
        userns.close()
    assert sorted(tuple(r) for r in IdMap.from_kernel(shown)) == sorted(triples)


@pytest.mark.root
def test_the_kernel_composes_maps_as_the_library_does() -> None:
    """As the initial namespace sees a namespace two levels below."""
    assert int(in_a_process_of_its_own("composition", SEED)) > AT_LEAST


@pytest.mark.root
def test_a_map_whose_outside_ids_are_out_of_sight_is_refused_and_not_misread() -> None:
    """The kernel shows 4294967295 for them."""
    assert in_a_process_of_its_own("namespace_out_of_sight").strip().startswith("range 7:4294967295:5:")


@pytest.mark.root
def test_maps_are_judged_in_a_namespace_where_no_module_can_be_imported() -> None:
    """After `Namespace.enter()` the interpreter's own files may be out of reach."""
    in_a_process_of_its_own("without imports")


def composition(seed: int) -> None:
    outer = IdMap.parse(NESTED_MANY)
    compared = 0
    with subprocess.Popen(
        ["sh", "-c", "while read pid; do cat /proc/$pid/uid_map; echo; done"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as outside:
        assert outside.stdin
        assert outside.stdout
        nest(NESTED_MANY)
        for _, triples in zip(range(40), iter(RandomMaps(random.Random(seed), outer, 0).pieces, None), strict=False):
            inner = IdMap(triples)
            with UsernsProcess(uid_map=inner) as holder:
                print(holder.pid, file=outside.stdin, flush=True)
                seen = IdMap.from_kernel("".join(iter(outside.stdout.readline, "\n")))
            assert sorted(seen) == sorted(inner.compose(outer)), f"IDMAP_SEED={seed}: {inner!s}, {seen!s}"
            compared += 1
        outside.stdin.close()
    print(compared)


def namespace_out_of_sight() -> None:
    with UsernsProcess(uid_map="7:200000:5") as holder:
        child = os.fork()
        if child == 0:
            nest(NESTED)
            try:
                IdMap.from_kernel(Path(f"/proc/{holder.pid}/uid_map").read_text())
            except IdMapError as error:
                print(error, flush=True)
            os._exit(0)
        os.waitpid(child, 0)


def without_imports() -> None:
    sys.meta_path.clear()
    nest(NESTED)
    create_userns("0:5:1", "0:5:1").close()
    become(5, 9)
    create_userns("root", "root").close()
    for maps, cause in ((("0:7:2", "root"), "no-cap-setuid"), (("root", "0:7:2"), "no-cap-setgid")):
        try:
            create_userns(*maps)
        except IdMapPermissionError as error:
            assert error.cause == cause
            assert "cannot be found out" in str(error)
        else:
            raise AssertionError(maps)


def main(what: str, seed: str = "1", maps: str = "100") -> None:
    if what == "without imports":
        without_imports()
    elif what == "composition":
        composition(int(seed))
    elif what == "namespace_out_of_sight":
        namespace_out_of_sight()
    else:
        SETTINGS[what]()
        print(json.dumps(compare(int(seed), int(maps))))


if __name__ == "__main__":
    main(*sys.argv[1:])
