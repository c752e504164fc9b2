"""The index from address to pod record, and the ready responses of a pod record.

`nmi.identity.cluster_cache` is the only writer of addresses. The lane looks up the address for every request; a
lookup costs the same with ten pods as with ten thousand. A record's generation ties a response to the decision that it
is based on: `invalidate` starts a new generation, and responses of an older one are not admitted.
"""

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.object cimport PyObject
from libc.stdint cimport uint32_t
from libc.string cimport memcmp, memcpy

from _native.query cimport QUERY_MAX, SelectorKind, Text, read_query
from _native.ready_responses cimport SharedResponse
from _native.scan cimport KINDS, NO_HEADER

import socket

cdef extern from "Python.h":
    PyObject *PyDict_GetItemWithError(dict mapping, object key) except? NULL

METADATA_RESPONSES_MAX = 8  # of a pod; they contain no text of their own, only a target of at most 2 kB
READY_RESPONSES_MAX = 16  # a pod asks for a handful of resources; 16 responses of 2 kB keep a pod under 60 kB
UNKNOWN_ADDRESSES_MAX = 64  # addresses without a pod that have a record for ready refusals
cdef int UNKNOWN_MAX = UNKNOWN_ADDRESSES_MAX
cdef int RESPONSES_MAX = READY_RESPONSES_MAX
cdef int METADATA_MAX = METADATA_RESPONSES_MAX

cdef enum:
    SPELLING_MAX = 1024  # bytes of a query that is recognized without decoding; SDKs' queries have under 900


@cython.final
cdef class _CachedResponse:
    """One ready response and its request."""

    cdef bint is_spelled(self, const unsigned char *text, Py_ssize_t length) noexcept:
        return (
            self.spelled is not None
            and PyBytes_GET_SIZE(self.spelled) == length
            and memcmp(PyBytes_AS_STRING(self.spelled), text, <size_t>length) == 0
        )

    cdef bint matches(self, const Query *query) noexcept:
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
        self._responses = []

    def invalidate(self):
        self.generation += 1
        self._responses.clear()
        self._refusals = self._metadata = None
        return self.generation

    cdef ReadyResponse find_response(self, const unsigned char *text, Py_ssize_t length, int64_t now_ns):
        """Return the fresh response to the query *text*; None without one, or if `query` cannot read the text.

        Applications repeat their requests. The meaning of a query depends on its bytes only, so a query equal to an
        earlier one needs no decoding.
        """
        cdef _CachedResponse kept
        cdef Query query
        for kept in self._responses:
            if kept.is_spelled(text, length):
                return self.if_fresh(kept, now_ns)
        if not read_query(text, length, &query):
            return None
        kept = self.find_cached(&query)
        if kept is None:
            return None
        if length <= SPELLING_MAX:
            kept.spelled = PyBytes_FromStringAndSize(<const char *>text, length)
        return self.if_fresh(kept, now_ns)

    cdef ReadyResponse find_refusal(self, int kind, int64_t now_ns):
        """Return the fresh response to a request that is refused because of its *kind* (`scan`); None without one."""
        cdef ReadyResponse response
        if self._refusals is None:
            return None
        response = <ReadyResponse>self._refusals[kind]
        return None if response is None or now_ns >= response.fresh_until_ns else response

    cdef ReadyResponse find_metadata(self, const unsigned char *target, Py_ssize_t length, int64_t now_ns):
        """Return the response to a request for instance metadata with exactly this path and query, if it is fresh."""
        cdef PyObject *found
        cdef SharedResponse response
        if self._metadata is None:
            return None
        found = PyDict_GetItemWithError(self._metadata, PyBytes_FromStringAndSize(<const char *>target, length))
        if found == NULL:
            return None
        response = <SharedResponse>found
        return response if now_ns < response.text.fresh_until_ns else None

    cdef _CachedResponse find_cached(self, const Query *query):
        cdef _CachedResponse kept
        for kept in self._responses:
            if kept.matches(query):
                return kept
        return None

    cdef ReadyResponse if_fresh(self, _CachedResponse kept, int64_t now_ns):
        """Return the response if it is fresh, and count a use; else None."""
        if now_ns >= kept.response.fresh_until_ns or now_ns >= kept.response.expires_ns:
            return None
        self._uses += 1
        kept.used = self._uses
        return kept.response

    def admit(
        self, int64_t generation, *, bytes resource not None, int selector_kind, bytes selector_value not None,
        bytes xms_cc not None, ReadyResponse response not None
    ):
        cdef _CachedResponse kept, oldest
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
        for kept in self._responses:
            if kept.matches(&query):
                kept.response = response
                kept.used = self._uses
                return True
            if oldest is None or kept.used < oldest.used:
                oldest = kept
        kept = _CachedResponse.__new__(_CachedResponse)
        kept.selector_kind = selector_kind
        kept.resource = resource
        kept.selector = selector
        kept.xms_cc = xms_cc
        kept.response = response
        kept.used = self._uses
        if len(self._responses) >= RESPONSES_MAX:
            self._responses.remove(oldest)
        self._responses.append(kept)
        return True

    def admit_refusal(self, int64_t generation, int kind, ReadyResponse response not None):
        if not <int>NO_HEADER <= kind < <int>KINDS:
            raise ValueError(f"{kind} is not a kind of refusal")
        if generation != self.generation:
            return False
        if self._refusals is None:
            self._refusals = [None] * <int>KINDS
        self._refusals[kind] = response
        return True

    def admit_metadata(self, int64_t generation, bytes target not None, SharedResponse response not None):
        if generation != self.generation:
            return False
        if self._metadata is None:
            self._metadata = {}
        if target not in self._metadata and len(self._metadata) >= METADATA_MAX:
            del self._metadata[next(iter(self._metadata))]
        self._metadata[target] = response
        return True

    def metadata(self, bytes target not None, int64_t now_ns):
        return None if self.suspended else self.find_metadata(
            <const unsigned char *>PyBytes_AS_STRING(target), PyBytes_GET_SIZE(target), now_ns
        )

    def refusal(self, int kind, int64_t now_ns):
        if not <int>NO_HEADER <= kind < <int>KINDS:
            raise ValueError(f"{kind} is not a kind of refusal")
        return None if self.suspended else self.find_refusal(kind, now_ns)

    def find(
        self, bytes resource not None, int selector_kind, bytes selector_value not None, bytes xms_cc not None,
        int64_t now_ns
    ):
        cdef Query query
        cdef _CachedResponse kept
        if self.suspended:
            return None
        selector = selector_value.lower()
        refer(&query.resource, resource)
        refer(&query.selector, selector)
        refer(&query.xms_cc, xms_cc)
        query.selector_kind = <SelectorKind>selector_kind
        kept = self.find_cached(&query)
        return None if kept is None else self.if_fresh(kept, now_ns)


