"""The requests of the load generator: for the fast lane, for instance metadata, and as SDKs send them."""

import re
from collections.abc import Callable

import pytest

from _native import query, scan
from benchmarks.load import requests
from benchmarks.load.generator import Request
from nmi.server.ready_refusals import Kind

CLIENT_ID = "5f8d0c1e-2b7a-4c55-9a34-7f9e2d1c0b6a"
TOKEN = {**requests.SDKS, "curl": requests.curl, "plain": requests.plain}


@pytest.mark.parametrize("client_id", ["", CLIENT_ID])
@pytest.mark.parametrize("name", TOKEN)
def test_a_token_request_can_use_the_fast_lane(name: str, client_id: str) -> None:
    for request in (TOKEN[name](client_id), TOKEN[name](client_id).closing()):
        outcome, size, asked, metadata, close, _ = scan.examine(request.text)
        assert (outcome, size, metadata) == ("done", len(request.text), True)
        assert close == (b"Connection: close" in request.text)
        found = query.examine(asked)
        assert found is not None, "the general lane would have to read the query"
        resource, _, selector, xms_cc = found
        assert resource.rstrip(b"/") == b"https://management.azure.com"
        assert (selector, xms_cc) == (client_id.encode(), b"")


def test_instance_metadata_is_no_token_request() -> None:
    outcome, *_, kind = scan.examine(requests.instance_metadata().text)
    assert (outcome, kind) == ("done", Kind.INSTANCE), "no token request"


def test_the_plain_request_has_the_length_of_earlier_results() -> None:
    assert len(requests.plain().text) == 218


@pytest.mark.parametrize("name", TOKEN)
def test_an_id_is_within_the_uuid_that_the_sdk_generates(name: str) -> None:
    request = TOKEN[name](CLIENT_ID)
    field = re.search(rb"(?i)\r\nx-ms-client-request-id: ([0-9a-f-]{36})\r\n", request.text)
    assert bool(field) == bool(request.ids) == (name not in {"curl", "plain", "azure-identity, Java"})
    for at in request.ids:
        assert field
        assert at == field.end(1) - 17, "its last 16 digits, and the hyphen between them"


@pytest.mark.parametrize(
    ("made", "meant"),
    [
        (b"GET / HTTP/1.1\r\nHost: h\r\n\r\n", b"GET / HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n"),
        (
            b"GET / HTTP/1.1\r\nconnection: Keep-Alive\r\nHost: h\r\n\r\n",
            b"GET / HTTP/1.1\r\nConnection: close\r\nHost: h\r\n\r\n",
        ),
        (
            b"GET / HTTP/1.1\r\nConnection: close\r\nHost: h\r\n\r\n",
            b"GET / HTTP/1.1\r\nConnection: close\r\nHost: h\r\n\r\n",
        ),
        (
            b"GET / HTTP/1.1\r\nX-Connection: a\r\n\r\n",
            b"GET / HTTP/1.1\r\nX-Connection: a\r\nConnection: close\r\n\r\n",
        ),
    ],
)
def test_a_closing_request_contains_connection_close_once(made: bytes, meant: bytes) -> None:
    assert Request(made).closing().text == meant


def test_ids_keep_their_position_in_a_closing_request() -> None:
    for name, of_sdk in requests.SDKS.items():
        request = of_sdk(CLIENT_ID)
        closing = request.closing()
        of = [each.text[at : at + 17] for each in (request, closing) for at in each.ids]
        assert len(set(of)) <= 1, name
        assert len(request.ids) == len(closing.ids)


def test_each_sdk_is_sent_once() -> None:
    sent: list[Callable[[str], Request]] = list(requests.SDKS.values())
    assert requests.sdks(CLIENT_ID) == tuple(each(CLIENT_ID) for each in sent)
    assert len({request.text for request in requests.sdks()}) == len(sent) == 7
