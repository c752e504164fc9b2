"""The scanner that recognizes the head of an ordinary request in raw bytes, without allocation or exception.

It accepts a strict subset of the general lane's input, with the same meaning; a differential test compares the two.
REFUSED therefore means "not for the fast lane", never "answer 400": the caller hands the same bytes to the general
lane. When in doubt, refuse.

A head is accepted if it is complete and consists of

* `GET`, the token path (`metadata` in any case, one leading slash more and one trailing slash allowed), a query,
  `HTTP/1.1`, ended by CR LF as every line is;
* or a common method and another plain path (`scan_other_line`): the general lane refuses such a request for its request
  line alone, and a refusal of the same kind may be ready. HEAD is left to the general lane, because its response has no
  body;
* exactly one Host that is a plain name or IPv4 address with an optional port; at most one Metadata, whose value is
  `true`; at most one Connection, `keep-alive` or `close`; at most one Content-Type;
* no field that could announce a body, an upgrade, a forwarded request or another meaning of the connection, except for
  one `Content-Length: 0` in a request that is not a GET of the token path: clients send it with POST and PUT;
* otherwise any fields of visible ASCII, ignored like in the general lane.

The scanner always starts at the head's first byte, so its limits count across reads.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from libc.stdint cimport uint64_t
from libc.string cimport memcmp, memcpy

cdef extern from "string.h":
    void *memmem(const void *where, size_t size, const void *what, size_t length) nogil

cdef enum ByteClass:
    TOKEN = 1   # RFC 9110 §5.6.2 tchar: the bytes of a field name
    VALUE = 2   # RFC 9110 §5.5 field-vchar, SP and HTAB, without obs-text (%x80-FF): left to the general lane
    QUERY = 4   # RFC 3986 §3.4 pchar, "/" and "?", without "+" and ";", which parsers read differently
    HOST = 8    # RFC 3986 §3.2.2 reg-name without escapes, "~" and sub-delims; no "[" of an IPv6 literal either
    SEGMENT = 16  # a path segment in normal form (`nmi.server.target`), without the dots inside it

cdef enum:
    PATH_MAX = 256  # bytes of a path that is not the token path; IMDS's own have under 100

cdef uint64_t ONES = 0x0101010101010101

cdef struct Cursor:
    const unsigned char *base
    Py_ssize_t pos
    Py_ssize_t end

cdef struct Seen:
    int fields
    int hosts
    int connections
    int lengths
    int types

cdef unsigned char[256] CLASS  # ByteClass bits of each byte
cdef unsigned char[256] LOWER  # ASCII only: the C library's tolower() asks the locale

cdef int fill_tables() except -1:
    cdef bytes letters_digits = b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"
    cdef int byte
    for byte in range(256):
        CLASS[byte] = 0
        LOWER[byte] = <unsigned char>(byte + 32 if 65 <= byte <= 90 else byte)
    for byte in letters_digits + b"!#$%&'*+-.^_`|~":
        CLASS[byte] |= TOKEN
    for byte in bytes(range(0x20, 0x7F)) + b"\t":
        CLASS[byte] |= VALUE
    for byte in letters_digits + b"-._~" + b"%" + b"!$&'()*,=" + b":@/?":
        CLASS[byte] |= QUERY
    for byte in letters_digits + b"-._":
        CLASS[byte] |= HOST
    for byte in letters_digits + b"-_":
        CLASS[byte] |= SEGMENT
    return 0

fill_tables()


cdef inline void skip(Cursor *c, unsigned char wanted) noexcept nogil:
    """Move past all bytes of class *wanted*."""
    cdef const unsigned char *at = c.base + c.pos  # a local, which stays in a register
    cdef const unsigned char *end = c.base + c.end
    while at < end and CLASS[at[0]] & wanted:
        at += 1
    c.pos = at - c.base


cdef inline bint all_printable(const unsigned char *at) noexcept nogil:
    """Return whether the 8 bytes at *at* are all from 0x20 to 0x7E.

    Any other byte has its top bit set, or gets it by adding 1 (0x7F) or by subtracting 0x20 (smaller bytes). A carry or
    borrow into the next byte comes only from a byte that fails.
    """
    cdef uint64_t word = 0
    memcpy(&word, at, 8)
    return (word | (word + ONES) | (word - 0x20 * ONES)) & (0x80 * ONES) == 0


cdef inline void skip_value(Cursor *c) noexcept nogil:
    """Move past all bytes of class VALUE, eight at a time if possible: most bytes of a head are of this class."""
    while c.end - c.pos >= 8 and all_printable(c.base + c.pos):
        c.pos += 8
    skip(c, VALUE)


cdef inline Step expect(Cursor *c, const char *wanted, Py_ssize_t length) noexcept nogil:
    """Move past exactly these bytes."""
    cdef Py_ssize_t here = c.end - c.pos
    if here < length:
        return MORE if memcmp(c.base + c.pos, wanted, <size_t>here) == 0 else REFUSED
    if memcmp(c.base + c.pos, wanted, <size_t>length) != 0:
        return REFUSED
    c.pos += length
    return DONE


cdef inline bint same(const unsigned char *text, const char *lower, Py_ssize_t length) noexcept nogil:
    """Return whether *length* bytes of *text* equal *lower* (lower case), in any letter case."""
    cdef Py_ssize_t at
    for at in range(length):
        if LOWER[text[at]] != <unsigned char>lower[at]:
            return False
    return True


cdef inline Step expect_any_case(Cursor *c, const char *lower, Py_ssize_t length) noexcept nogil:
    """Move past these bytes in any letter case."""
    cdef Py_ssize_t here = c.end - c.pos
    if not same(c.base + c.pos, lower, length if length < here else here):
        return REFUSED
    if here < length:
        return MORE
    c.pos += length
    return DONE


cdef inline void skip_one(Cursor *c, unsigned char wanted) noexcept nogil:
    """Move past one byte if it equals *wanted*."""
    if c.pos < c.end and c.base[c.pos] == wanted:
        c.pos += 1


cdef Step scan_request_line(Cursor *c, Head *head) noexcept nogil:
    """RFC 9112 §3: method SP request-target SP HTTP-version CRLF; the target in origin-form (§3.2.1) with a query."""
    cdef Step step = expect(c, b"GET /", 5)
    if step != DONE:
        return step
    skip_one(c, c'/')
    step = expect_any_case(c, b"metadata", 8)
    if step != DONE:
        return step
    step = expect(c, b"/identity/oauth2/token", 22)
    if step != DONE:
        return step
    skip_one(c, c'/')
    step = expect(c, b"?", 1)  # without a query there is no resource, and the general lane returns the error
    if step != DONE:
        return step
    head.query.start = c.pos
    skip(c, QUERY)
    head.query.stop = c.pos
    if head.query.stop - head.query.start > QUERY_MAX:
        return REFUSED
    return expect(c, b" HTTP/1.1\r\n", 11)


cdef Step scan_method(Cursor *c, bint *get) noexcept nogil:
    """Move past a method with its space. Other methods have another response, or llhttp refuses them."""
    cdef Step step = expect(c, b"GET ", 4)
    get[0] = step == DONE
    if step == REFUSED:
        step = expect(c, b"POST ", 5)
    if step == REFUSED:
        step = expect(c, b"DELETE ", 7)
    if step == REFUSED:
        step = expect(c, b"OPTIONS ", 8)
    if step == REFUSED:
        step = expect(c, b"PUT ", 4)
    if step == REFUSED:
        step = expect(c, b"PATCH ", 6)
    return step


cdef Step scan_path(Cursor *c) noexcept nogil:
    """Move past a path in normal form, from after its first slash: no empty segment, no escape, single inner dots."""
    cdef Py_ssize_t segment
    while True:
        segment = c.pos
        skip(c, SEGMENT)
        while c.pos < c.end and c.base[c.pos] == c'.' and c.pos > segment and c.base[c.pos - 1] != c'.':
            c.pos += 1
            skip(c, SEGMENT)
        if c.pos == c.end:
            return MORE
        if c.pos > segment and c.base[c.pos - 1] == c'.':
            return REFUSED
        if c.base[c.pos] != c'/':
            return DONE
        if c.pos == segment:
            return REFUSED
        c.pos += 1


cdef bint contains(const unsigned char *text, Py_ssize_t size, const char *lower, Py_ssize_t length) noexcept nogil:
    """Return whether *text* contains *lower* (lower case), in any letter case."""
    cdef Py_ssize_t at
    for at in range(size - length + 1):
        if same(text + at, lower, length):
            return True
    return False


cdef RequestKind kind_of_path(const unsigned char *path, Py_ssize_t size, bint get) noexcept nogil:
    """Return the kind of a request by its *path*, which is in normal form and excludes the first slash.

    The rules are those of `nmi.server.target.resolve`, in its order. NO_KIND: the general lane decides.
    """
    cdef Py_ssize_t first = 0
    cdef bint metadata
    while first < size and path[first] != c'/':
        first += 1
    metadata = first == 8 and same(path, b"metadata", 8)
    if contains(path, size, b"identity", 8):
        if metadata and size >= 30 and memcmp(path + 8, b"/identity/oauth2/token", 22) == 0 and (
            size == 30 or (size == 31 and path[30] == c'/')
        ):
            return TOKEN_PATH if get else NOT_GET
        return NO_KIND if contains(path, size, b"token", 5) else UNKNOWN_IDENTITY
    if first == 4 and same(path, b"host", 4):
        return NO_KIND
    if not metadata:
        return UNKNOWN_OTHER
    if size >= 17 and same(path + 8, b"/instance", 9) and (size == 17 or path[17] == c'/'):
        return INSTANCE if get else INSTANCE_NOT_GET
    return UNKNOWN_METADATA


cdef Step scan_other_line(Cursor *c, Head *head) noexcept nogil:
    """Like scan_request_line, for the other kinds of requests; a query is optional and has no meaning for them."""
    cdef bint get = False
    cdef Py_ssize_t start
    cdef Step step = scan_method(c, &get)
    if step == DONE:
        step = expect(c, b"/", 1)
    if step != DONE:
        return step
    start = c.pos
    step = scan_path(c)
    if step != DONE:
        return step
    if c.pos - start > PATH_MAX:
        return REFUSED
    head.kind = kind_of_path(c.base + start, c.pos - start, get)
    if head.kind == NO_KIND:
        return REFUSED
    if c.base[c.pos] == c'?':
        c.pos += 1
        head.query.start = c.pos
        skip(c, QUERY)
        head.query.stop = c.pos
        if head.query.stop - head.query.start > QUERY_MAX:
            return REFUSED
    else:
        head.query.start = head.query.stop = c.pos
    head.target.start, head.target.stop = start - 1, c.pos
    return expect(c, b" HTTP/1.1\r\n", 11)


cdef bint plain_host(const unsigned char *value, Py_ssize_t length) noexcept nogil:
    """RFC 9110 §7.2: uri-host [":" port], the host not empty, the port 1 to 5 digits."""
    cdef Py_ssize_t at = 0
    cdef Py_ssize_t digits
    while at < length and CLASS[value[at]] & HOST:
        at += 1
    if at == 0:
        return False
    if at == length:
        return True
    if value[at] != c':':
        return False
    digits = length - at - 1
    if not 1 <= digits <= 5:
        return False
    for at in range(at + 1, length):
        if not c'0' <= value[at] <= c'9':
            return False
    return True


cdef bint check_field(
    const unsigned char *name, Py_ssize_t name_length, const unsigned char *value, Py_ssize_t length,
    Head *head, Seen *seen
) noexcept nogil:
    """Return False if the field makes the request unsuitable for the fast lane."""
    if name_length == 2:
        # A TE without its Connection option has no meaning (RFC 9110 §10.1.4), but it is not ordinary either.
        return not same(name, b"te", 2)
    if name_length == 4:
        if same(name, b"host", 4):
            seen.hosts += 1
            return seen.hosts == 1 and plain_host(value, length)
        return True
    if name_length == 6:
        return not same(name, b"expect", 6)
    if name_length == 7:
        return not (same(name, b"upgrade", 7) or same(name, b"trailer", 7))
    if name_length == 8:
        if same(name, b"metadata", 8):
            if head.metadata or length != 4 or not same(value, b"true", 4):
                return False
            head.metadata = True
        return True
    if name_length == 10:
        if same(name, b"connection", 10):
            seen.connections += 1
            if seen.connections > 1:
                return False
            if length == 5 and same(value, b"close", 5):
                head.close = True
                return True
            return length == 10 and same(value, b"keep-alive", 10)
        return True
    if name_length == 12:
        if same(name, b"content-type", 12):
            seen.types += 1
            return seen.types == 1
        return True
    if name_length == 14:
        if same(name, b"content-length", 14):
            seen.lengths += 1
            return head.kind != TOKEN_PATH and seen.lengths == 1 and length == 1 and value[0] == c'0'
        return True
    if name_length == 15:
        return not same(name, b"x-forwarded-for", 15)
    if name_length == 16:
        return not same(name, b"proxy-connection", 16)  # llhttp, under the general lane, reads it like Connection
    if name_length == 17:
        return not same(name, b"transfer-encoding", 17)
    return True


cdef Step scan_fields(Cursor *c, Head *head) noexcept nogil:
    """RFC 9112 §5: field-name ":" OWS field-value OWS CRLF, up to the empty line. Each is judged at its line's end."""
    cdef Seen seen
    cdef Py_ssize_t name, name_length, value, stop
    cdef Step step
    seen.fields = seen.hosts = seen.connections = seen.lengths = seen.types = 0
    while True:
        if c.pos < c.end and c.base[c.pos] == c'\r':
            step = expect(c, b"\r\n", 2)
            if step == DONE and seen.hosts != 1:  # RFC 9112 §3.2: not exactly one Host is a 400
                return REFUSED
            return step
        name = c.pos
        skip(c, TOKEN)
        name_length = c.pos - name
        if c.pos == c.end:
            return MORE
        # No space before the colon (RFC 9112 §5.1) and no line that continues the one above (obs-fold, §5.2).
        if name_length == 0 or c.base[c.pos] != c':':
            return REFUSED
        c.pos += 1
        while c.pos < c.end and (c.base[c.pos] == c' ' or c.base[c.pos] == c'\t'):
            c.pos += 1
        value = c.pos
        skip_value(c)
        stop = c.pos
        step = expect(c, b"\r\n", 2)
        if step != DONE:
            return step
        while stop > value and (c.base[stop - 1] == c' ' or c.base[stop - 1] == c'\t'):
            stop -= 1
        seen.fields += 1
        if seen.fields > FIELDS_MAX:
            return REFUSED
        if not check_field(c.base + name, name_length, c.base + value, stop - value, head, &seen):
            return REFUSED