cdef object key_of(str address):
    """Return the key of *address*. Raise ValueError if it is not an IP address in its usual spelling."""
    cdef uint32_t number = 0
    cdef bytes packed
    try:
        if ":" in address:
            return socket.inet_pton(socket.AF_INET6, address)
        packed = socket.inet_pton(socket.AF_INET, address)
    except (OSError, UnicodeEncodeError) as error:
        raise ValueError(f"not an IP address: {address[:64]!r}") from error
    memcpy(&number, PyBytes_AS_STRING(packed), 4)  # the form of sin_addr.s_addr, which the lane uses
    return number


@cython.final
cdef class Index:
    def __init__(self):
        self._records = {}
        self._unknown = {}
        self.version = 1

    def put(self, str address not None, PodRecord record not None):
        key = key_of(address)
        self._unknown.pop(key, None)
        self._records[key] = record
        self.version += 1

    def remove(self, str address not None, PodRecord record not None):
        key = key_of(address)
        if self._records.get(key) is not record:
            return False
        del self._records[key]
        self.version += 1
        return True

    def unknown(self, str address not None):
        key = key_of(address)
        if key in self._records:
            raise ValueError(f"{address} belongs to a pod")
        found = self._unknown.get(key)
        if found is None:
            if len(self._unknown) >= UNKNOWN_MAX:
                del self._unknown[next(iter(self._unknown))]
            found = self._unknown[key] = PodRecord(None)
            self.version += 1
        return found

    def get(self, str address not None):
        return self._records.get(key_of(address))

    cdef PodRecord record_of(self, object key):
        cdef PyObject *found = PyDict_GetItemWithError(self._records, key)
        if found == NULL and self._unknown:
            found = PyDict_GetItemWithError(self._unknown, key)
        return None if found == NULL else <PodRecord>found

    def __len__(self):
        return len(self._records)
