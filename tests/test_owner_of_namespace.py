"""`create_userns(owner=)`: a namespace that another user owns."""

from __future__ import annotations

import os

import native
import pytest

from usernsproc import CredentialsError, IdMapError, create_userns

MAP = "0:100000:65536"
OTHER = 1234


@pytest.mark.root
def test_the_namespace_belongs_to_the_user_that_is_asked_for() -> None:
    with create_userns(MAP, MAP, owner=OTHER) as userns:
        assert userns.owner_uid == OTHER
        assert (str(userns.uid_map), str(userns.gid_map)) == (MAP, MAP)


@pytest.mark.root
def test_the_calling_process_keeps_its_ids_and_stays_dumpable() -> None:
    ids, dumpable = os.getresuid(), native.prctl(native.PR_GET_DUMPABLE)
    with create_userns(MAP, MAP, owner=OTHER):
        assert os.getresuid() == ids
        assert native.prctl(native.PR_GET_DUMPABLE) == dumpable


def test_the_callers_id_is_what_it_is_anyway() -> None:
    with create_userns("root", "root", owner=os.geteuid()) as userns:
        assert userns.owner_uid == os.geteuid()


def test_an_unprivileged_user_creates_none_for_others() -> None:
    if os.geteuid() == 0:
        with pytest.raises(CredentialsError, match="is not mapped in the caller's user namespace"):
            create_userns("root", "root", owner=2**32 - 1)
    else:
        with pytest.raises(CredentialsError, match="without CAP_SETUID only the caller's ID") as caught:
            create_userns("root", "root", owner=0)
        assert (caught.value.step, caught.value.cause) == ("owner", "no-cap-setuid")


def test_the_maps_are_looked_at_first() -> None:
    with pytest.raises(IdMapError):
        create_userns("0:0:0", "root", owner=OTHER)
