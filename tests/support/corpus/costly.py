"""The requests that cost NMI the most: for each input that a pod controls, the text at its limit that takes longest,
and all of them together.

`docs/performance.md` has a table of their costs (`python -m benchmarks.guard costs`), and a test bounds the work for
each. A request that costs more than the others of its input replaces them here.
"""

from typing import Final

from tests.support.corpus.corpus import INSTANCE, METADATA, TOKEN, request

HOST: Final = "/host/token"
TARGET_BYTES: Final = 2048
HEAD_BYTES: Final = 8 * 1024
FIELDS: Final = 64
BODY_BYTES: Final = 16 * 1024
CHUNKS: Final = (b"800\r\n" + b"a" * 2048 + b"\r\n") * 8 + b"0\r\n\r\n"


def long_target(start: str, unit: str, end: str = "") -> bytes:
    """Return a request whose target is as long as possible: *start*, repeated *unit*, *end*."""
    return request(start + unit * ((TARGET_BYTES - len(start) - len(end)) // len(unit)) + end, METADATA)


def long_field(name: str, unit: str, target: str = INSTANCE) -> bytes:
    """Return a request with a field as long as possible, whose value is *unit*, repeated."""
    others = (METADATA, "podns: a", "podname: a") if target.startswith("/host") else (METADATA,)
    size = HEAD_BYTES - len(request(target, *others, f"{name}: ab"))
    return request(target, *others, f"{name}: a{unit * (size // len(unit))}b")


def many(count: int, text: str, separator: str = "&") -> str:
    """Return *count* times *text*, in which {} is the number."""
    return separator.join(text.format(number) for number in range(count))


def filled(start: str, unit: str) -> str:
    """Return a target as long as possible: *start* and *unit*, repeated."""
    return start + unit * (TARGET_BYTES - len(start))


def all_at_once(target: str, *fields: str) -> bytes:
    """Return a request with *target*, *fields*, and as many fields, bytes and chunks next to them as possible."""
    fields = (METADATA, "Transfer-Encoding: chunked", OTHER, CONNECTION, *fields)
    count = FIELDS - 1 - len(fields)
    size = (HEAD_BYTES - len(request(target, *fields))) // count - len("10: b\r\n")
    more = [f"{'A' * size}{number}: b" for number in range(10, 10 + count)]
    return request(target, *fields, *more, body=CHUNKS)


OTHER: Final = "X: \xff"
"""The fast lane does not read a request with this field."""
CONNECTION: Final = "Connection: close" + "," * 31
PARAMETERS: Final = "resource=%C3%A9&" + many(15, "p{}=" + "%C3%A9" * 17)
"""512 escapes."""
DISGUISED: Final = "/" + "%61;/../" * 16 + "a;/../" * 18 + "metadata/instance"
"""254 bytes."""
QUOTED: Final = many(16, "p{}=" + "'" * 11)
"""246 bytes, which are escaped again for IMDS."""


COSTLY: Final[dict[str, tuple[int, bytes]]] = {
    # The path.
    "path: escaped slashes": (400, long_target("/", "%2f")),
    "path: slashes escaped twice": (400, long_target("/", "%252f")),
    "path: every second character escaped": (400, long_target("/metadata/instance/", "a%61")),
    "path: 16 escapes": (404, request("/" + "%2f" * 16 + "a/" * 104)),
    "path: segments": (404, request("/" + "a/" * 128, OTHER)),
    "path: segments with a parameter": (404, request("/" + "a;b/" * 64)),
    "path: dot segments": (404, request("/" + "a/../" * 51)),
    "path: empty segments": (404, request("/" * 257)),
    "path: dots in a segment": (404, request("/" + "a." * 127 + "a", OTHER)),
    "path: words of identity paths": (404, request("/" + "metadataidentityoauth2" * 11, OTHER)),
    # The query.
    "query: escapes": (400, long_target(f"{TOKEN}?resource=", "%41")),
    "query: 512 escapes": (200, request(f"{TOKEN}?resource=" + "%41%2f" * 256, METADATA)),
    "query: 512 escapes of UTF-8": (200, request(f"{TOKEN}?resource=" + "%C3%A9" * 256, METADATA)),
    "query: plus signs": (200, long_target(f"{TOKEN}?resource=", "a+")),
    "query: ampersands": (400, long_target(f"{TOKEN}?resource=r", "&")),
    "query: parameters": (400, long_target(f"{TOKEN}?resource=r&", "a&")),
    "query: 16 parameters with 34 escapes": (200, request(f"{TOKEN}?{PARAMETERS}", METADATA)),
    "query: a long resource": (200, long_target(f"{TOKEN}?resource=", "A")),
    "query: a long client_id": (200, long_target(f"{TOKEN}?resource=r&client_id=", "A")),
    "query: a client_id with 512 escapes": (200, request(f"{TOKEN}?resource=r&client_id=" + "%41" * 512, METADATA)),
    "query: a long object_id": (200, long_target(f"{TOKEN}?resource=r&object_id=", "A")),
    "query: a resource id of slashes": (200, long_target(f"{TOKEN}?resource=r&msi_res_id=", "/a")),
    "query: a long xms_cc": (200, long_target(f"{TOKEN}?resource=r&xms_cc=", "A")),
    "query: a long token_sha256_to_refresh": (200, long_target(f"{TOKEN}?resource=r&token_sha256_to_refresh=", "A")),
    "query: of instance metadata, quoted again": (200, request(f"{INSTANCE}?a=+" + "'" * 253, METADATA)),
    "query: of instance metadata, escapes": (200, request(f"{INSTANCE}?a=+" + "%27" * 84, METADATA)),
    # The header fields.
    "field: Connection, empty options": (400, long_field("Connection", ",")),
    "field: Connection, options": (400, long_field("Connection", "a,")),
    "field: Connection, tabs": (200, long_field("Connection", "\t")),
    "field: Connection at /host/token": (400, long_field("Connection", ",", "/host/token?resource=r")),
    "field: 62 Connection with one option": (400, request(INSTANCE, METADATA, *["Connection: a"] * 62)),
    "field: User-Agent at /host/token": (403, long_field("User-Agent", "K", "/host/token?resource=r")),
    "field: Metadata": (200, long_field("X-Metadata", "true,")),
    "field: Content-Type": (200, long_field("Content-Type", "\xff")),
    "field: x-ms-client-request-id": (200, long_field("x-ms-client-request-id", "\xff")),
    "field: another one": (200, long_field("X-Other", " ")),
    "field: podname at /host/token": (403, long_field("x-podname", "a.", "/host/token?resource=r")),
    "field: Host": (400, request(INSTANCE, METADATA).replace(b"Host: a", b"Host: [" + b"0:" * 4000)),
    "field: Content-Length of zeros": (
        413,
        request(INSTANCE, METADATA, f"Content-Length: {'0' * 8_000}", method="POST"),
    ),
    "field: a long name": (200, request(INSTANCE, METADATA, f"{'a' * 8_000}: b")),
    "field: a long name without a colon": (400, request(INSTANCE, METADATA, "a" * 8_000)),
    "fields: 64": (200, request(INSTANCE, METADATA, *[f"A{number}: {'b' * 120}" for number in range(62)])),
    "fields: 64 with long names": (
        200,
        request(INSTANCE, METADATA, *[f"{'A' * 120}{number}: b" for number in range(62)]),
    ),
    "fields: 2,000": (431, request(INSTANCE, *["a:"] * 2_000)),
    "fields: bare CR": (400, request(INSTANCE, "A: " + "\r" * 8_000)),
    "fields: control characters": (400, request(INSTANCE, "A: " + "\x01" * 8_000)),
    # The method and the body.
    "method: unknown": (405, request(INSTANCE, METADATA, method="M-" * 8)),
    "method: CONNECT": (405, request("a:80", METADATA, method="CONNECT")),
    "body: of a known length": (
        405,
        request(INSTANCE, METADATA, f"Content-Length: {BODY_BYTES}", method="POST", body=b"a" * BODY_BYTES),
    ),
    "body: chunks of one byte": (
        400,
        request(
            INSTANCE, METADATA, "Transfer-Encoding: chunked", method="POST", body=b"1\r\na\r\n" * 10_000 + b"0\r\n\r\n"
        ),
    ),
    "body: 8 chunks": (405, request(INSTANCE, METADATA, "Transfer-Encoding: chunked", method="POST", body=CHUNKS)),
    # All at once.
    "all: a token": (200, all_at_once(filled(f"{TOKEN}?{PARAMETERS}", "a"))),
    "all: a token by client_id": (200, all_at_once(filled(f"{TOKEN}?{PARAMETERS.replace('p14', 'client_id')}", "+"))),
    "all: instance metadata": (200, all_at_once(f"{DISGUISED}?{QUOTED}")),
    "all: instance metadata with dot segments": (200, all_at_once(f"/{'a/../' * 47}metadata/instance?{QUOTED}")),
    "all: /host/token": (403, all_at_once(filled(f"{HOST}?{PARAMETERS}", "a"), "podns: a", "podname: a")),
    # The shortest.
    "shortest request": (404, b"GET / HTTP/1.1\r\nHost:\r\n\r\n"),
    "shortest refusal": (400, b"a\r\n\r\n"),
    "shortest request that IMDS answers": (200, b"GET /metadata/instance HTTP/1.1\r\nHost:\r\n\r\n"),
}
"""Status of the response and bytes by input, at /host/token for a peer that is not a process of the node."""
