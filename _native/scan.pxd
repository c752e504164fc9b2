cdef enum Step:
    REFUSED  # zero on purpose: an accidental value must be a refusal
    MORE     # a prefix of acceptable input
    DONE

cdef enum:
    HEAD_MAX = 4096    # a token request with all fields of an SDK has under 1.5 kB
    QUERY_MAX = 1536   # a full ARM id with escaped slashes, a resource and a client capability have under 900
    FIELDS_MAX = 32    # SDKs send 5 to 12; with a service mesh's tracing about 20

cdef struct Span:
    Py_ssize_t start
    Py_ssize_t stop

cdef struct Head:
    Py_ssize_t size    # of the whole head with its blank line: the offset of the next request
    Span query
    bint metadata      # `Metadata: true` is present (any other value is refused)
    bint close         # `Connection: close` is present

cdef Step scan_head(const unsigned char *base, Py_ssize_t size, Head *head) noexcept nogil
cdef Py_ssize_t to_blank_line(const unsigned char *data, Py_ssize_t size) noexcept nogil
