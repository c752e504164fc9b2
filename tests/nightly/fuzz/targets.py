"""Fuzz targets: functions of bytes that return, or raise AssertionError for a broken guarantee.

Each is deterministic: it derives choices, such as the cuts of a stream, from the input bytes. pytest runs the functions
on the committed corpus, and `run` on the inputs that libFuzzer generates.
"""

import asyncio
import json
import random
import re
import zlib
from collections.abc import Callable, Iterator

import yarl

from _native import query as native_query
from _native import scan as native_scan
from nmi.identity.request import TokenRequest
from nmi.refusal import Refusal
from nmi.server.general import GeneralLane
from nmi.server.parameters import parse_query, token_request
from nmi.server.passthrough import forwarded_target
from nmi.server.policy import ServerPolicy, Sizes
from nmi.server.reading import RequestReader
from nmi.server.request import Request
from nmi.server.target import Action, ProxiedPaths, normal, resolve
from tests.contract.native import test_lanes_agree as lanes_agree
from tests.contract.native.fast_refusals import TOKEN_PATH, fast_refusal
from tests.nightly.fuzz.handover import HandoverMessages
from tests.nightly.fuzz.http_responses import HttpResponses
from tests.nightly.fuzz.node import ConntrackList, KernelMessages
from tests.nightly.fuzz.objects import LockRecords, MicObjects, NmiObjects
from tests.support.nmi.server.fakes import FakeConnection, ServerUnderTest, replies
from tests.support.oracle.refusals import read_refusal
from tests.support.oracle.requests import OWN_FIELD, PATHS, ServedRequest, Verdict, read

Target = Callable[[bytes], None]

INVISIBLE = bytes(set(range(256)) - set(range(0x21, 0x7F)) | {ord("#")})
"""Bytes that no target contains: `head` refuses them."""

_HIDDEN = re.compile(r"identity", re.IGNORECASE)
_PLAIN_PATH = re.compile(r"/([A-Za-z0-9_~.-]+(/[A-Za-z0-9_~.-]+)*/?)?")
_REFUSED = re.compile(
    rb"HTTP/1\.1 (?:400|413|431) [^\r]*\r\n(?:[^\r]+\r\n)*Connection: close\r\n\r\n\{[^}]*(?:malformed|too )[^}]*\}\Z"
)
"""The last response, to a malformed request: the reported fault depends on the number of bytes that had arrived."""


def cuts(data: bytes, most: int) -> list[bytes]:
    """Return *data* in at most *most* pieces, none empty. A checksum of *data* determines the cuts."""
    draw = random.Random(zlib.crc32(data))
    ends = sorted({draw.randint(0, len(data)) for _ in range(draw.randrange(most))} | {len(data)})
    return [data[start:end] for start, end in zip([0, *ends], ends, strict=False) if start != end]


class Scan:
    """Compiled scanner and query reader: everything that they accept has the same meaning for the oracle.

    Excluded: the mark of NMI's own requests, which has no meaning for them, and of which the oracle is unsure.
    """

    def __init__(
        self,
        head: Callable[[bytes], tuple[str, int, bytes, bool, bool, int]] = native_scan.examine,
        query: Callable[[bytes], tuple[bytes, int, bytes, bytes] | None] = native_query.examine,
        has_no_resource: Callable[[bytes], bool] = native_query.has_no_resource,
    ) -> None:
        self._head, self._query, self._has_no_resource = head, query, has_no_resource

    def __call__(self, data: bytes) -> None:
        whole = outcome, size, text, metadata, close, kind = self._head(data)
        cut = zlib.crc32(data) % (len(data) + 1)
        part = self._head(data[:cut])
        assert part[0] != "refused" or outcome == "refused", "more bytes undid a refusal"
        assert part[0] != "done" or part == whole, "more bytes changed the meaning of a head"
        if outcome == "done":
            assert size <= len(data)
            assert part[0] == ("done" if cut >= size else "more")
        if has_own_field(data):
            return
        refusal = fast_refusal(data, self._head, self._query, self._has_no_resource)
        assert refusal is None or refusal.kind == "INSTANCE" or refusal == read_refusal(data)
        parameters = self._query(text) if outcome == "done" and kind == TOKEN_PATH else None
        if parameters is None or not metadata:
            return
        resource, selector, value, xms_cc = parameters
        taken = ServedRequest(size, resource.decode(), selector, value.decode(), xms_cc.decode(), close, cacheable=True)
        assert taken == read(data)


