"""The private parts of `subprocess.Popen` that are extended: known by name, and refused when unknown."""

from __future__ import annotations

import subprocess
from collections.abc import Callable

import pytest

from usernsproc import UsernsProcess

Script = Callable[..., str]

OTHER_POPEN = """
import inspect, os, subprocess, sys, textwrap
from leaks import assert_unchanged, state
Original = subprocess.Popen
names = [name for name in inspect.signature(Original._execute_child).parameters if name != "self"]

def recompile(method, old, new):
    '''As if the standard library's source said so.'''
    source = textwrap.dedent(inspect.getsource(method))
    assert old in source
    exec(source.replace(old, new), vars(subprocess), made := {})
    return made[method.__name__]

def replace(passed, taken):
    '''As a Python version in which `__init__` passes other values to `_execute_child`.'''
    subprocess.process_label = None
    source = textwrap.dedent(inspect.getsource(Original.__init__))
    start = source.index("self._execute_child(")
    call = source[start:source.index(")", start)]
    Original.__init__ = recompile(Original.__init__, call, f"self._execute_child({', '.join(passed)}")
    exec(f"def _execute_child(self, {', '.join(taken)}): raise AssertionError", scope := {})
    Original._execute_child = scope["_execute_child"]

def refusal():
    from usernsproc import UsernsProcess
    before = state()
    for arguments in (["true"],), (None,):
        try:
            UsernsProcess(*arguments, uid_map="root")
        except NotImplementedError as error:
            text = str(error)
        else:
            raise AssertionError("it was not refused")
    assert_unchanged(before)
    return text
"""


def test_values_are_known_by_name(script: Script) -> None:
    """Their order is that of the running Python, whatever it is."""
    script(
        OTHER_POPEN
        + """
import usernsproc
other = [*reversed(names)]
replace(other, other)
result = usernsproc.run(["sh", "-c", "id -u; pwd; echo $NAME; umask"], uid_map="root", stdout=subprocess.PIPE, cwd="/",
                        env={"NAME": "value", "PATH": os.environ["PATH"]}, umask=0o27)
assert result.stdout == b"0\\n/\\nvalue\\n0027\\n", result.stdout
"""
    )


def test_an_unknown_parameter_is_named(script: Script) -> None:
    script(
        OTHER_POPEN
        + """
replace([*names, "process_label"], [*names, "process_label"])
text = refusal()
assert "_execute_child has the unknown parameter process_label" in text, text
assert sys.version.split()[0] in text
"""
    )


def test_a_parameter_that_is_no_longer_there_is_named(script: Script) -> None:
    script(
        OTHER_POPEN
        + """
replace(names[:-1], names[:-1])
text = refusal()
assert f"_execute_child lacks the parameter {names[-1]}" in text, text
"""
    )


def test_a_call_that_does_not_fit_the_method_is_refused(script: Script) -> None:
    script(
        OTHER_POPEN
        + """
replace(names[:-1], names)
assert "passes 22 values to _execute_child, which has 23 parameters" in refusal()
"""
    )


@pytest.mark.parametrize("name", ["_close_pipe_fds", "_communicate", "_internal_poll", "_wait"])
def test_a_method_that_is_no_longer_there_is_named(name: str, script: Script) -> None:
    script(
        OTHER_POPEN
        + f"""
method = Original.{name}
del Original.{name}
assert "there is no {name}" in refusal()
"""
    )


def test_an_attribute_that_is_no_longer_there_is_named(script: Script) -> None:
    script(
        OTHER_POPEN
        + """
Original.__init__ = recompile(Original.__init__, "_waitpid_lock", "_other_lock")
assert "there is no _waitpid_lock" in refusal()
"""
    )


def test_a_tool_may_record_calls(script: Script) -> None:
    """Wrappers that observability tools put around methods are seen through."""
    script(
        """
import functools, subprocess
calls = []
def recorded(method):
    @functools.wraps(method)
    def wrapper(*args, **kwargs):
        calls.append(method.__name__)
        return method(*args, **kwargs)
    return wrapper
for name in ("__init__", "_execute_child", "wait"):
    setattr(subprocess.Popen, name, recorded(getattr(subprocess.Popen, name)))
import usernsproc
assert usernsproc.call(["true"], uid_map="root") == 0
assert calls == ["__init__", "wait", "wait"], calls
"""
    )


def test_another_class_in_its_place_does_not_matter(script: Script) -> None:
    """A test double, say: the base class is the standard library's."""
    script(
        """
import subprocess
class Fake:
    def __init__(self, *args, **options):
        raise AssertionError
subprocess.Popen = Fake
import usernsproc
assert usernsproc.check_output(["id", "-u"], uid_map="root") == b"0\\n"
try:
    usernsproc.run(["sleep", "30"], uid_map="root", timeout=0.1, capture_output=True)
except subprocess.TimeoutExpired:
    pass
"""
    )


def test_it_is_a_popen() -> None:
    assert issubclass(UsernsProcess, subprocess.Popen)
