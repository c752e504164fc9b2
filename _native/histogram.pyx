"""Bucket counts in C arrays: one observation costs about a nanosecond.

The Prometheus collector in `nmi.server.metrics` reads them. This module neither defines metric names nor limits the
number of series: the caller takes label values from closed sets.
"""

cimport cython

import math


@cython.final
cdef class Counter:
    def __init__(self):
        pass

    def add(self):
        self.value += 1


@cython.final
cdef class Series:
    def __init__(self):
        raise TypeError("a Series is made by Histogram.series")

    cdef void record(self, int64_t nanoseconds) noexcept:
        cdef int at = 0
        if nanoseconds < 0:
            nanoseconds = 0
        # A Prometheus bucket counts values less than or equal to its bound.
        while at < self.bounds and nanoseconds > self.bound_ns[at]:
            at += 1
        self.bucket[at] += 1
        self.total_ns += <uint64_t>nanoseconds

    @property
    def sum_nanoseconds(self):
        return self.total_ns

    def observe(self, int64_t nanoseconds):
        self.record(nanoseconds)

    def counts(self):
        return tuple([self.bucket[at] for at in range(self.bounds + 1)])


@cython.final
cdef class Histogram:
    cdef readonly tuple bounds_seconds
    cdef dict _series

    def __init__(self, bounds_seconds):
        cdef tuple bounds = tuple([float(bound) for bound in bounds_seconds])
        if not 0 < len(bounds) <= BOUNDS_MAX:
            raise ValueError(f"a histogram has 1 to {BOUNDS_MAX} bounds, not {len(bounds)}")
        if not all([math.isfinite(bound) and bound > 0 for bound in bounds]):
            raise ValueError("a bound is a positive number of seconds; what lies above the last is counted anyway")
        if list(bounds) != sorted(set(bounds)):
            raise ValueError("bounds rise")
        self.bounds_seconds = bounds
        self._series = {}

    def series(self, tuple labels not None):
        cdef Series series
        cdef int at
        found = self._series.get(labels)
        if found is not None:
            return found
        series = Series.__new__(Series)
        series.labels = labels
        series.bounds = <int>len(self.bounds_seconds)
        for at in range(series.bounds):
            series.bound_ns[at] = round(<double>self.bounds_seconds[at] * 1e9)
        self._series[labels] = series
        return series

    def all_series(self):
        return list(self._series.values())
