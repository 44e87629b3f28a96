"""Said once: importing `typing` takes longer than all of this package. Type checkers know the name."""

TYPE_CHECKING = False
