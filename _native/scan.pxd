cdef enum Step:
    REFUSED  # zero on purpose: an accidental value must be a refusal
    MORE     # a prefix of acceptable input
    DONE

cdef enum:
    HEAD_MAX = 4096    # a token request with all fields of an SDK has under 1.5 kB
    QUERY_MAX = 1536   # a full ARM id with escaped slashes, a resource and a client capability have under 900
    FIELDS_MAX = 32    # SDKs send 5 to 12; with a service mesh's tracing about 20

cdef enum RequestKind:  # from NO_HEADER on, the numbers of nmi.server.ready_refusals.RequestKind
    NO_KIND            # zero on purpose: an accidental value must be a refusal
    TOKEN_PATH         # a GET of the token path
    NO_HEADER          # one without `Metadata: true`
    NO_RESOURCE        # one with plain parameters, none of them a resource
    NOT_GET            # another method on the token path
    UNKNOWN_IDENTITY   # a path about identities that is never proxied, with any method
    UNKNOWN_METADATA   # another path below /metadata, with any method
    UNKNOWN_OTHER      # a path elsewhere, with any method
    INSTANCE           # a GET of a path below /metadata/instance
    INSTANCE_NOT_GET   # another method there
    KINDS

cdef struct Span:
    Py_ssize_t start
    Py_ssize_t stop

cdef struct Head:
    Py_ssize_t size    # of the whole head with its blank line: the offset of the next request
    RequestKind kind   # by the request line only: TOKEN_PATH or one from NOT_GET on
    Span target        # path and query; empty for TOKEN_PATH
    Span query         # empty if the target has none
    bint metadata      # `Metadata: true` is present (any other value is refused)
    bint close         # `Connection: close` is present

cdef Step scan_head(const unsigned char *base, Py_ssize_t size, Head *head) noexcept nogil
cdef Py_ssize_t to_blank_line(const unsigned char *data, Py_ssize_t size) noexcept nogil
