"""The token request in a query. Excluded: the status codes of refusals."""

import pytest

from nmi.identity.request import SelectorKind, TokenRequest
from nmi.refusal import Reason, Refusal
from nmi.server.parameters import parse_query, token_request


@pytest.mark.parametrize(
    ("query", "wanted"),
    [
        ("resource=r", TokenRequest("r")),
        ("api-version=2018-02-01&resource=https%3A%2F%2Fx%2F", TokenRequest("https://x/")),
        ("resource=https://x//", TokenRequest("https://x//")),
        ("resource=a+b", TokenRequest("a b")),
        ("resource=a%2Bb", TokenRequest("a+b")),
        ("resource=%C3%A9", TokenRequest("é")),
        ("resource=r&", TokenRequest("r")),
        ("&&resource=r", TokenRequest("r")),
        ("res%6Furce=r", TokenRequest("r")),
        ("resource=r&Resource=s", TokenRequest("r")),
        ("resource=r&client_id=A-b", TokenRequest("r", SelectorKind.CLIENT_ID, "A-b")),
        ("resource=r&client_id=", TokenRequest("r")),
        ("resource=r&client_id=&object_id=o", TokenRequest("r", SelectorKind.OBJECT_ID, "o")),
        ("resource=r&msi_res_id=%2Fsub", TokenRequest("r", SelectorKind.RESOURCE_ID, "/sub")),
        ("resource=r&mi_res_id=/sub", TokenRequest("r", SelectorKind.RESOURCE_ID, "/sub")),
        ("resource=r&msi-res-id=/sub", TokenRequest("r", SelectorKind.RESOURCE_ID, "/sub")),
        ("resource=r&xms_cc=cp1", TokenRequest("r", xms_cc="cp1")),
        ("resource=r&bypass_cache=true", TokenRequest("r", force_refresh=True)),
        ("resource=r&bypass_cache=True", TokenRequest("r", force_refresh=True)),
        ("resource=r&bypass_cache=false", TokenRequest("r")),
        ("resource=r&token_sha256_to_refresh=aB", TokenRequest("r", rejected_sha256="ab")),
        ("resource=r&token_sha256_to_refresh=", TokenRequest("r")),
        ("resource=r&unknown=%3B", TokenRequest("r")),
        ("resource=a=b", TokenRequest("a=b")),
    ],
)
def test_a_valid_query_is_parsed(query: str, wanted: TokenRequest) -> None:
    assert token_request(query) == wanted


@pytest.mark.parametrize(
    "query",
    [
        "",
        "resource",
        "resource=",
        "api-version=2018-02-01",
        "RESOURCE=r",
        "resource=r&resource=r",
        "resource=r&res%6Furce=s",
        "resource=r&x=1&x=2",
        "resource=r&client_id=a&object_id=b",
        "resource=r&client_id=a&msi_res_id=b",
        "resource=r&mi_res_id=a&msi_res_id=a",
        "resource=r&client_id=a&client_id=a",
        "resource=r;client_id=a",
        "resource=%",
        "resource=%2",
        "resource=%zz",
        "resource=r&x=%G1",
        "resource=%ff",
        "resource=%c0%af",
        "resource=a%00b",
        "resource=a%0d%0ab",
        "resource=r&client_id=%7f",
        "resource=r&" + "&".join(f"p{n}=1" for n in range(32)),
    ],
)
def test_an_ambiguous_query_is_refused(query: str) -> None:
    found = token_request(query)

    assert isinstance(found, Refusal)
    assert found.reason is Reason.BAD_PARAMETERS
    assert found.sentence in found.detail, "the log tells an operator what is wrong, too"


def test_the_maximum_number_of_parameters_is_accepted() -> None:
    assert token_request("resource=r&" + "&".join(f"p{n}=1" for n in range(31))) == TokenRequest("r")


def test_more_escapes_than_the_fast_lane_can_read_are_refused_and_as_many_are_not() -> None:
    assert token_request("resource=" + "%41" * 512) == TokenRequest("A" * 512)
    assert isinstance(token_request("resource=" + "%41" * 513), Refusal)


def test_parameters_keep_their_order() -> None:
    assert parse_query("b=1&a=2&c") == {"b": "1", "a": "2", "c": ""}
