"""The ids of requests: in log lines, and in the field x-ms-request-id of errors.

They have the form of UUIDs (RFC 9562, version 4): random per process, then counted. Unique and cheap, not secret. Both
lanes take their ids from here.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from libc.stdint cimport uint64_t
from libc.string cimport memcpy

import secrets

cdef bytes HEX = b"0123456789abcdef"
cdef enum:
    FIXED = 24   # characters before the counted part, with their hyphens
    COUNTED = 12

cdef unsigned char[FIXED] FIRST
cdef uint64_t number = secrets.randbits(32)


cdef int choose_first() except -1:
    cdef str text = secrets.token_hex(8)
    cdef bytes first = f"{text[:8]}-{text[8:12]}-4{text[12:15]}-8000-".encode()
    memcpy(FIRST, PyBytes_AS_STRING(first), FIXED)
    return 0


choose_first()


cdef void write_request_id(unsigned char *at) noexcept:
    """Write the next id to REQUEST_ID_LENGTH bytes at *at*."""
    global number
    cdef const char *digits = PyBytes_AS_STRING(HEX)
    cdef uint64_t rest = number
    cdef int place
    number += 1
    memcpy(at, FIRST, FIXED)
    for place in range(COUNTED):
        at[FIXED + COUNTED - 1 - place] = <unsigned char>digits[rest & 0xF]
        rest >>= 4


def next_request_id():
    cdef unsigned char[REQUEST_ID_LENGTH] text
    write_request_id(text)
    return PyBytes_FromStringAndSize(<const char *>text, REQUEST_ID_LENGTH).decode("ascii")
