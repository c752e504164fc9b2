from libc.stdint cimport int64_t, uint64_t

from _native.histogram cimport Counter, Series

cdef enum:
    HEAD_ROOM = 160           # status line and fields of a ready response, the longest form
    DIGITS_ROOM = 20          # of any 64-bit number
    RESPONSE_MAX = 64 * 1024  # bytes of a whole response; a token with many group claims is under 16 KiB

cdef class Usage:
    cdef readonly int64_t last_ns
    cdef uint64_t _taken
    cdef uint64_t _count
    cdef void note(self, int64_t now_ns) noexcept

cdef class ReadyResponse:
    cdef readonly int64_t expires_ns
    cdef readonly int64_t fresh_until_ns
    cdef readonly Series series
    cdef readonly Usage usage
    cdef readonly Counter counter  # counts the responses in addition to series and usage; None: nothing does
    cdef const char *written(self, int64_t now_ns, bint close, Py_ssize_t *size) noexcept

cdef class TokenResponse(ReadyResponse):
    cdef unsigned char *_buffer    # HEAD_ROOM bytes, then the body; the head is directly before the body
    cdef Py_ssize_t _room
    cdef Py_ssize_t _before        # bytes of the body before the digits
    cdef Py_ssize_t _after         # bytes of the body after them
    cdef Py_ssize_t _digits        # present number of digits
    cdef int64_t _second           # present value of the digits
    cdef bint _close               # whether the present head closes the connection
    cdef Py_ssize_t _head          # its size
    cdef void _write_head(self, bint close) noexcept
    cdef void _write_second(self, int64_t second) noexcept

cdef class SharedText:
    cdef readonly int64_t fresh_until_ns  # 0 without a text
    cdef bytes head
    cdef bytes body

cdef class SharedResponse(ReadyResponse):
    cdef readonly SharedText text

cdef class FixedResponse(ReadyResponse):
    cdef bytes _before
    cdef bytes _after
    cdef bint _body_has_id
