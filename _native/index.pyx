"""Which pod an address is, and the answers that stand ready for it.

`nmi.identity.feed` is the only writer; the lane looks an address up for every request. A lookup costs the same with
ten pods and with ten thousand. A record's generation is what ties an answer to the decision it came from:
`invalidate` begins a new one, and nothing decided under an older one is let in.
"""

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from cpython.object cimport PyObject
from libc.stdint cimport uint32_t
from libc.string cimport memcmp, memcpy

from _native.query cimport QUERY_MAX, SelectorKind, Text

import socket

cdef extern from "Python.h":
    PyObject *PyDict_GetItemWithError(dict mapping, object key) except? NULL

READY_ANSWERS_MAX = 16  # a pod asks for a handful of resources; 16 answers of 2 kB keep a pod under 40 kB
cdef int KEPT_MAX = READY_ANSWERS_MAX


@cython.final
cdef class _Kept:
    """One ready answer and the request it answers."""
    cdef int selector_kind
    cdef bytes resource
    cdef bytes selector
    cdef bytes xms_cc
    cdef ReadyAnswer answer
    cdef uint64_t used  # the record's count of uses when this was last used: the least goes first

    cdef bint answers(self, const Query *query) noexcept:
        return (
            self.selector_kind == <int>query.selector_kind
            and equal(self.resource, &query.resource)
            and equal(self.selector, &query.selector)
            and equal(self.xms_cc, &query.xms_cc)
        )


cdef inline bint equal(bytes kept, const Text *asked) noexcept:
    return (
        PyBytes_GET_SIZE(kept) == asked.length
        and memcmp(PyBytes_AS_STRING(kept), asked.start, <size_t>asked.length) == 0
    )


cdef void refer(Text *text, bytes to) noexcept:
    text.start = <const unsigned char *>PyBytes_AS_STRING(to)
    text.length = PyBytes_GET_SIZE(to)


@cython.final
cdef class PodRecord:
    def __init__(self, owner):
        self.owner = owner
        self._kept = []

    def invalidate(self):
        self.generation += 1
        self._kept.clear()
        return self.generation

    cdef ReadyAnswer lookup(self, const Query *query, int64_t now_ns):
        """The answer to *query* if one is kept and still fresh."""
        cdef _Kept kept
        for kept in self._kept:
            if kept.answers(query):
                if now_ns >= kept.answer.fresh_until_ns or now_ns >= kept.answer.expires_ns:
                    return None
                self._uses += 1
                kept.used = self._uses
                return kept.answer
        return None

    def admit(
        self, int64_t generation, *, bytes resource not None, int selector_kind, bytes selector_value not None,
        bytes xms_cc not None, ReadyAnswer answer not None
    ):
        cdef _Kept kept, oldest
        cdef Query query
        if generation != self.generation or len(resource) + len(selector_value) + len(xms_cc) > QUERY_MAX:
            return False
        selector = selector_value.lower()
        refer(&query.resource, resource)
        refer(&query.selector, selector)
        refer(&query.xms_cc, xms_cc)
        query.selector_kind = <SelectorKind>selector_kind
        self._uses += 1
        oldest = None
        for kept in self._kept:
            if kept.answers(&query):
                kept.answer = answer
                kept.used = self._uses
                return True
            if oldest is None or kept.used < oldest.used:
                oldest = kept
        kept = _Kept.__new__(_Kept)
        kept.selector_kind = selector_kind
        kept.resource = resource
        kept.selector = selector
        kept.xms_cc = xms_cc
        kept.answer = answer
        kept.used = self._uses
        if len(self._kept) >= KEPT_MAX:
            self._kept.remove(oldest)
        self._kept.append(kept)
        return True

    def find(
        self, bytes resource not None, int selector_kind, bytes selector_value not None, bytes xms_cc not None,
        int64_t now_ns
    ):
        cdef Query query
        if self.suspended:
            return None
        selector = selector_value.lower()
        refer(&query.resource, resource)
        refer(&query.selector, selector)
        refer(&query.xms_cc, xms_cc)
        query.selector_kind = <SelectorKind>selector_kind
        return self.lookup(&query, now_ns)


cdef object key_of(str address):
    """Raises ValueError if *address* is no IP address in its ordinary spelling."""
    cdef uint32_t number = 0
    cdef bytes packed
    try:
        if ":" in address:
            return socket.inet_pton(socket.AF_INET6, address)
        packed = socket.inet_pton(socket.AF_INET, address)
    except (OSError, UnicodeEncodeError) as error:
        raise ValueError(f"not an IP address: {address[:64]!r}") from error
    memcpy(&number, PyBytes_AS_STRING(packed), 4)  # as the kernel puts it into sin_addr.s_addr, where the lane takes it
    return number


@cython.final
cdef class Index:
    def __init__(self):
        self._records = {}

    def put(self, str address not None, PodRecord record not None):
        self._records[key_of(address)] = record

    def remove(self, str address not None, PodRecord record not None):
        key = key_of(address)
        if self._records.get(key) is not record:
            return False
        del self._records[key]
        return True

    def get(self, str address not None):
        return self._records.get(key_of(address))

    cdef PodRecord of(self, object key):
        cdef PyObject *found = PyDict_GetItemWithError(self._records, key)
        return None if found == NULL else <PodRecord>found

    def __len__(self):
        return len(self._records)
