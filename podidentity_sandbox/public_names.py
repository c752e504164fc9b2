"""Azure's services at their public names, as programs that know no other cloud request them from pods.

One address serves all of them over TLS and selects the service by the host of the request; the name server resolves the
names to this address. Only pods with a network namespace use them. The certificates are from the sandbox's authority.

The name server does not use a package: these include zone files, resolvers and DNSSEC, and reading a query and writing
its response takes twenty lines with `struct`. A response is at most one record longer than its query, so the server
cannot amplify traffic.
"""

import asyncio
import ipaddress
import socket
import ssl
import struct
from collections.abc import Callable, Iterable, Mapping
from typing import Final, cast

from aiohttp import web
from typing_extensions import override

from podidentity_sandbox.certificates import Authority
from podidentity_sandbox.serving import HttpService, json_response

HTTPS_PORT: Final = 443
DNS_PORT: Final = 53
ARM_NAMES: Final = ("management.azure.com", "management.core.windows.net")
AAD_NAMES: Final = ("login.microsoftonline.com", "login.microsoft.com", "login.windows.net", "sts.windows.net")
QUERY_MAX: Final = 512
"""The maximum size of a query over UDP in bytes (RFC 1035, 4.2.1)."""
TTL_SECONDS: Final = 5
_HEADER: Final = struct.Struct("!6H")
_QUESTION: Final = struct.Struct("!2H")
_RECORD: Final = struct.Struct("!3HIH4s")
_ADDRESS, _INTERNET = 1, 1
_RESPONSE, _AUTHORITATIVE, _RECURSION_DESIRED = 0x8000, 0x0400, 0x0100
_OPCODE: Final = 0x7800
_FORMAT_ERROR, _NO_SUCH_NAME, _NOT_IMPLEMENTED = 1, 3, 4
_LABEL_MAX: Final = 63


class PublicNames(HttpService):
    """A server for services that are started elsewhere. Each has the names for which it is responsible."""

    scheme = "https"

    def __init__(self, services: Mapping[tuple[str, ...], HttpService]) -> None:
        super().__init__()
        self._services: dict[str, HttpService] = {}
        for names, service in services.items():
            self.add(names, service)

    def add(self, names: Iterable[str], service: HttpService) -> None:
        """Add a service before the start. A star in a name is any first label."""
        self._services |= dict.fromkeys(names, service)

    def knows(self, host: str) -> bool:
        """Return whether a service has this name, which is in lower case."""
        return self._service(host) is not None

    def context(self, authority: Authority) -> ssl.SSLContext:
        """Return the TLS context with a certificate for all names. Blocks while it makes a key."""
        return authority.server_context(self._services)

    @override
    async def respond(self, request: web.BaseRequest) -> web.StreamResponse:
        service = self._service(request.host.partition(":")[0].lower())
        if service is None:
            return json_response({"error": {"code": "UnknownHost", "message": "no such service"}}, status=421)
        return await service.respond(request)

    def _service(self, host: str) -> HttpService | None:
        service = self._services.get(host)
        if service is None:
            account, dot, rest = host.partition(".")
            service = self._services.get(f"*.{rest}") if account and dot else None
        return service


def response_to(query: bytes, address: ipaddress.IPv4Address, exists: Callable[[str], bool]) -> bytes:
    """Return the response to *query*; empty if *query* is not a DNS query.

    *exists* receives a name in lower case and returns whether the server has it. Such a name has one record of type A,
    with *address*, and no records of other types. The response for any other name is NXDOMAIN.
    """
    if not _HEADER.size <= len(query) <= QUERY_MAX:
        return b""
    number, flags, questions, *_ = _HEADER.unpack_from(query)
    if flags & _RESPONSE:  # two servers could respond to each other without end
        return b""
    copied = flags & (_OPCODE | _RECURSION_DESIRED) | _RESPONSE | _AUTHORITATIVE
    if flags & _OPCODE:
        return _HEADER.pack(number, copied | _NOT_IMPLEMENTED, 0, 0, 0, 0)
    name, end = _read_name(query)
    if questions != 1 or not end or len(query) < end + _QUESTION.size:
        return _HEADER.pack(number, copied | _FORMAT_ERROR, 0, 0, 0, 0)
    kind, group = _QUESTION.unpack_from(query, end)
    question = query[_HEADER.size : end + _QUESTION.size]
    if not exists(name):
        return _HEADER.pack(number, copied | _NO_SUCH_NAME, 1, 0, 0, 0) + question
    record = b""
    if (kind, group) == (_ADDRESS, _INTERNET):
        record = _RECORD.pack(0xC000 | _HEADER.size, _ADDRESS, _INTERNET, TTL_SECONDS, 4, address.packed)
    return _HEADER.pack(number, copied, 1, int(bool(record)), 0, 0) + question + record


def _read_name(query: bytes) -> tuple[str, int]:
    """Return the name of the first question, in lower case, and the index after it. The index is 0 if it is invalid."""
    labels: list[str] = []
    at = _HEADER.size
    while at < len(query):
        length = query[at]
        at += 1
        if length == 0:
            return ".".join(labels).lower(), at
        if length > _LABEL_MAX or at + length > len(query):
            break  # a compressed name, which a query with one question cannot need
        labels.append(query[at : at + length].decode("latin-1"))
        at += length
    return "", 0


class NameServer(asyncio.DatagramProtocol):
    """The server of the names for which *exists* returns True. It responds on the socket that `start` receives."""

    def __init__(self, address: str, exists: Callable[[str], bool]) -> None:
        self._address = ipaddress.IPv4Address(address)
        self._exists = exists
        self._transport: asyncio.DatagramTransport | None = None

    async def start(self, listener: socket.socket) -> None:
        """Serve on *listener*, a bound UDP socket. This object owns the socket from now on."""
        await asyncio.get_running_loop().create_datagram_endpoint(lambda: self, sock=listener)

    @override
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.DatagramTransport", transport)  # uvloop's class is no subclass

    @override
    def datagram_received(self, data: bytes, addr: tuple[str | object, int]) -> None:
        reply = response_to(data, self._address, self._exists)
        if reply and self._transport is not None:
            self._transport.sendto(reply, addr)

    def stop(self) -> None:
        """Close the socket. Idempotent."""
        if self._transport is not None:
            self._transport.close()
