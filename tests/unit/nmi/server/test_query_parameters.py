"""The token request in a query. Excluded: the queries of tests/support/corpus, and the status codes of refusals."""

import re
from urllib.parse import quote, unquote_to_bytes

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nmi.identity.request import SelectorKind, TokenRequest
from nmi.refusal import Reason, Refusal
from nmi.server.parameters import parse_query, token_request


@pytest.mark.parametrize(
    ("query", "wanted"),
    [
        ("resource=r", TokenRequest("r")),
        ("resource=https://x//", TokenRequest("https://x//")),
        ("resource=a%2Bb", TokenRequest("a+b")),
        ("resource=r&", TokenRequest("r")),
        ("&&resource=r", TokenRequest("r")),
        ("res%6Furce=r", TokenRequest("r")),
        ("resource=r&Resource=s", TokenRequest("r")),
        ("resource=r&client_id=A-b", TokenRequest("r", SelectorKind.CLIENT_ID, "A-b")),
        ("resource=r&client_id=&object_id=o", TokenRequest("r", SelectorKind.OBJECT_ID, "o")),
        ("resource=r&msi_res_id=%2Fsub", TokenRequest("r", SelectorKind.RESOURCE_ID, "/sub")),
        ("resource=r&mi_res_id=/sub", TokenRequest("r", SelectorKind.RESOURCE_ID, "/sub")),
        ("resource=r&msi-res-id=/sub", TokenRequest("r", SelectorKind.RESOURCE_ID, "/sub")),
        ("resource=r&bypass_cache=true", TokenRequest("r", force_refresh=True)),
        ("resource=r&bypass_cache=True", TokenRequest("r", force_refresh=True)),
        ("resource=r&bypass_cache=false", TokenRequest("r")),
        ("resource=r&token_sha256_to_refresh=aB", TokenRequest("r", rejected_sha256="ab")),
        ("resource=r&token_sha256_to_refresh=", TokenRequest("r")),
        ("resource=r&unknown=%3B", TokenRequest("r")),
    ],
)
def test_a_valid_query_is_parsed(query: str, wanted: TokenRequest) -> None:
    assert token_request(query) == wanted


@pytest.mark.parametrize(
    "query",
    [
        "resource",
        "resource=r&x=1&x=2",
        "resource=r&client_id=a&msi_res_id=b",
        "resource=r;client_id=a",
        "resource=%",
        "resource=r&x=%G1",
        "resource=%c0%af",
        "resource=a%00b",
        "resource=a%0d%0ab",
        "resource=r&client_id=%7f",
        "resource=r&" + "&".join(f"p{n}=1" for n in range(16)),
        "resource=r" + "&" * 16,
    ],
)
def test_an_ambiguous_query_is_refused(query: str) -> None:
    found = token_request(query)

    assert isinstance(found, Refusal)
    assert found.reason is Reason.BAD_PARAMETERS
    assert found.sentence in found.detail, "the log tells an operator what is wrong, too"


def test_the_maximum_number_of_parameters_is_accepted() -> None:
    assert token_request("resource=r&" + "&".join(f"p{n}=1" for n in range(15))) == TokenRequest("r")
    assert token_request("resource=r" + "&" * 15) == TokenRequest("r")


def test_more_escapes_than_the_fast_lane_can_read_are_refused_and_as_many_are_not() -> None:
    assert token_request("resource=" + "%41" * 512) == TokenRequest("A" * 512)
    assert isinstance(token_request("resource=" + "%41" * 513), Refusal)


ENCODED = st.lists(
    st.one_of(
        st.sampled_from(
            ["\\", "\\x41", "\\u0041", "\\N{DIGIT ONE}", "\\101", "\\n", "%5c", "%5Cx41", "%25", "%2541", "+"]
        ),
        st.integers(0x20, 0xFF).map("%{:02x}".format),
        st.text().map(quote),
        st.characters(min_codepoint=0x21, max_codepoint=0x7E, exclude_characters="%&;=#"),
    )
).map("".join)


@given(ENCODED)
def test_a_value_is_decoded_as_by_the_standard_library(text: str) -> None:
    expected = unquote_to_bytes(text.replace("+", " "))
    found = parse_query(f"a={text}")
    try:
        wanted = expected.decode()
    except UnicodeDecodeError:
        assert isinstance(found, Refusal)
    else:
        valid = not re.search("[\x00-\x1f\x7f]", wanted)
        assert found == {"a": wanted} if valid else isinstance(found, Refusal)


@pytest.mark.parametrize("byte", range(256))
def test_the_escape_of_a_control_character_is_refused_and_any_other_is_not(byte: int) -> None:
    for escape in (f"%{byte:02x}", f"%{byte:02X}"):
        for query in (f"a=b{escape}", f"{escape}=b"):
            found = parse_query(query.replace("%", "%C2%") if byte >= 0x80 else query)
            accepted = 0x20 <= byte < 0x7F or 0x80 <= byte < 0xC0
            assert isinstance(found, dict) == accepted


def test_parameters_keep_their_order() -> None:
    assert parse_query("b=1&a=2&c") == {"b": "1", "a": "2", "c": ""}
