from _native.scan cimport QUERY_MAX

cdef enum SelectorKind:  # the numbers of nmi.identity.request.SelectorKind
    NO_SELECTOR = 0
    CLIENT_ID = 1
    OBJECT_ID = 2
    RESOURCE_ID = 3

cdef struct Text:
    const unsigned char *start  # in Query.decoded, or in a caller's bytes
    Py_ssize_t length

cdef struct Query:
    SelectorKind selector_kind
    Text resource
    Text selector     # lower-case: compared that way
    Text xms_cc
    unsigned char[QUERY_MAX] decoded

cdef bint lacks_resource(const unsigned char *text, Py_ssize_t length) noexcept nogil
cdef bint read_query(const unsigned char *text, Py_ssize_t length, Query *query) noexcept nogil
