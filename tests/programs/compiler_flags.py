"""Programs that use the package with another core. They must not import the package before that core."""

from __future__ import annotations

import os
import sys
import threading
from importlib.util import module_from_spec, spec_from_file_location


def load_core(source: str, core: str) -> None:
    """Import the file *core* as the core of the package in the folder *source*."""
    sys.path.insert(0, source)
    spec = spec_from_file_location("usernsproc._core", core)
    assert spec is not None
    assert spec.loader is not None
    sys.modules[spec.name] = module_from_spec(spec)
    spec.loader.exec_module(sys.modules[spec.name])


def use() -> None:
    import usernsproc
    from usernsproc import UsernsProcess

    own = f"0:{os.geteuid()}:1"
    with usernsproc.create_userns(own, "root") as userns:
        assert str(userns.uid_map) == own
    with UsernsProcess(uid_map="root") as holder:
        assert str(holder.uid_map) == own
        assert usernsproc.check_output(["id", "-u"], join=holder) == b"0\n"
    assert usernsproc.check_output(["id", "-u"], uid_map="root") == b"0\n"
    assert usernsproc.call(["sh", "-c", "exit 7"], uid_map="root", namespaces=["pid"], init=True) == 7


def use_in_two_threads(source: str, core: str) -> None:
    load_core(source, core)
    use()
    thread = threading.Thread(target=use)
    thread.start()
    thread.join()
    print("it runs")


def use_program(source: str, core: str, program: str) -> None:
    """Do something for which the core needs one of its helper programs; print how it fails."""
    load_core(source, core)
    import usernsproc

    try:
        if program == "launcher":
            usernsproc.call(["true"], uid_map="root", user=0)
        elif program == "holder":
            usernsproc.UsernsProcess(uid_map="root")
        else:
            raise AssertionError(program)
    except usernsproc.UsernsError as error:
        print(error.step, error.cause)
