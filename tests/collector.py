"""Python's garbage collector, and when it is in the way."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def at_rest() -> Iterator[bool]:
    """Until the end of the block nobody looks for garbage by himself. Is it the outermost of such blocks?"""
    outermost = gc.isenabled()
    gc.disable()
    try:
        yield outermost
    finally:
        if outermost:
            gc.enable()
