"""The handover: an NMI that starts takes the sockets of the NMI that serves this node, so that no request fails.

The *predecessor* serves and listens on a Unix socket of the node. The *successor* connects to it, synchronises, and
takes the sockets. `messages` and `protocol` are pure, `channel` transports messages and descriptors, `predecessor` and
`successor` are the two ends.
"""
