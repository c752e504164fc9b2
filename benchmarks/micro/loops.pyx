"""Loops around functions of the data plane that are called from C only; a call from Python would cost more than they.

Each loop goes over its texts *times* times and returns the nanoseconds of CPU that it took, and how many calls had a
result, so that the timed calls can be asserted.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from libc.stdint cimport int64_t
from posix.time cimport CLOCK_THREAD_CPUTIME_ID, clock_gettime, timespec

from _native.answers cimport ReadyAnswer
from _native.histogram cimport Series
from _native.index cimport Index, PodRecord
from _native.query cimport Query, read_query
from _native.scan cimport DONE, TOKEN_PATH, Head, scan_head

cdef enum:
    TEXTS_MAX = 512

cdef struct Texts:
    const unsigned char *start[TEXTS_MAX]
    Py_ssize_t length[TEXTS_MAX]
    int count


cdef inline int64_t cpu_ns() noexcept nogil:
    """This thread's own time: that others had the core does not count."""
    cdef timespec now
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now)
    return <int64_t>now.tv_sec * 1_000_000_000 + now.tv_nsec


cdef int lay_out(Texts *texts, list given) except -1:
    """Point *texts* at the bytes of *given*, which the caller keeps."""
    cdef bytes each
    if len(given) > <int>TEXTS_MAX:
        raise ValueError("too many texts")
    texts.count = 0
    for each in given:
        texts.start[texts.count] = <const unsigned char *>PyBytes_AS_STRING(each)
        texts.length[texts.count] = PyBytes_GET_SIZE(each)
        texts.count += 1
    return 0


def scan(list given not None, int times):
    """scan_head of each head."""
    cdef Texts texts
    cdef Head head
    cdef int at
    cdef int taken = 0
    cdef int64_t begun
    lay_out(&texts, given)
    begun = cpu_ns()
    with nogil:
        for _ in range(times):
            for at in range(texts.count):
                taken += scan_head(texts.start[at], texts.length[at], &head) == DONE
    return cpu_ns() - begun, taken


def read(list given not None, int times):
    """read_query of each query."""
    cdef Texts texts
    cdef Query query
    cdef int at
    cdef int taken = 0
    cdef int64_t begun
    lay_out(&texts, given)
    begun = cpu_ns()
    with nogil:
        for _ in range(times):
            for at in range(texts.count):
                taken += read_query(texts.start[at], texts.length[at], &query)
    return cpu_ns() - begun, taken


def scan_and_read(list given not None, int times):
    """scan_head of each head, and read_query of its query: all that a request says."""
    cdef Texts texts
    cdef Head head
    cdef Query query
    cdef const unsigned char *start
    cdef int at
    cdef int taken = 0
    cdef int64_t begun
    lay_out(&texts, given)
    begun = cpu_ns()
    with nogil:
        for _ in range(times):
            for at in range(texts.count):
                start = texts.start[at]
                if scan_head(start, texts.length[at], &head) == DONE and head.kind == TOKEN_PATH and head.metadata:
                    taken += read_query(start + head.query.start, head.query.stop - head.query.start, &query)
    return cpu_ns() - begun, taken


def find_pod(Index index not None, list keys not None, int times):
    """Index.of for each key, as the lane looks a new connection's peer up."""
    cdef int taken = 0
    cdef int64_t begun = cpu_ns()
    for _ in range(times):
        for key in keys:
            taken += index.record_of(key) is not None
    return cpu_ns() - begun, taken


def find_answer(PodRecord record not None, list given not None, int64_t now_ns, int times):
    """PodRecord.asked for each query."""
    cdef Texts texts
    cdef int at
    cdef int taken = 0
    cdef int64_t begun
    lay_out(&texts, given)
    begun = cpu_ns()
    for _ in range(times):
        for at in range(texts.count):
            taken += record.find_answer(texts.start[at], texts.length[at], now_ns) is not None
    return cpu_ns() - begun, taken


def write(ReadyAnswer answer not None, int64_t now_ns, int64_t step_ns, int times):
    """ReadyAnswer.written, *step_ns* later each time."""
    cdef Py_ssize_t size = 0
    cdef int taken = 0
    cdef int64_t begun = cpu_ns()
    for at in range(times):
        answer.written(now_ns + at * step_ns, False, &size)
        taken += size > 0
    return cpu_ns() - begun, taken


def record(Series series not None, int64_t nanoseconds, int times):
    """Series.record of a time."""
    cdef int64_t begun = cpu_ns()
    for _ in range(times):
        series.record(nanoseconds)
    return cpu_ns() - begun, times
