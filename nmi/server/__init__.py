"""The general lane: the full HTTP grammar, routes, handlers, pass-through, and the only file with status codes.

It is handed every request that the fast lane (`_native.lane`) did not answer, byte for byte. It writes through the
lane's connection, never to a socket.
"""
