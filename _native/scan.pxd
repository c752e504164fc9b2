cdef enum Step:
    REFUSED  # zero on purpose: an accident must look like a refusal
    MORE     # so far a prefix of something acceptable
    DONE

cdef enum:
    HEAD_MAX = 4096    # a token request with all that an SDK sends is under 1.5 kB
    QUERY_MAX = 1536   # a full ARM id, its slashes escaped, beside a resource and a client capability is under 900
    FIELDS_MAX = 32    # SDKs send 5 to 12; with a service mesh's tracing about 20

cdef struct Span:
    Py_ssize_t start
    Py_ssize_t stop

cdef struct Head:
    Py_ssize_t size    # of the whole head, its blank line included: the next request begins here
    Span query
    bint metadata      # `Metadata: true` was there (any other value is refused)
    bint close         # `Connection: close` was there

cdef Step scan_head(const unsigned char *base, Py_ssize_t size, Head *head) noexcept nogil
cdef Py_ssize_t to_blank_line(const unsigned char *data, Py_ssize_t size) noexcept nogil
