"""Requests that are nearly right: corpus files and fields, cut, doubled, swapped and sprinkled with hostile bytes."""

from hypothesis import strategies as st
from hypothesis.strategies import DrawFn, SearchStrategy

from tests.corpus.corpus import EVERY

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
def _mutated(draw: DrawFn) -> bytes:
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


def mutated() -> SearchStrategy[bytes]:
    """Bytes a few mutations away from a file of the corpus."""
    return _mutated()
