"""Where a peer meant to connect before a nat rule of this node redirected it here.

The kernel knows (SO_ORIGINAL_DST). Its errors mean that nothing was rewritten: ENOENT when it tracks connections, but
not this one, ENOPROTOOPT when it tracks none.
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
        """Whether the peer of *fd* meant this address and port. One system call."""
        cdef sockaddr_in meant
        cdef socklen_t size = sizeof(sockaddr_in)
        if getsockopt(fd, IPPROTO_IP, SO_ORIGINAL_DST, &meant, &size) != 0:
            return False
        return meant.sin_addr.s_addr == self.address and meant.sin_port == self.port


cdef object redirected_from(int fd):
    """Where the peer of *fd* meant to connect, (address, port), or None if that was here. Two system calls."""
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
