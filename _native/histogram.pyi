from collections.abc import Sequence

class Series:
    """One C array of bucket counts; made by `Histogram.series` only."""

    @property
    def labels(self) -> tuple[str, ...]: ...
    @property
    def sum_nanoseconds(self) -> int: ...
    def observe(self, nanoseconds: int) -> None: ...
    def counts(self) -> tuple[int, ...]:
        """Counts per bucket, not cumulative; one more than there are bounds, the last for everything above."""

class Histogram:
    """Bucket bounds and the series over them. Whoever asks for series bounds their number."""

    def __init__(self, bounds_seconds: Sequence[float]) -> None: ...
    @property
    def bounds_seconds(self) -> tuple[float, ...]: ...
    def series(self, labels: tuple[str, ...]) -> Series:
        """The series of these label values, made at the first call and the same one after that."""
    def all_series(self) -> list[Series]: ...
