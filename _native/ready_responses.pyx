"""Ready responses: whole HTTP responses that the fast lane sends without Python code.

A token response has one buffer, in which only the remaining seconds change. When the second changes, `expires_in` is
overwritten in place. The rest of the body moves only when the number loses a digit. The head is rewritten only then,
or if one response closes the connection and the next one does not, or vice versa. A fixed response (a refusal) is put
together for each request, because it contains a request id; its parts are shared by all pods. A shared response has a
text that its owner replaces or clears at any time, for all pods together. The result of `written` is valid until the
next call of any `written`: a caller that cannot send all of it must copy it.
"""

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.mem cimport PyMem_Free, PyMem_Malloc
from libc.string cimport memcpy, memmove

from _native.clock cimport NANOSECONDS, monotonic_ns
from _native.request_ids cimport REQUEST_ID_LENGTH, write_request_id

cdef bytes STATUS = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: "
cdef bytes KEEP = b"\r\n\r\n"
cdef bytes CLOSE = b"\r\nConnection: close\r\n\r\n"
cdef bytes BODY_END = b'"}'


cdef Py_ssize_t write_digits(int64_t number, unsigned char *at) noexcept:
    """Write *number* (not negative) in decimal to DIGITS_ROOM bytes at *at*. Return the number of digits."""
    cdef unsigned char[DIGITS_ROOM] backwards
    cdef Py_ssize_t count = 0
    cdef Py_ssize_t place
    while True:
        backwards[count] = <unsigned char>(c'0' + number % 10)
        count += 1
        number //= 10
        if number == 0:
            break
    for place in range(count):
        at[place] = backwards[count - 1 - place]
    return count


@cython.final
cdef class Usage:
    def __init__(self):
        pass

    cdef void note(self, int64_t now_ns) noexcept:
        self.last_ns = now_ns
        self._count += 1

    def touch(self):
        self.note(monotonic_ns())

    def take(self):
        cdef uint64_t since = self._count - self._taken
        self._taken = self._count
        return since


cdef class ReadyResponse:
    def __init__(self):
        raise TypeError("a ReadyResponse is a TokenResponse or a FixedResponse")

    cdef const char *written(self, int64_t now_ns, bint close, Py_ssize_t *size) noexcept:
        """Return the whole response as of *now_ns*, valid until the next call of any `written`."""
        size[0] = 0
        return NULL

    def render(self, int64_t now_ns, bint close=False):
        cdef Py_ssize_t size = 0
        cdef const char *whole = self.written(now_ns, close, &size)
        return PyBytes_FromStringAndSize(whole, size)

    def __repr__(self):
        return "<ReadyResponse>"  # the content is secret


@cython.final
cdef class TokenResponse(ReadyResponse):
    def __init__(
        self, *, bytes before not None, bytes after not None, int64_t expires_ns, int64_t fresh_until_ns,
        Series series not None, Usage usage not None
    ):
        if self._buffer != NULL:
            raise TypeError("a TokenResponse is initialized once")
        self._before = PyBytes_GET_SIZE(before)
        self._after = PyBytes_GET_SIZE(after)
        self._room = HEAD_ROOM + self._before + DIGITS_ROOM + self._after
        if self._room > RESPONSE_MAX:
            raise ValueError(f"a ready response has at most {RESPONSE_MAX} bytes, not {self._room}")
        self._buffer = <unsigned char *>PyMem_Malloc(<size_t>self._room)
        if self._buffer == NULL:
            raise MemoryError
        self.expires_ns = expires_ns
        self.fresh_until_ns = fresh_until_ns
        self.series = series
        self.usage = usage
        self._digits = 1
        self._second = 0
        memcpy(self._buffer + HEAD_ROOM, PyBytes_AS_STRING(before), <size_t>self._before)
        self._buffer[HEAD_ROOM + self._before] = c'0'
        memcpy(self._buffer + HEAD_ROOM + self._before + 1, PyBytes_AS_STRING(after), <size_t>self._after)
        self._write_head(False)

    def __dealloc__(self):
        PyMem_Free(self._buffer)

    cdef void _write_head(self, bint close) noexcept:
        """Write the head directly before the body. The longest has 63 + 20 + 23 bytes, less than HEAD_ROOM."""
        cdef unsigned char[DIGITS_ROOM] length
        cdef Py_ssize_t digits = write_digits(self._before + self._digits + self._after, length)
        cdef bytes end = CLOSE if close else KEEP
        cdef unsigned char *at
        self._head = PyBytes_GET_SIZE(STATUS) + digits + PyBytes_GET_SIZE(end)
        at = self._buffer + HEAD_ROOM - self._head
        memcpy(at, PyBytes_AS_STRING(STATUS), <size_t>PyBytes_GET_SIZE(STATUS))
        at += PyBytes_GET_SIZE(STATUS)
        memcpy(at, length, <size_t>digits)
        memcpy(at + digits, PyBytes_AS_STRING(end), <size_t>PyBytes_GET_SIZE(end))
        self._close = close

    cdef void _write_second(self, int64_t second) noexcept:
        cdef unsigned char[DIGITS_ROOM] text
        cdef unsigned char *at = self._buffer + HEAD_ROOM + self._before
        cdef Py_ssize_t digits = write_digits(second, text)
        if digits != self._digits:
            memmove(at + digits, at + self._digits, <size_t>self._after)
            self._digits = digits
            self._write_head(self._close)
        memcpy(at, text, <size_t>digits)
        self._second = second

    cdef const char *written(self, int64_t now_ns, bint close, Py_ssize_t *size) noexcept:
        cdef int64_t second = 0
        if self.expires_ns > now_ns:
            second = (self.expires_ns - now_ns) // NANOSECONDS
        if second != self._second:
            self._write_second(second)
        if close != self._close:
            self._write_head(close)
        size[0] = self._head + self._before + self._digits + self._after
        return <const char *>self._buffer + HEAD_ROOM - self._head


