"""The messages of a handover, and their form as packets of bounded size. Pure.

Unknown fields are ignored, so that a version can add fields. Descriptors are not part of a packet; `channel` sends them
with it.
"""

from collections.abc import Iterable, Sequence
from typing import Annotated, Final, Literal, TypeAlias

import msgspec
from typing_extensions import override

ACKNOWLEDGED_VERSION: Final = 2
"""From this version on, connections are acknowledged, and a successor that gives back returns its own."""
TOKENS_VERSION: Final = 2
"""From this version on, the predecessor passes tokens."""
VERSIONS: Final = (1, 2)
"""The protocol versions of this NMI."""

PACKET_MAX: Final = 128 * 1024
"""Bytes of a packet: less than the kernel's default send buffer of a Unix socket (212,992)."""

TOKEN_BYTES_MAX: Final = 90 * 1024
"""Bytes of one message with tokens, before base64."""
TOKEN_MESSAGES_MAX: Final = 128
"""Messages with tokens of one handover."""

DESCRIPTORS_MAX: Final = 64
"""Descriptors with one packet; the kernel allows 253."""

SocketName: TypeAlias = Literal["listener", "probes", "metrics", "node_listener"]
_Text = Annotated[str, msgspec.Meta(max_length=256)]
_Port = Annotated[int, msgspec.Meta(ge=0, le=65535)]


class ProtocolError(Exception):
    """The peer violates the protocol. The message names the violation and contains nothing that the peer chose."""


class Hello(msgspec.Struct, frozen=True, kw_only=True, tag="hello"):
    """The successor's first message: its versions and ports."""

    versions: Annotated[tuple[int, ...], msgspec.Meta(max_length=32)]
    release: _Text
    listen_address: _Text
    listen_port: _Port
    probe_port: _Port
    metrics_port: _Port
    node_address: _Text = ""
    """The node's own address, where this NMI can serve redirected connections at listen_port; "" if it cannot, and
    from an older NMI."""


class Welcome(msgspec.Struct, frozen=True, kw_only=True, tag="welcome"):
    """The predecessor registers the successor, and will send it these sockets."""

    version: int
    release: _Text
    sockets: Annotated[tuple[SocketName, ...], msgspec.Meta(max_length=4)]
    """`node_listener` only for a successor that knows node_address."""


class Rejection(msgspec.Struct, frozen=True, tag="rejection"):
    """The predecessor serves on; the successor must not serve. The last message."""

    reason: _Text


class Take(msgspec.Struct, frozen=True, tag="take"):
    """The successor is synchronised and requests the sockets."""


class Tokens(msgspec.Struct, frozen=True, tag="tokens"):
    """Cached tokens in the form of `nmi.tokens.transfer`, which may be invalid. Since version 2."""

    packet: Annotated[bytes, msgspec.Meta(max_length=TOKEN_BYTES_MAX)]

    @override
    def __repr__(self) -> str:
        return f"Tokens({len(self.packet)} bytes)"


class Sockets(msgspec.Struct, frozen=True, tag="sockets"):
    """The predecessor accepts no connections any more. One descriptor per name, in this order."""

    names: Annotated[tuple[SocketName, ...], msgspec.Meta(max_length=DESCRIPTORS_MAX)]


class Taken(msgspec.Struct, frozen=True, tag="taken"):
    """The successor serves."""


class Retired(msgspec.Struct, frozen=True, tag="retired"):
    """The predecessor has noticed, and will not serve again unless the successor ends."""


class Connections(msgspec.Struct, frozen=True, tag="connections"):
    """Idle connections, one descriptor each: of a retired predecessor, or after `resumed` of its successor."""

    count: Annotated[int, msgspec.Meta(ge=1, le=DESCRIPTORS_MAX)]


class Adopted(msgspec.Struct, frozen=True, tag="adopted"):
    """The receiver owns the last connections; until then the sender keeps them, too. Since version 2."""


class GiveBack(msgspec.Struct, frozen=True, tag="give_back"):
    """The successor stops, and requests that the predecessor serves again."""


class Resumed(msgspec.Struct, frozen=True, tag="resumed"):
    """The predecessor serves again. The last message of version 1."""


class PassedOn(msgspec.Struct, frozen=True, tag="passed_on"):
    """Another NMI has taken the sockets from the successor: its end is no reason for the predecessor to serve."""


Message: TypeAlias = (
    Hello
    | Welcome
    | Rejection
    | Take
    | Tokens
    | Sockets
    | Taken
    | Retired
    | Connections
    | Adopted
    | GiveBack
    | Resumed
    | PassedOn
)

_decoder: Final = msgspec.json.Decoder(Message)


def encode(message: Message) -> bytes:
    """Return the packet of *message*. Raise ProtocolError if it is too large."""
    packet = msgspec.json.encode(message)
    if len(packet) > PACKET_MAX:
        raise ProtocolError("a message is too large")
    return packet


def decode(packet: bytes) -> Message:
    """Return the message in *packet*. Raise ProtocolError for anything else."""
    if len(packet) > PACKET_MAX:
        raise ProtocolError("a packet is too large")
    try:
        message: Message = _decoder.decode(packet)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        raise ProtocolError("a packet contains no message") from None
    return message


def descriptors_of(message: Message) -> int:
    """Return the number of descriptors that come with *message*."""
    match message:
        case Sockets(names):
            return len(names)
        case Connections(count):
            return count
        case _:
            return 0


def common_version(versions: Iterable[int]) -> int | None:
    """Return the highest version of both ends, or None."""
    return max(set(versions) & set(VERSIONS), default=None)


def shared_sockets(
    hello: Hello, listen: tuple[str, int], probe_port: int, metrics_port: int, node_address: str
) -> tuple[SocketName, ...]:
    """Return the sockets that a successor with these settings can use; it binds the others itself.

    *node_address* is where this NMI serves redirected connections; "" if it does not.
    """
    shared: Sequence[tuple[SocketName, bool]] = (
        # A successor with other settings would serve at an address to which no rule redirects.
        ("listener", (hello.listen_address, hello.listen_port) == listen),
        ("probes", hello.probe_port == probe_port),
        ("metrics", hello.metrics_port == metrics_port),
        ("node_listener", node_address != "" and (hello.node_address, hello.listen_port) == (node_address, listen[1])),
    )
    return tuple(name for name, same in shared if same)
