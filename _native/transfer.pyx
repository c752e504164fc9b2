"""Transfer of open connections to the lane of another process: NMI's handover (`nmi.handover`)."""

from libc.stdint cimport uint32_t

from _native.clock cimport monotonic_ns
from _native.connection cimport CLOSED, FRESH, IDLE, UNACKNOWLEDGED_MAX, Connection
from _native.sockets cimport *


cdef list release_idle(list connections, int most):
    """Return the descriptors of connections on which nothing is pending, *most* at most; their lane forgets them."""
    cdef Connection connection
    cdef list released = []
    for slot in connections:
        if len(released) >= most:
            break
        if slot is not None:
            connection = <Connection>slot
            if can_be_released(connection):
                released.append(release(connection))
    return released


cdef bint can_be_released(Connection connection) noexcept:
    """Return whether everything received was answered and everything written was sent."""
    return (
        (connection.state == IDLE or connection.state == FRESH)
        and connection.unread is None and connection.unsent is None and connection.due is None
    )


cdef int release(Connection connection) except -1:
    """Return the descriptor and forget the connection without closing it."""
    cdef int fd = connection.fd
    if connection.registered:  # a registration outlives the descriptor while another process has a duplicate
        epoll_ctl(connection.lane.epoll, EPOLL_CTL_DEL, fd, NULL)
    connection.fd = -1
    connection.state = CLOSED
    connection.record = None
    connection.leave_lane()
    connection.queue_disconnect()
    return fd


cdef bint is_connected(int fd, uint32_t *address) noexcept:
    """Return whether *fd* has a peer, and store its IPv4 address. A connection may have ended during its transfer."""
    cdef sockaddr_in peer
    cdef socklen_t size = sizeof(sockaddr_in)
    if getpeername(fd, <sockaddr *>&peer, &size) != 0 or peer.sin_family != AF_INET:
        return False
    address[0] = peer.sin_addr.s_addr
    return True


cdef int continue_adopted(Connection connection) except -1:
    """Begin with the state of a connection whose requests another process has answered."""
    connection.state = IDLE
    connection.deadline_ns = monotonic_ns() + connection.lane.idle_ns
    connection.sent = UNACKNOWLEDGED_MAX + 1  # unknown, so the kernel is asked before the connection is closed
    return connection.arm()