cdef char[RESPONSE_MAX] fixed_text  # of the FixedResponse that was written last


cdef inline char *put(char *at, bytes text) noexcept:
    """Copy *text* to *at* and return the place after it."""
    memcpy(at, PyBytes_AS_STRING(text), <size_t>PyBytes_GET_SIZE(text))
    return at + PyBytes_GET_SIZE(text)


@cython.final
cdef class FixedResponse(ReadyResponse):
    def __init__(
        self, *, bytes head not None, bytes body not None, bint body_has_id, int64_t fresh_until_ns,
        Series series not None, Usage usage not None, Counter counter=None
    ):
        if self._before is not None:
            raise TypeError("a FixedResponse is initialized once")
        size = len(head) + len(CLOSE) + len(body) + 2 * REQUEST_ID_LENGTH + len(BODY_END)
        if size > RESPONSE_MAX:
            raise ValueError(f"a ready response has at most {RESPONSE_MAX} bytes, not {size}")
        self._before = head
        self._after = body
        self._body_has_id = body_has_id
        self.expires_ns = self.fresh_until_ns = fresh_until_ns
        self.series = series
        self.usage = usage
        self.counter = counter

    cdef const char *written(self, int64_t now_ns, bint close, Py_ssize_t *size) noexcept:
        cdef char *at = put(fixed_text, self._before)
        cdef char *request_id = at
        write_request_id(<unsigned char *>at)
        at = put(at + <Py_ssize_t>REQUEST_ID_LENGTH, CLOSE if close else KEEP)
        at = put(at, self._after)
        if self._body_has_id:
            memcpy(at, request_id, <size_t>REQUEST_ID_LENGTH)
            at = put(at + <Py_ssize_t>REQUEST_ID_LENGTH, BODY_END)
        size[0] = at - fixed_text
        return fixed_text


@cython.final
cdef class SharedText:
    def __init__(self):
        pass

    def set(self, bytes head not None, bytes body not None, int64_t fresh_until_ns):
        size = len(head) + len(CLOSE) + len(body)
        if size > RESPONSE_MAX:
            raise ValueError(f"a ready response has at most {RESPONSE_MAX} bytes, not {size}")
        self.head = head
        self.body = body
        self.fresh_until_ns = fresh_until_ns

    def clear(self):
        self.fresh_until_ns = 0
        self.head = self.body = None


@cython.final
cdef class SharedResponse(ReadyResponse):
    def __init__(self, *, SharedText text not None, Series series not None, Usage usage not None):
        if self.text is not None:
            raise TypeError("a SharedResponse is initialized once")
        self.text = text
        self.series = series
        self.usage = usage

    cdef const char *written(self, int64_t now_ns, bint close, Py_ssize_t *size) noexcept:
        cdef char *at
        size[0] = 0
        if self.text.body is None:  # cleared since the response was found
            return NULL
        at = put(fixed_text, self.text.head)
        at = put(at, CLOSE if close else KEEP)
        at = put(at, self.text.body)
        size[0] = at - fixed_text
        return fixed_text
