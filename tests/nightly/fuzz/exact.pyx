"""Scanner and query reader on memory that ends at the last input byte, so that the address sanitizer detects overreads.

A bytes object has a zero byte after its last byte, and a connection's inbox is larger than its content.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy

from _native.query cimport Query, lacks_resource, read_query
from _native.scan cimport DONE, MORE, Head, scan_head


cdef unsigned char *copied(bytes data) except NULL:
    cdef Py_ssize_t size = PyBytes_GET_SIZE(data)
    cdef unsigned char *copy = <unsigned char *>malloc(<size_t>size)
    if copy == NULL:
        raise MemoryError()
    memcpy(copy, PyBytes_AS_STRING(data), <size_t>size)
    return copy


def scan(bytes data not None):
    """Return the same result as `_native.scan.examine`."""
    cdef Head head
    cdef unsigned char *copy = copied(data)
    cdef int step = <int>scan_head(copy, PyBytes_GET_SIZE(data), &head)
    free(copy)
    if step == <int>DONE:
        text = data[head.query.start:head.query.stop]
        return ("done", head.size, text, bool(head.metadata), bool(head.close), <int>head.kind)
    return ("more" if step == <int>MORE else "refused", 0, b"", False, False, 0)


def query(bytes text not None):
    """Return the same result as `_native.query.examine`."""
    cdef Query found
    cdef bytes resource, selector, xms_cc
    cdef unsigned char *copy = copied(text)
    cdef bint taken = read_query(copy, PyBytes_GET_SIZE(text), &found)
    free(copy)
    if not taken:
        return None
    resource = (<const char *>found.resource.start)[:found.resource.length]
    selector = (<const char *>found.selector.start)[:found.selector.length]
    xms_cc = (<const char *>found.xms_cc.start)[:found.xms_cc.length]
    return (resource, <int>found.selector_kind, selector, xms_cc)


def has_no_resource(bytes text not None):
    """Return the same result as `_native.query.has_no_resource`."""
    cdef unsigned char *copy = copied(text)
    cdef bint missing = lacks_resource(copy, PyBytes_GET_SIZE(text))
    free(copy)
    return bool(missing)
