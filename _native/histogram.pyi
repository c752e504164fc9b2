from collections.abc import Sequence
from typing import final

@final
class Counter:
    """A count that compiled modules increase without a call."""

    def __init__(self) -> None: ...
    @property
    def value(self) -> int: ...
    def add(self) -> None: ...

@final
class Series:
    """One C array of bucket counts. Created by `Histogram.series` only."""

    def __init__(self) -> None:
        """Raise TypeError."""
    @property
    def labels(self) -> tuple[str, ...]: ...
    @property
    def sum_nanoseconds(self) -> int: ...
    def observe(self, nanoseconds: int) -> None:
        """Count one duration; a negative one counts as 0."""
    def counts(self) -> tuple[int, ...]:
        """Return the counts per bucket, not cumulative. The last bucket, after the bounds, counts larger values."""
    __pyx_vtable__: object
    """C methods for other compiled modules."""

@final
class Histogram:
    """Bucket bounds and their series. The caller limits the number of series."""

    def __init__(self, bounds_seconds: Sequence[float]) -> None:
        """Raise ValueError unless there are 1 to 31 bounds, positive and increasing."""
    @property
    def bounds_seconds(self) -> tuple[float, ...]: ...
    def series(self, labels: tuple[str, ...]) -> Series:
        """Return the series of these label values. The first call creates it; later calls return the same one."""
    def all_series(self) -> list[Series]: ...
