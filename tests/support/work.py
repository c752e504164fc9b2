"""Counts of work, which are the same on each machine, in place of measured times."""

import gc
import logging
import sys
from collections.abc import Callable
from types import FrameType
from typing import Any, Self


class Work:
    """Counter of the bytecodes that are executed in its context.

    Without garbage collection, which would execute finalizers of objects of other tests, and without logging, whose
    work depends on the handlers and levels of pytest.
    """

    def __init__(self) -> None:
        self.bytecodes = 0
        self._former: Any = None

    def __enter__(self) -> Self:
        gc.disable()
        logging.disable()
        self._former = sys.gettrace()
        sys.settrace(self._called)
        return self

    def __exit__(self, *_: object) -> None:
        sys.settrace(self._former)
        logging.disable(logging.NOTSET)
        gc.enable()

    def _called(self, frame: FrameType, _event: str, _argument: object) -> Any:
        frame.f_trace_opcodes, frame.f_trace_lines = True, False
        return self._executed

    def _executed(self, _frame: FrameType, event: str, _argument: object) -> Any:
        self.bytecodes += event == "opcode"
        return self._executed


def calls(work: Callable[[], object]) -> int:
    """Return how many functions *work* calls, Python's and C's. Cython's are not counted."""
    count = 0

    def note(_frame: FrameType, event: str, _argument: object) -> None:
        nonlocal count
        count += event in {"call", "c_call"}

    gc.collect()
    gc.disable()  # a collection calls finalizers of other tests' objects, and Hypothesis' callback
    sys.setprofile(note)
    try:
        work()
    finally:
        sys.setprofile(None)
        gc.enable()
    return count
