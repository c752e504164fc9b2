"""Test beds of several kinds, one after the other: the next kind replaces the former bed."""

import contextlib
from types import TracebackType
from typing import Self

from tests.realnode.bed import Bed
from tests.realnode.options import Options
from tests.realnode.scenario import Scenarios


class Beds:
    """The current test bed with its prober pods. Use it in a `with` block, from the main thread."""

    def __init__(self) -> None:
        self._current: Scenarios | None = None
        self._removal = contextlib.ExitStack()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, failure: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.remove()

    def get(self, options: Options) -> Scenarios:
        """Return a bed with these options, which is the current one if its options are equal. Raise BedError.

        A new bed has no chart and no prober pods.
        """
        if self._current is None or self._current.bed.options != options:
            self.remove()
            self._current = Scenarios(self._removal.enter_context(Bed(options)))
        return self._current

    def remove(self) -> None:
        """Remove the current bed, for example after a failure that leaves it in an unknown state."""
        self._current = None
        self._removal.close()
