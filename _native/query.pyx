"""The parser of a token request's query: percent-decoding, and the parameters that a ready response depends on.

Like `scan`, it accepts a strict subset of the general lane's input. It leaves the following to the general lane: a
parameter with another name or an escaped name, a repeated parameter, two selectors, a parameter that is empty or has no
"=", a missing resource, a bad escape, "+" and ";" (form decoding and plain decoding read them differently), and a value
that is not printable ASCII after decoding (so that lower-casing concerns 26 letters only). `api-version` is accepted
and ignored, as in the general lane.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.string cimport memcmp

cdef enum:
    PLAIN_MAX = 8  # parameters of a query without a resource; SDKs send three

cdef enum Field:
    UNKNOWN  # zero on purpose: an accidental value must be a refusal
    RESOURCE
    SELECTOR
    XMS_CC
    API_VERSION
    FIELDS


cdef inline int hex_digit(unsigned char byte) noexcept nogil:
    """Return the value of a hex digit (RFC 3986 §2.1), or -1."""
    if c'0' <= byte <= c'9':
        return byte - c'0'
    if c'a' <= byte <= c'f':
        return byte - c'a' + 10
    if c'A' <= byte <= c'F':
        return byte - c'A' + 10
    return -1


cdef Field field_named(const unsigned char *name, Py_ssize_t length, Query *query) noexcept nogil:
    """Return the field of an exact name, as in Azure's endpoint. Store a selector's kind in *query*."""
    if length == 6 and memcmp(name, b"xms_cc", 6) == 0:
        return XMS_CC
    if length == 8 and memcmp(name, b"resource", 8) == 0:
        return RESOURCE
    if length == 11 and memcmp(name, b"api-version", 11) == 0:
        return API_VERSION
    if length == 9 and memcmp(name, b"client_id", 9) == 0:
        query.selector_kind = CLIENT_ID
        return SELECTOR
    if length == 9 and memcmp(name, b"object_id", 9) == 0:
        query.selector_kind = OBJECT_ID
        return SELECTOR
    if (length == 9 and memcmp(name, b"mi_res_id", 9) == 0) or (
        length == 10 and (memcmp(name, b"msi_res_id", 10) == 0 or memcmp(name, b"msi-res-id", 10) == 0)
    ):
        query.selector_kind = RESOURCE_ID
        return SELECTOR
    return UNKNOWN


cdef bint read_query(const unsigned char *text, Py_ssize_t length, Query *query) noexcept nogil:
    """Decode *text* into *query*, whose texts point into itself: it may not be copied. False refuses."""
    cdef Py_ssize_t pos = 0  # in text
    cdef Py_ssize_t out = 0  # in query.decoded; never ahead of pos, so it needs no separate limit
    cdef Py_ssize_t start
    cdef Field field
    cdef Text *target
    cdef bint[FIELDS] seen
    cdef int high, low, value
    if length < 1 or length > QUERY_MAX:
        return False
    query.selector_kind = NO_SELECTOR
    query.resource.start = query.selector.start = query.xms_cc.start = query.decoded
    query.resource.length = query.selector.length = query.xms_cc.length = 0
    for start in range(FIELDS):
        seen[start] = False
    while True:
        start = pos
        while pos < length and text[pos] != c'=' and text[pos] != c'&':
            pos += 1
        if pos == length or text[pos] == c'&':  # no "=", or empty
            return False
        field = field_named(text + start, pos - start, query)
        if field == UNKNOWN or seen[<int>field]:
            return False
        seen[<int>field] = True
        pos += 1
        start = out
        while pos < length and text[pos] != c'&':
            value = text[pos]
            pos += 1
            if value == c'%':
                if length - pos < 2:
                    return False
                high = hex_digit(text[pos])
                low = hex_digit(text[pos + 1])
                if high < 0 or low < 0:
                    return False
                value = high * 16 + low
                pos += 2
            elif value == c'+' or value == c';':
                return False
            if not 0x20 <= value <= 0x7E:
                return False
            if field == SELECTOR and c'A' <= value <= c'Z':
                value += 32
            query.decoded[out] = <unsigned char>value
            out += 1
        if out == start:
            return False
        if field != API_VERSION:
            target = &query.resource if field == RESOURCE else &query.selector if field == SELECTOR else &query.xms_cc
            target.start = query.decoded + start
            target.length = out - start
        if pos == length:
            return seen[<int>RESOURCE]
        pos += 1  # over the "&"; one at the very end is followed by a parameter without "=", and refused


cdef bint lacks_resource(const unsigned char *text, Py_ssize_t length) noexcept nogil:
    """Return whether the general lane refuses *text* because it contains no resource with a value.

    *text* is of the class QUERY of `scan`. The name and the value of each parameter must be plain: an escape may be
    malformed, and its decoded text may repeat a name.
    """
    cdef Py_ssize_t[PLAIN_MAX] names, lengths
    cdef Py_ssize_t pos = 0
    cdef Py_ssize_t start
    cdef int count = 0
    cdef int at
    if length == 0:
        return True
    if length > QUERY_MAX:
        return False
    while True:
        start = pos
        while pos < length and text[pos] != c'=' and text[pos] != c'&':
            if text[pos] == c'%':
                return False
            pos += 1
        if pos == start or count == PLAIN_MAX:
            return False
        names[count], lengths[count] = start, pos - start
        for at in range(count):
            if lengths[at] == pos - start and memcmp(text + names[at], text + start, <size_t>(pos - start)) == 0:
                return False
        count += 1
        if pos < length and text[pos] == c'=':
            pos += 1
            if pos - start == 9 and memcmp(text + start, b"resource=", 9) == 0 and pos < length and text[pos] != c'&':
                return False
            while pos < length and text[pos] != c'&':
                if text[pos] == c'%':
                    return False
                pos += 1
        if pos == length:
            return True
        pos += 1


cdef bytes copied(const Text *text):
    return PyBytes_FromStringAndSize(<const char *>text.start, text.length)


def has_no_resource(bytes text not None):
    return bool(lacks_resource(<const unsigned char *>PyBytes_AS_STRING(text), PyBytes_GET_SIZE(text)))


def examine(bytes text not None):
    cdef Query query
    if not read_query(<const unsigned char *>PyBytes_AS_STRING(text), PyBytes_GET_SIZE(text), &query):
        return None
    return (copied(&query.resource), <int>query.selector_kind, copied(&query.selector), copied(&query.xms_cc))