cdef Step scan_head(const unsigned char *base, Py_ssize_t size, Head *head) noexcept nogil:
    """Scan the head at *base*. *head* is valid after DONE only; its offsets count from *base*."""
    cdef Cursor c
    cdef Step step
    c.base = base
    c.pos = 0
    c.end = size if size < HEAD_MAX else HEAD_MAX
    head.size = head.query.start = head.query.stop = head.target.start = head.target.stop = 0
    head.metadata = head.close = False
    head.kind = TOKEN_PATH
    step = scan_request_line(&c, head)
    if step == REFUSED:
        c.pos = 0
        step = scan_other_line(&c, head)
    if step == DONE:
        step = scan_fields(&c, head)
    head.size = c.pos
    if step == MORE and size >= HEAD_MAX:
        return REFUSED
    return step


def examine(bytes data not None):
    cdef Head head
    cdef Step step = scan_head(<const unsigned char *>PyBytes_AS_STRING(data), PyBytes_GET_SIZE(data), &head)
    if step == DONE:
        query = data[head.query.start:head.query.stop]
        return ("done", head.size, query, bool(head.metadata), bool(head.close), <int>head.kind)
    return ("more" if step == MORE else "refused", 0, b"", False, False, 0)


cdef Py_ssize_t to_blank_line(const unsigned char *data, Py_ssize_t size) noexcept nogil:
    """Return the number of bytes for one call of the general lane: to the end of the first head, to keep calls short.

    If two requests end within them, one is the body of the other's head, or began in an earlier read.
    """
    cdef const void *found = memmem(data, <size_t>size, b"\r\n\r\n", 4)
    return size if found == NULL else <const unsigned char *>found - data + 4