class Query:
    """Query readers: the fast one, the general one and the oracle return the same, or one of them returns nothing."""

    def __init__(self, query: Callable[[bytes], tuple[bytes, int, bytes, bytes] | None] = native_query.examine) -> None:
        self._query = query

    def __call__(self, data: bytes) -> None:
        fast = self._query(data)
        if data.translate(None, INVISIBLE) != data:
            return  # an earlier check refuses these targets
        general = token_request(data.decode())
        if fast is not None:
            resource, kind, value, xms_cc = fast
            assert isinstance(general, TokenRequest)
            assert general == TokenRequest(
                resource=resource.decode(),
                selector=general.selector,
                selector_value=general.selector_value,
                xms_cc=xms_cc.decode(),
                force_refresh=False,
            )
            assert (general.selector.value, general.selector_value.lower()) == (kind, value.decode())
        head = b"GET /metadata/identity/oauth2/token?%s HTTP/1.1\r\nHost: a\r\nMetadata: true\r\n\r\n" % data
        meaning = read(head)
        if isinstance(meaning, ServedRequest):
            assert isinstance(general, TokenRequest)
            assert content_of(general) == content_by_oracle(meaning)
        elif meaning is Verdict.REFUSED:
            assert isinstance(general, Refusal)
        again = parse_query(data.decode())
        assert isinstance(again, dict | Refusal)


def content_of(request: TokenRequest) -> tuple[str, int, str, str, bool]:
    """Return the content of a request, in the oracle's order."""
    selector = request.selector.value, request.selector_value.lower()
    return request.resource, *selector, request.xms_cc, not (request.force_refresh or request.rejected_sha256)


def content_by_oracle(meaning: ServedRequest) -> tuple[str, int, str, str, bool]:
    return meaning.resource, meaning.selector_kind, meaning.selector_value, meaning.xms_cc, meaning.cacheable


PROXIED = (
    ProxiedPaths(),
    ProxiedPaths(("/metadata/versions", "/metadata/scheduledevents")),
    ProxiedPaths(everything=True),
)


class Normaliser:
    """Normalisation of any target, with any allowed prefixes: no path about identities is forwarded."""

    def __call__(self, data: bytes) -> None:
        for proxied_paths in PROXIED:
            self._check_destination(data.translate(None, INVISIBLE).decode(), proxied_paths)

    def _check_destination(self, text: str, proxied_paths: ProxiedPaths) -> None:
        destination = resolve(text, proxied_paths)
        raw = text.partition("?")[0]
        if destination.path:
            assert normal(destination.path) == destination.path, "a second normalisation changed the path"
            assert _PLAIN_PATH.fullmatch(destination.path)
            assert not {"", ".", ".."} & set(destination.path.strip("/").split("/")) or destination.path == "/"
        if destination.action is Action.TOKEN:
            assert "/".join("metadata" if word.lower() == "metadata" else word for word in raw.split("/")) in PATHS
        elif destination.action is Action.HOST_TOKEN:
            assert destination.path.lower().rstrip("/") == "/host/token"
        elif destination.action is Action.PROXY:
            assert not _HIDDEN.search(destination.path)
            assert destination.path.lower().startswith("/metadata/") or proxied_paths.everything
            again = resolve(destination.path, proxied_paths)
            assert again.action is Action.PROXY
            assert (again.canonical_path, again.path) == (destination.canonical_path, destination.path)
            target = forwarded_target(destination)
            if not isinstance(target, Refusal):
                url = yarl.URL(f"http://imds{target}", encoded=True)
                assert (url.host, url.raw_path) == ("imds", destination.path)
                assert not _HIDDEN.search(url.path)


SMALL = Sizes(head_bytes=512, fields=8, target_bytes=256, body_bytes=128, response_bytes=4096, pipelined_bytes=512)
BODY_OVERHEAD = 5
"""Factor on the body limit: before it refuses a chunked body, the lane may keep four times the limit and one read."""
STATUSES = {200, 400, 403, 404, 405, 413, 431, 501, 503}
"""The statuses of the general lane without IMDS, except that of a request with the mark of NMI's own requests."""


