"""Endpoints that secrets may be sent to: one spelling, one host.

Excluded: which endpoints are allowed (tests/unit/nmi/tokens/test_sign_in_policy.py).
"""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from yarl import URL

from podidentity.azure.clouds import Endpoint, parse_endpoint


@pytest.mark.parametrize(
    ("text", "endpoint"),
    [
        ("https://login.microsoftonline.com", Endpoint("login.microsoftonline.com")),
        ("https://login.microsoftonline.com/", Endpoint("login.microsoftonline.com")),
        ("HTTPS://LOGIN.MicrosoftOnline.COM/", Endpoint("login.microsoftonline.com")),
        ("https://login.microsoftonline.com:443", Endpoint("login.microsoftonline.com")),
        ("https://login.microsoftonline.com:0443/", Endpoint("login.microsoftonline.com")),
        ("https://adfs.local:8443/adfs/", Endpoint("adfs.local", 8443, "/adfs")),
        ("https://127.0.0.1:8443", Endpoint("127.0.0.1", 8443)),
        ("https://localhost", Endpoint("localhost")),
        ("https://xn--bcher-kva.example", Endpoint("xn--bcher-kva.example")),
    ],
)
def test_each_valid_spelling_is_accepted(text: str, endpoint: Endpoint) -> None:
    assert parse_endpoint(text) == endpoint
    assert parse_endpoint(endpoint.url) == endpoint


@pytest.mark.parametrize(
    "text",
    [
        "",
        "login.microsoftonline.com",
        "//login.microsoftonline.com",
        "http://login.microsoftonline.com",
        "ftp://login.microsoftonline.com",
        "https:login.microsoftonline.com",
        "https:/login.microsoftonline.com",
        "https:///login.microsoftonline.com",
        "https://",
        "https://.",
        "https://:443",
        "https://login.microsoftonline.com.",
        "https://.login.microsoftonline.com",
        "https://login..microsoftonline.com",
        "https://login.microsoftonline.com@evil.example",
        "https://login.microsoftonline.com:443@evil.example",
        "https://user:password@login.microsoftonline.com",
        "https://login.microsoftonline.com\\@evil.example",
        "https://evil.example\\.login.microsoftonline.com",
        "https:\\\\login.microsoftonline.com",
        "https://login.microsoftonline.com%2eevil.example",
        "https://login.microsoftonline.com%00.evil.example",
        "https://login.microsoftonline.com\x00.evil.example",
        "https://login.microsoftonline.com\n",
        "https://login.microsoftonline.com\r\nHost: evil.example",
        " https://login.microsoftonline.com",
        "https://login.microsoftonline.com ",
        "https://login.microsoft online.com",
        "https://login.microsoftonline.com/?",
        "https://login.microsoftonline.com?x=y",
        "https://login.microsoftonline.com#",
        "https://login.microsoftonline.com/#@evil.example",
        "https://login.microsoftonline.com/../evil",
        "https://login.microsoftonline.com/./",
        "https://login.microsoftonline.com//evil.example",
        "https://login.microsoftonline.com/%2e%2e/",
        "https://login.microsoftonline.com/;x",
        "https://login.microsoftonline.com:",
        "https://login.microsoftonline.com:0",
        "https://login.microsoftonline.com:65536",
        "https://login.microsoftonline.com:-1",
        "https://login.microsoftonline.com:44\uff13",
        "https://login.microsoftonl\u0456ne.com",
        "https://\uff4cogin.microsoftonline.com",
        "https://login\u3002microsoftonline\u3002com",
        "https://login.microsoftonline.com\u200b",
        "https://login.micro\u017foftonline.com",
        "https://\u212aube.example",
        "http\u017f://login.microsoftonline.com",
        "https://[::1]",
        "https://[::ffff:127.0.0.1]:443",
        "https://-login.example",
        "https://login_.example",
        "https://" + "a" * 64 + ".example",
        "https://" + "a." * 130 + "example",
    ],
)
def test_an_invalid_endpoint_is_rejected(text: str) -> None:
    assert parse_endpoint(text) is None


IPV6 = [
    ("https://[fd00::1]:443/prefix", Endpoint("fd00::1", 443, "/prefix")),
    ("https://[FD00:0:0::1]", Endpoint("fd00::1")),
    ("https://[::1]:6443/", Endpoint("::1", 6443)),
]


@pytest.mark.parametrize(("text", "endpoint"), IPV6)
def test_an_ipv6_address_is_accepted_only_where_it_is_allowed(text: str, endpoint: Endpoint) -> None:
    assert parse_endpoint(text, ipv6=True) == endpoint
    assert parse_endpoint(endpoint.url, ipv6=True) == endpoint
    assert parse_endpoint(text) is None


@pytest.mark.parametrize(
    "text",
    [
        "https://fd00::1",
        "https://[fd00::1",
        "https://fd00::1]",
        "https://[fd00::1%eth0]",
        "https://[fd00::1%25eth0]",
        "https://[fe80::1%251]:443",
        "https://[::ffff:10.0.0.1]",
        "https://[::ffff:a00:1]",
        "https://[10.0.0.1]",
        "https://[v1.a]",
        "https://[]",
        "https://[:]",
        "https://[fd00:::1]",
        "https://[fd00::1::2]",
        "https://[12345::1]",
        "https://[1:2:3:4:5:6:7:8:9]",
        "https://user@[fd00::1]",
        "https://user:password@[fd00::1]:443",
        "https://[fd00::1]@evil.example",
        "https://[fd00::1].evil.example",
        "https://[fd00::1]evil",
        "https://[fd00::1]?x=y",
        "https://[fd00::1]/#x",
        "https://[fd00::1]/../x",
        "https://[fd00::1]:70000",
        "https://[fd00::1]:0",
        "http://[fd00::1]",
    ],
)
def test_an_invalid_ipv6_address_is_rejected(text: str) -> None:
    assert parse_endpoint(text, ipv6=True) is None


@given(st.text(st.sampled_from("https:/.@\\%#?[]-_ aA0\n\t\x00é"), max_size=40).map(lambda tail: f"https://[{tail}"))
def test_other_parsers_read_the_same_ipv6_host_from_an_accepted_endpoint(text: str) -> None:
    endpoint = parse_endpoint(text, ipv6=True)
    if endpoint is not None:
        url = URL(text)
        assert (url.host, url.port, url.user, url.query_string) == (endpoint.host, endpoint.port, None, "")


@given(st.text(st.sampled_from("https:/.@\\%#?[]-_ aA0\n\t\x00é"), max_size=40).map(lambda tail: f"https://{tail}"))
def test_other_parsers_read_the_same_host_from_an_accepted_endpoint(text: str) -> None:
    endpoint = parse_endpoint(text)
    if endpoint is not None:
        url = URL(text)
        assert (url.host, url.port, url.user, url.query_string, url.fragment) == (
            endpoint.host,
            endpoint.port,
            None,
            "",
            "",
        )
        assert url.path.rstrip("/") == endpoint.path
