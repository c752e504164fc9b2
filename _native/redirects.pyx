"""The original destination of a connection that a nat rule of this node redirected (SO_ORIGINAL_DST).

An error of the kernel means that the connection was not redirected: ENOENT if the kernel tracks connections but not
this one, ENOPROTOOPT if it tracks none.
"""

cimport cython
from libc.stdint cimport uint16_t

from _native.sockets cimport *

import socket
import struct


@cython.final
cdef class Redirects:
    def __init__(self, str address not None, uint16_t port):
        (self.address,) = struct.unpack("=I", socket.inet_aton(address))
        self.port = htons(port)

    cdef bint matches(self, int fd) noexcept:
        """Return whether the original destination of *fd* is this address and port. One system call."""
        cdef sockaddr_in meant
        cdef socklen_t size = sizeof(sockaddr_in)
        if getsockopt(fd, IPPROTO_IP, SO_ORIGINAL_DST, &meant, &size) != 0:
            return False
        return meant.sin_addr.s_addr == self.address and meant.sin_port == self.port


cdef bint leads_to_loopback(int fd) noexcept:
    """Return whether the local address of *fd* is in 127.0.0.0/8, which no other machine reaches."""
    cdef sockaddr_in local
    cdef socklen_t size = sizeof(sockaddr_in)
    if getsockname(fd, <sockaddr *>&local, &size) != 0:
        return False
    return ntohl(local.sin_addr.s_addr) >> 24 == 127


cdef object redirected_from(int fd):
    """Return the original destination of *fd*, (address, port), or None if not redirected. Two system calls."""
    cdef sockaddr_in meant, local
    cdef socklen_t size = sizeof(sockaddr_in)
    if getsockopt(fd, IPPROTO_IP, SO_ORIGINAL_DST, &meant, &size) != 0:
        return None
    size = sizeof(sockaddr_in)
    if getsockname(fd, <sockaddr *>&local, &size) != 0:
        return None
    if meant.sin_addr.s_addr == local.sin_addr.s_addr and meant.sin_port == local.sin_port:
        return None
    return dotted(meant.sin_addr.s_addr), ntohs(meant.sin_port)
