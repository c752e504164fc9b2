"""Requests that are almost valid: files of the corpus with hostile changes, and requests composed of parts."""

from urllib.parse import quote

from hypothesis import strategies as st
from hypothesis.strategies import DrawFn

from tests.support.corpus.corpus import EVERY

SMALL = [case.data for case in EVERY if len(case.data) < 1500]
HOSTILE = [
    b"\0", b"\t", b"\n", b"\r", b"\r\n", b"\r\n\r\n", b" ", b":", b";", b"&", b"=", b"+", b"%", b"%00", b"%2f", b"%25",
    b"%C3%A9", b"/", b"//", b"?", b"#", b"..", b"\\", b"\x7f", b"\x80", b"\xff", b",", b"true", b"Metadata: true\r\n",
    b"Host: a\r\n", b"X-Forwarded-For: 1\r\n", b"Content-Length: 1\r\n", b"Transfer-Encoding: chunked\r\n",
    b"Connection: close\r\n", b"Connection: keep-alive\r\n", b"Expect: 100-continue\r\n", b"Upgrade: h2c\r\n",
    b"&resource=b", b"&client_id=c", b"&object_id=d", b"&mi_res_id=e", b"&xms_cc=f", b"&x=y",
    b"HTTP/1.0", b"GET ", b"POST ",
]  # fmt: skip


@st.composite
def mutated(draw: DrawFn) -> bytes:
    """Bytes a few mutations away from a file of the corpus."""
    data = draw(st.sampled_from(SMALL))
    for _ in range(draw(st.integers(0, 4))):
        at = draw(st.integers(0, len(data)))
        until = draw(st.integers(at, min(len(data), at + 12)))
        match draw(st.sampled_from(("insert", "replace", "delete", "double", "flip case"))):
            case "insert":
                data = data[:at] + draw(st.sampled_from(HOSTILE)) + data[at:]
            case "replace":
                data = data[:at] + draw(st.sampled_from(HOSTILE) | st.binary(max_size=3)) + data[until:]
            case "delete":
                data = data[:at] + data[until:]
            case "double":
                data = data[:until] + data[at:]
            case _:
                data = data[:at] + data[at:until].swapcase() + data[until:]
    return data


PATHS = ["/metadata/identity/oauth2/token", "//METADATA/identity/oauth2/token/", "/metadata/identity/oauth2/tokens"]
NAMES = ["client_id", "object_id", "mi_res_id", "msi_res_id", "msi-res-id", "xms_cc", "xms_cc", "api-version", "other"]
SOUND = st.text("aZ09-._~/:@?", min_size=1, max_size=8)
ODD = st.text("a%=+;& \x00é", max_size=4)
VALUES = st.one_of(SOUND, SOUND, SOUND, SOUND.map(lambda text: quote(text, safe="")), ODD.map(quote), ODD)
FIELDS = [
    "Connection: close", "Connection: Keep-Alive", "X-Other: 2", "Accept:", "Empty:   ", "Host: a", "Metadata: true",
    "Metadata: false", "Connection: close, te", "X-Forwarded-For: 1", "Te: x", "Content-Length: 0",
    "Content-Length: 1", "Transfer-Encoding: chunked", "Expect: 100-continue", "Proxy-Connection: close",
]  # fmt: skip


@st.composite
def plausible(draw: DrawFn) -> bytes:
    """Requests composed of parts, most of which are valid; about one in twelve can use the fast lane."""
    names = ["resource", *draw(st.lists(st.sampled_from(NAMES), max_size=2))]
    query = "&".join(f"{name}={draw(VALUES)}" for name in draw(st.permutations(names)))
    fields = draw(st.lists(st.sampled_from(FIELDS), max_size=2))
    usual = draw(
        st.sampled_from([["Host: a", "Metadata: true"], ["METADATA:\tTRUE ", "host: b.c:80"], ["Host: [::1]"]])
    )
    start = f"GET {draw(st.sampled_from(PATHS))}?{query} HTTP/1.1"
    return "\r\n".join([start, *usual, *fields, "", ""]).encode()


METHODS = ["GET", "GET", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "HEAD", "TRACE", "get", "GETS", "P"]
SEGMENTS = [
    "metadata", "METADATA", "metadatas", "identity", "oauth2", "token", "instance", "Instance", "instances", "compute",
    "versions", "host", "info", "a.b", "a..b", ".", "..", "a.", "", "x", "identi~1", "a%2Fb", "a;b",
]  # fmt: skip
QUERIES = ["", "?", "?api-version=1", "?resource=", "?resource", "?resource=&resource=", "?Resource=a", "?resource=a",
    "?a=1&a=2", "?=", "?a&b&c", "?a=%41", "?a+b", "?api-version=1&client_id=x", "?resource=r;", "?a=1&", "?a=1&&b=2",
]  # fmt: skip


@st.composite
def refusable(draw: DrawFn) -> bytes:
    """Requests composed of parts; about half of them get a refusal that can be ready."""
    segments = draw(st.lists(st.sampled_from(SEGMENTS), max_size=5))
    path = draw(st.sampled_from([*PATHS, "/" + "/".join(segments)]))
    fields = draw(st.lists(st.sampled_from(FIELDS), max_size=2))
    usual = draw(st.sampled_from([["Host: a"], ["Host: a", "Metadata: true"], ["Host: a", "Content-Length: 0"]]))
    start = f"{draw(st.sampled_from(METHODS))} {path}{draw(st.sampled_from(QUERIES))} HTTP/1.1"
    return "\r\n".join([start, *usual, *fields, "", ""]).encode()
