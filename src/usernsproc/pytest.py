"""A plugin of pytest: tests that run in user namespaces.

    @pytest.mark.userns(uid_map="rootless", namespaces=["mnt", "net"])
    def test_of_root(): ...

It is loaded by pytest, as an entry point.
"""

from __future__ import annotations

from ._pytest.plugin import pytest_configure, userns, userns_process

__all__ = ["pytest_configure", "userns", "userns_process"]
