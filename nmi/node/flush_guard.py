"""The flush guard: a table of nftables that belongs to this process and survives `nft flush ruleset`.

This flush removes the redirect and the reject, and NMI needs a few hundred milliseconds to restore them. In that time
pods' requests would reach the real IMDS. The kernel (5.12 or newer) lets no other process change a table with the flag
`owner`, and a flush skips it. The guard rejects forwarded packets to IMDS, which the redirect normally prevents. The
kernel removes it when its netlink socket is closed, so that it never outlives the process.
"""

import errno
import os
import socket
import struct
from collections.abc import Iterable
from typing import Final

from nmi.node.rules import RedirectSpec

TABLE_PREFIX: Final = "aad-pod-identity-"
"""The table's name continues with the netlink port of its socket: during a handover two NMIs have one each."""
CHAIN: Final = "forward"

# The numbers of linux/netfilter/nfnetlink.h and nf_tables.h.
_NETFILTER: Final = 12
_BATCH_BEGIN, _BATCH_END = 0x10, 0x11
_SUBSYSTEM: Final = 10
_NEW_TABLE, _NEW_CHAIN, _NEW_RULE = ((_SUBSYSTEM << 8) | number for number in (0, 3, 6))
_REQUEST, _ACK, _CREATE, _APPEND = 0x1, 0x4, 0x400, 0x800
_IPV4: Final = 2
_OWNER: Final = 0x2
_FORWARD, _ACCEPT = 2, 1
_REGISTER: Final = 1
_L4_PROTOCOL: Final = 16
_NETWORK_HEADER, _TRANSPORT_HEADER = 1, 2
_DESTINATION_OFFSET, _PORT_OFFSET = 16, 2
_TCP_RESET: Final = 1
_ERROR: Final = 2
_NESTED: Final = 0x8000
_DATAGRAM_MAX: Final = 1 << 16
_RESPONSE_SECONDS: Final = 5.0


class FlushGuard:
    """The table, from construction to close(). Needs CAP_NET_ADMIN. Blocks for milliseconds. Raises OSError."""

    def __init__(self, to: RedirectSpec) -> None:
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _NETFILTER)
        try:
            self._socket.settimeout(_RESPONSE_SECONDS)
            # The kernel chooses a port that no other socket has, so the tables of two NMIs have two names.
            self._socket.bind((0, 0))
            self.table = f"{TABLE_PREFIX}{self._socket.getsockname()[0]}"
            self._socket.send(creation(self.table, to))
            self._confirm()
        except BaseException:
            self._socket.close()
            raise

    def close(self) -> None:
        """Remove the table."""
        self._socket.close()

    def _confirm(self) -> None:
        """Read the kernel's response: one acknowledgement, or the error of the message that failed."""
        response = self._socket.recv(_DATAGRAM_MAX)
        _, kind, _, _, _, error = struct.unpack_from("=IHHIIi", response)
        if kind != _ERROR:
            raise OSError(errno.EPROTO, "the kernel's answer is not an acknowledgement")
        if error:
            raise OSError(-error, os.strerror(-error))


def creation(table: str, to: RedirectSpec) -> bytes:
    """Return the netlink messages of one transaction that creates *table* with its chain and rule."""
    named = _text(1, table)
    hook = _nested(4, _number(1, _FORWARD) + _number(2, 0))
    expressions = b"".join(_expression(name, data) for name, data in _rejected(to))
    return b"".join(
        (
            _message(_BATCH_BEGIN, _REQUEST, b"", family=0, resource=_SUBSYSTEM),
            _message(_NEW_TABLE, _REQUEST | _CREATE, named + _number(2, _OWNER)),
            _message(
                _NEW_CHAIN,
                _REQUEST | _CREATE,
                named + _text(3, CHAIN) + hook + _number(5, _ACCEPT) + _text(7, "filter"),
            ),
            # The kernel applies all messages or none, so one acknowledgement is enough.
            _message(_NEW_RULE, _REQUEST | _CREATE | _APPEND | _ACK, named + _text(2, CHAIN) + _nested(4, expressions)),
            _message(_BATCH_END, _REQUEST, b"", family=0, resource=_SUBSYSTEM),
        )
    )


def _rejected(to: RedirectSpec) -> Iterable[tuple[str, bytes]]:
    """Yield name and attributes of each expression of the rule, which rejects what `RedirectSpec.reject` rejects."""
    yield "meta", _number(1, _REGISTER) + _number(2, _L4_PROTOCOL)
    yield "cmp", _equals(bytes([socket.IPPROTO_TCP]))
    yield "payload", _loads(_NETWORK_HEADER, _DESTINATION_OFFSET, 4)
    yield "cmp", _equals(socket.inet_aton(to.metadata_ip))
    yield "payload", _loads(_TRANSPORT_HEADER, _PORT_OFFSET, 2)
    yield "cmp", _equals(struct.pack("!H", to.metadata_port))
    yield "reject", _number(1, _TCP_RESET) + _attribute(2, b"\0")


def _loads(header: int, offset: int, size: int) -> bytes:
    return _number(1, _REGISTER) + _number(2, header) + _number(3, offset) + _number(4, size)


def _equals(value: bytes) -> bytes:
    return _number(1, _REGISTER) + _number(2, 0) + _nested(3, _attribute(1, value))


def _expression(name: str, data: bytes) -> bytes:
    return _nested(1, _text(1, name) + _nested(2, data))


def _message(kind: int, flags: int, content: bytes, *, family: int = _IPV4, resource: int = 0) -> bytes:
    body = struct.pack("!BBH", family, 0, resource) + content
    return struct.pack("=IHHII", 16 + len(body), kind, flags, 0, 0) + body


def _attribute(kind: int, value: bytes) -> bytes:
    return struct.pack("=HH", 4 + len(value), kind) + value + bytes(-len(value) % 4)


def _nested(kind: int, content: bytes) -> bytes:
    return _attribute(kind | _NESTED, content)


def _number(kind: int, value: int) -> bytes:
    return _attribute(kind, struct.pack("!I", value))


def _text(kind: int, value: str) -> bytes:
    return _attribute(kind, value.encode() + b"\0")