class General:
    """General lane on a strict fake connection: no exception, only well-formed responses, no token that the oracle
    refuses.
    """

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._loop.run_until_complete(self._start())

    async def _start(self) -> None:
        self._usual, self._small = ServerUnderTest(), ServerUnderTest(ServerPolicy(sizes=SMALL))

    def close(self) -> None:
        self._loop.close()

    def __call__(self, data: bytes) -> None:
        self._loop.run_until_complete(self._run(data))

    async def _run(self, data: bytes) -> None:
        pieces = cuts(data, 6)
        whole = await self._responses(self._usual, [data])
        self._check_against_oracle(data, whole, self._usual)
        assert comparable(await self._responses(self._usual, pieces)) == comparable(whole)
        await self._responses(self._small, pieces)

    async def _responses(self, server_under_test: ServerUnderTest, pieces: list[bytes]) -> bytes:
        """Return the responses to *pieces* on a new connection."""
        server_under_test.token_service.requests.clear()
        server_under_test.proxy.forwarded.clear()
        connection = server_under_test.connection = FakeConnection()
        lane = server_under_test.lane = GeneralLane(connection, server_under_test)
        sizes = server_under_test.policy.sizes
        most = max(sizes.head_bytes, sizes.pipelined_bytes) + BODY_OVERHEAD * sizes.body_bytes
        for number, piece in enumerate(pieces):
            if connection.state == "held" or number % 2:
                await server_under_test.settle()
            if not connection.open:
                break
            lane.data_received(piece)
            kept = lane._reader.waiting_bytes
            assert kept <= most + max(map(len, pieces)), "the lane keeps too many bytes"
        await server_under_test.settle()
        assert connection.state != "held", "the lane holds a request without a reason"
        lane.connection_lost()
        assert not server_under_test.tasks
        for _, _, destination in server_under_test.proxy.forwarded:
            assert not _HIDDEN.search(destination.path)
        return bytes(connection.written)

    def _check_against_oracle(self, data: bytes, written: bytes, server_under_test: ServerUnderTest) -> None:
        """Assert that each response is whole and that the first contains a token exactly if the oracle expects one."""
        meaning = read(data)
        parsed = replies(written) if b"HEAD" not in data else []
        for reply in parsed:
            assert reply.status in STATUSES or (reply.status == 508 and has_own_field(data)), reply.status
            assert isinstance(json.loads(reply.body), dict)
        granted = bool(parsed) and parsed[0].status == 200 and b"access_token" in parsed[0].body
        if isinstance(meaning, ServedRequest):
            assert granted or b"HEAD" in data
            assert content_of(server_under_test.token_service.requests[0][1]) == content_by_oracle(meaning)
        elif meaning is not Verdict.UNSURE:
            assert not granted


def has_own_field(data: bytes) -> bool:
    """Return whether the mark of NMI's own requests may be in *data*."""
    return OWN_FIELD.encode() in data.lower()


def comparable(written: bytes) -> bytes:
    """Return all responses without ids, and without text that depends on the division of a faulty request."""
    return lanes_agree.comparable(_REFUSED.sub(b"refused", written))


class Lanes:
    """Both lanes over real sockets: their responses are equal to the byte for every split of the bytes.

    Excluded: the mark of NMI's own requests, which only the general lane refuses.
    """

    def __init__(self) -> None:
        self._server_under_test = lanes_agree.LoopbackServer()

    def close(self) -> None:
        self._server_under_test.close()

    def __call__(self, data: bytes) -> None:
        stream = data + lanes_agree.LAST
        requests = list(requests_in(stream))
        if not ends(requests) or has_own_field(stream):
            return  # the comparison would wait for a timeout
        slowly = self._server_under_test.ask([stream], ready=False)
        first = requests[0]
        if isinstance(first, Refusal) or resolve(first.target, ProxiedPaths()).action is not Action.HOST_TOKEN:
            lanes_agree.check_against_oracle(
                stream, slowly
            )  # it does not cover host tokens, which this peer may request
        self._server_under_test.make_refusals_ready()
        assert self._server_under_test.ask([stream], ready=True) == slowly
        assert comparable(self._server_under_test.ask(cuts(stream, 4), ready=True)) == comparable(slowly)


def requests_in(stream: bytes) -> Iterator[Request | Refusal]:
    """Yield the requests of *stream*, up to the first refused one."""
    reader = RequestReader(Sizes())
    reader.feed(stream)
    while (request := reader.next()) is not None:
        yield request
        if isinstance(request, Refusal):
            return


def ends(requests: list[Request | Refusal]) -> bool:
    """Return whether *requests* end the connection."""
    return any(isinstance(request, Refusal) or not request.keep_alive for request in requests)


TARGETS: dict[str, Callable[[], Target]] = {
    "scan": Scan,
    "query": Query,
    "target": Normaliser,
    "general": General,
    "lanes": Lanes,
    "mic-objects": MicObjects,
    "nmi-objects": NmiObjects,
    "locks": LockRecords,
    "handover": HandoverMessages,
    "kernel-messages": KernelMessages,
    "conntrack": ConntrackList,
    "http-responses": HttpResponses,
}
"""Factories of the targets. A target that owns resources has a `close` method."""
