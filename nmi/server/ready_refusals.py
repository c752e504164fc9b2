"""Ready refusals: refusals that the fast lane sends without Python code.

They depend only on the kind of a request, or on its parameters and the state of its pod record. The general lane
refuses the first request and writes its log line. It then admits the response to the pod record, so that repeats cost
as little as a cached token. A ready refusal is valid until the record's next generation, for FRESH_SECONDS at most.
After that the general lane refuses again, which keeps the decision log and the Events about lasting refusals.
"""

from collections.abc import Callable
from enum import IntEnum
from typing import Final

import msgspec

from _native.histogram import Counter, Series
from _native.index import PodRecord
from _native.ready_responses import FixedResponse, Usage
from nmi.identity.request import TokenRequest
from nmi.refusal import Reason, Refusal
from nmi.server.parameters import NO_RESOURCE
from nmi.server.responses import PlainResponse, head_of
from nmi.server.target import CanonicalPath, ProxiedPaths

FRESH_SECONDS: Final = 60
TEXTS_MAX: Final = 64
"""Texts that are shared. NMI's own sentences are fewer, and no text of a request is in them."""


class RequestKind(IntEnum):
    """The kinds of requests that have the same refusal, as `_native.scan` recognises them."""

    NO_HEADER = 2
    NO_RESOURCE = 3
    NOT_GET = 4
    UNKNOWN_IDENTITY = 5
    UNKNOWN_METADATA = 6
    UNKNOWN_OTHER = 7
    INSTANCE = 8
    INSTANCE_NOT_GET = 9


_KINDS: Final = {
    (Reason.METADATA_HEADER_MISSING, CanonicalPath.TOKEN): (RequestKind.NO_HEADER,),
    (Reason.METHOD_NOT_ALLOWED, CanonicalPath.TOKEN): (RequestKind.NOT_GET,),
    (Reason.UNKNOWN_PATH, CanonicalPath.IDENTITY): (RequestKind.UNKNOWN_IDENTITY,),
    (Reason.UNKNOWN_PATH, CanonicalPath.METADATA): (RequestKind.UNKNOWN_METADATA,),
    (Reason.UNKNOWN_PATH, CanonicalPath.OTHER): (RequestKind.UNKNOWN_OTHER,),
    (Reason.BLOCKED_PATH, CanonicalPath.INSTANCE): (RequestKind.INSTANCE, RequestKind.INSTANCE_NOT_GET),
    (Reason.METHOD_NOT_ALLOWED, CanonicalPath.INSTANCE): (RequestKind.INSTANCE_NOT_GET,),
}


def kinds_of(refusal: Refusal, path: CanonicalPath, proxied_paths: ProxiedPaths) -> tuple[RequestKind, ...]:
    """Return the kinds of requests that all get *refusal* if one request to *path* gets it.

    Where the operator allows further paths, one refused path or method proves nothing about another one.
    """
    if refusal is NO_RESOURCE and path is CanonicalPath.TOKEN:
        return (RequestKind.NO_RESOURCE,)
    kinds = _KINDS.get((refusal.reason, path), ())
    if proxied_paths.everything and path is not CanonicalPath.TOKEN and kinds != (RequestKind.UNKNOWN_IDENTITY,):
        return kinds if refusal.reason is Reason.BLOCKED_PATH else ()
    return () if proxied_paths.prefixes and kinds == (RequestKind.UNKNOWN_METADATA,) else kinds


class RefusedRequest(msgspec.Struct, frozen=True):
    """A response to a refused request, and the counters of its repeats."""

    response: PlainResponse
    request_id: str
    series: Series
    usage: Usage
    """The use of the refusal, which the decision log reports."""
    counter: Counter
    """The counter of the refusal in the metrics."""


class ReadyRefusals:
    """Ready refusals of all pods. Equal ones share their text."""

    def __init__(self, now_ns: Callable[[], int]) -> None:
        self._now_ns = now_ns
        self._texts: dict[tuple[bytes, bytes], tuple[bytes, bytes]] = {}

    def admit_kinds(self, record: PodRecord, kinds: tuple[RequestKind, ...], refused: RefusedRequest) -> None:
        """Store the response on *record* for every request of *kinds*."""
        now_ns = self._now_ns()
        if any(record.refusal(kind, now_ns) is None for kind in kinds):
            ready = self._ready(refused, now_ns)
            for kind in kinds:
                record.admit_refusal(record.generation, kind, ready)

    def admit_request(
        self,
        record: PodRecord,
        generation: int,
        request: TokenRequest,
        refused: RefusedRequest,
        seconds: float = FRESH_SECONDS,
    ) -> None:
        """Store the response on *record* for requests that equal *request*, if *generation* is still the record's."""
        record.admit(
            generation,
            resource=request.resource.encode(),
            selector_kind=request.selector.value,
            selector_value=request.selector_value.encode(),
            xms_cc=request.xms_cc.encode(),
            response=self._ready(refused, self._now_ns(), seconds),
        )

    def _ready(self, refused: RefusedRequest, now_ns: int, seconds: float = FRESH_SECONDS) -> FixedResponse:
        text = split(refused.response, refused.request_id)
        if len(self._texts) < TEXTS_MAX:
            self._texts.setdefault(text, text)
        head, body = self._texts.get(text, text)
        return FixedResponse(
            head=head,
            body=body,
            body_has_id=len(body) < len(refused.response.body),
            fresh_until_ns=now_ns + int(seconds * 1e9),
            series=refused.series,
            usage=refused.usage,
            counter=refused.counter,
        )


def split(response: PlainResponse, request_id: str) -> tuple[bytes, bytes]:
    """Return the head of *response* before *request_id*, the value of its last field, and the body, which ends before
    the id too if it has one.
    """
    text = request_id.encode()
    return head_of(response).removesuffix(text), response.body.removesuffix(text + b'"}')
