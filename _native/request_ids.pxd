cdef enum:
    REQUEST_ID_LENGTH = 36

cdef void write_request_id(unsigned char *at) noexcept
