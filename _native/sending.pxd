"""Sending on a socket, and the kernel's buffer of sent bytes. Inline: `connection` calls them for each response."""

from libc.errno cimport EAGAIN, EINTR, errno
from libc.stdint cimport uint32_t

from _native.sockets cimport *


cdef inline Py_ssize_t send_in_parts(int fd, const char *data, Py_ssize_t size, Py_ssize_t most) noexcept:
    """Send in parts of *most* bytes. Return the number of bytes that the socket accepted; -1 if it failed.

    Each part is a record (MSG_EOR): the kernel checks the send buffer only for a new segment, and otherwise accepts up
    to 64 KiB more. A peer that receives the whole buffer as one segment may also wait 40 ms before it acknowledges
    (RFC 1122 §4.2.3.2).
    """
    cdef Py_ssize_t done = 0
    cdef Py_ssize_t sent, part
    while done < size:
        part = min(size - done, most)
        sent = send(fd, data + done, <size_t>part, MSG_NOSIGNAL | MSG_DONTWAIT | MSG_EOR)
        if sent < 0:
            return done if errno == EAGAIN or errno == EINTR else -1
        done += sent
        if sent < part:
            break
    return done


cdef inline uint32_t queued_bytes(int fd) noexcept:
    """Return the bytes of responses that the peer has not acknowledged; 0 if the kernel does not report them."""
    cdef uint32_t[MEMINFO_VARS] values
    return values[QUEUED] if kernel_memory(fd, values) else 0


cdef inline void reset_at_close(int fd) noexcept:
    """Let close() send a reset and free the buffers."""
    cdef linger now
    now.l_onoff, now.l_linger = 1, 0
    setsockopt(fd, SOL_SOCKET, SO_LINGER, &now, sizeof(linger))
