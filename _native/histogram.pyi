from collections.abc import Sequence
from typing import final

@final
class Series:
    """One C array of bucket counts; made by `Histogram.series` only."""

    def __init__(self) -> None:
        """Raises TypeError."""
    @property
    def labels(self) -> tuple[str, ...]: ...
    @property
    def sum_nanoseconds(self) -> int: ...
    def observe(self, nanoseconds: int) -> None:
        """Count one; a negative duration counts as 0."""
    def counts(self) -> tuple[int, ...]:
        """Counts per bucket, not cumulative; one more than there are bounds, the last for everything above."""
    __pyx_vtable__: object
    """How other compiled rooms call it."""

@final
class Histogram:
    """Bucket bounds and the series over them. Whoever asks for series bounds their number."""

    def __init__(self, bounds_seconds: Sequence[float]) -> None:
        """Raises ValueError unless there are 1 to 31 bounds, positive and rising."""
    @property
    def bounds_seconds(self) -> tuple[float, ...]: ...
    def series(self, labels: tuple[str, ...]) -> Series:
        """The series of these label values, made at the first call and the same one after that."""
    def all_series(self) -> list[Series]: ...
