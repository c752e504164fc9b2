"""The sandbox's name server, also with hostile queries, and the server of the public names."""

import asyncio
import ipaddress
import socket
import struct
from collections.abc import AsyncIterator

import aiohttp
import pytest
from aiohttp import web
from hypothesis import given
from hypothesis import strategies as st
from typing_extensions import override

from podidentity_sandbox.public_names import NameServer, PublicNames, response_to
from podidentity_sandbox.serving import FaultyService, bound

ADDRESS = ipaddress.IPv4Address("198.18.0.1")
NAME = "management.azure.com"
A, AAAA, TXT = 1, 28, 16
NO_ERROR, FORMAT_ERROR, NO_SUCH_NAME, NOT_IMPLEMENTED = 0, 1, 3, 4


def knows(name: str) -> bool:
    return name == NAME


def query(name: str = NAME, kind: int = A, *, flags: int = 0x0100, questions: int = 1, extra: bytes = b"") -> bytes:
    labels = b"".join(bytes([len(label)]) + label.encode() for label in name.split("."))
    return struct.pack("!6H", 0x1234, flags, questions, 0, 0, 0) + labels + b"\0" + struct.pack("!2H", kind, 1) + extra


def code_of(reply: bytes) -> int:
    return int(reply[3] & 0x0F)


def addresses_in(reply: bytes) -> list[str]:
    (count,) = struct.unpack_from("!H", reply, 6)
    return [str(ipaddress.IPv4Address(reply[-4:]))] if count else []


@pytest.mark.parametrize("name", [NAME, "Management.AZURE.com"])
def test_a_known_name_has_the_address(name: str) -> None:
    reply = response_to(query(name), ADDRESS, knows)
    assert (reply[:2], code_of(reply), addresses_in(reply)) == (b"\x12\x34", NO_ERROR, ["198.18.0.1"])
    assert reply[12 : 12 + len(name) + 2] == query(name)[12 : 12 + len(name) + 2]


@pytest.mark.parametrize("kind", [AAAA, TXT])
def test_a_known_name_has_no_other_records(kind: int) -> None:
    reply = response_to(query(kind=kind), ADDRESS, knows)
    assert (code_of(reply), addresses_in(reply)) == (NO_ERROR, [])


def test_another_name_does_not_exist_and_a_query_with_edns_is_answered() -> None:
    assert code_of(response_to(query("example.com"), ADDRESS, knows)) == NO_SUCH_NAME
    option = b"\0" + struct.pack("!2HIH", 41, 1232, 0, 0)
    assert addresses_in(response_to(query(extra=option), ADDRESS, knows)) == ["198.18.0.1"]


@pytest.mark.parametrize(
    ("invalid", "code"),
    [
        *((data, FORMAT_ERROR) for data in (query(questions=2), query()[:-4], query()[:20])),
        (query().replace(b"\x0a", b"\xc0"), FORMAT_ERROR),
        (query(flags=5 << 11), NOT_IMPLEMENTED),
    ],
)
def test_an_invalid_query_is_a_format_error_and_an_update_is_not_implemented(invalid: bytes, code: int) -> None:
    assert code_of(response_to(invalid, ADDRESS, knows)) == code


@pytest.mark.parametrize("invalid", [b"", b"\0" * 11, query() + b"\0" * 512, query(flags=0x8000)])
def test_what_is_no_query_gets_no_answer(invalid: bytes) -> None:
    assert response_to(invalid, ADDRESS, knows) == b""


@given(st.binary(max_size=600))
def test_no_response_is_longer_than_its_query_and_one_record(data: bytes) -> None:
    assert len(response_to(data, ADDRESS, lambda _: True)) <= len(data) + 16


async def test_the_server_answers_on_its_socket_until_it_is_stopped() -> None:
    server, datagrams = NameServer("198.18.0.1", knows), bound(("127.0.0.1", 0), kind=socket.SOCK_DGRAM)
    port = datagrams.getsockname()[1]
    await server.start(datagrams)

    def ask() -> bytes:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
            client.settimeout(60)
            client.sendto(b"nonsense", ("127.0.0.1", port))
            client.sendto(query(), ("127.0.0.1", port))
            return client.recv(512)

    assert addresses_in(await asyncio.to_thread(ask)) == ["198.18.0.1"]
    server.stop()
    server.stop()


class Named(FaultyService):
    """Answers with its name."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name

    @override
    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        return web.Response(text=self.name)


@pytest.fixture
async def names() -> AsyncIterator[PublicNames]:
    server = PublicNames({("arm.test", "old-arm.test"): Named("arm"), ("*.blob.test",): Named("storage")})
    await server.start()
    yield server
    await server.stop()


async def ask(names: PublicNames, host: str) -> tuple[int, str]:
    async with aiohttp.ClientSession() as session, session.get(names.url, headers={"Host": host}) as response:
        return response.status, await response.text()


@pytest.mark.parametrize(
    ("host", "service"),
    [
        ("arm.test", "arm"),
        ("old-arm.test", "arm"),
        ("ARM.test:443", "arm"),
        ("one.blob.test", "storage"),
        ("two.blob.test", "storage"),
    ],
)
async def test_the_host_selects_the_service(names: PublicNames, host: str, service: str) -> None:
    assert await ask(names, host) == (200, service)
    assert names.knows(host.lower().removesuffix(":443"))


@pytest.mark.parametrize("host", ["test", "blob.test", ".blob.test", "a.b.blob.test", "arm.test.evil", "x.arm.test"])
async def test_another_host_has_no_service(names: PublicNames, host: str) -> None:
    assert (await ask(names, host))[0] == 421
    assert not names.knows(host)
