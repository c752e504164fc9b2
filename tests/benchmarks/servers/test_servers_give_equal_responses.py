"""Servers in one table give the same response to the same request; a server that does not is reported."""

import json
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager

import pytest

from benchmarks.load.nginx import nginx
from benchmarks.load.node import Node
from benchmarks.load.node_servers import NodeServers
from benchmarks.load.peers.starting import on_aiohttp, plain
from benchmarks.load.servers import METADATA, TOKEN_PATH, Listening, ask, check
from podidentity_sandbox.processes import ProgramError
from tests.benchmarks.servers.conftest import PODS

POD = "127.1.0.7"


@pytest.fixture(scope="module")
def answer(around: NodeServers, nmi: Node) -> bytes:
    return nmi.answer(around.pods[0])


@pytest.fixture(scope="module")
def peers(answer: bytes) -> Iterator[list[Listening]]:
    with plain(answer, pods=PODS, core=None) as one, on_aiohttp(answer, pods=PODS, core=None) as other:
        yield [one, other]


def test_nmi_answers_with_a_token_of_real_length(nmi: Node, answer: bytes) -> None:
    check(nmi, answer, source=POD)
    assert 1650 < len(answer) < 1850
    assert abs(len(json.loads(answer)["access_token"]) - 1500) < 5


def test_nginx_returns_nmis_answer_byte_for_byte_and_never_closes(answer: bytes) -> None:
    with nginx(answer, core=None) as server:
        check(server, answer)
        given = ask(server.address, server.port, source=POD, headers=METADATA | {"Connection": "keep-alive"})
    assert (given.status, given.body) == (200, answer)
    assert given.headers["Content-Type"] == "application/json"
    assert given.headers["Connection"] == "keep-alive"


def test_the_peers_return_the_remaining_lifetime_of_the_token(peers: list[Listening], answer: bytes) -> None:
    for server in peers:
        check(server, answer, source=POD)
        before = time.time()
        given = json.loads(ask(server.address, server.port, source=POD).body)
        assert before - 1 <= int(given["expires_on"]) - int(given["expires_in"]) <= time.time() + 1
        assert given["access_token"] == json.loads(answer)["access_token"]


@pytest.mark.parametrize(
    ("status", "path", "source", "headers"),
    [
        (400, TOKEN_PATH, POD, {}),
        (400, TOKEN_PATH.partition("&")[0], POD, METADATA),
        (404, TOKEN_PATH, "127.1.1.1", METADATA),
        (404, TOKEN_PATH + "&client_id=foreign", POD, METADATA),
        (503, TOKEN_PATH + "%2Fnever-fetched", POD, METADATA),
        (404, "/elsewhere", POD, METADATA),
        (200, TOKEN_PATH, POD, METADATA),
    ],
)
def test_the_peers_look_up_the_request_before_they_answer(
    peers: list[Listening], status: int, path: str, source: str, headers: dict[str, str]
) -> None:
    for server in peers:
        assert ask(server.address, server.port, path, source=source, headers=headers).status == status, server.name


def serving(answer: bytes, wrong: str) -> AbstractContextManager[Listening]:
    """A server that does less than NMI."""
    document = json.loads(answer)
    match wrong:
        case "fields":
            del document["client_id"]
        case "bytes":
            document["access_token"] = document["access_token"][:-17]
    return nginx(json.dumps(document, separators=(",", ":")).encode(), core=None)


def test_a_server_with_other_fields_is_rejected(answer: bytes) -> None:
    with serving(answer, "fields") as server, pytest.raises(ProgramError, match="answers with the fields"):
        check(server, answer)


def test_a_server_with_a_shorter_answer_is_rejected(answer: bytes) -> None:
    with serving(answer, "bytes") as server, pytest.raises(ProgramError, match=rf"NMI with {len(answer)}"):
        check(server, answer)


def test_a_server_without_a_token_is_rejected(peers: list[Listening], answer: bytes) -> None:
    with pytest.raises(ProgramError, match="answers 404"):
        check(peers[0], answer, source="127.1.1.1")
