"""Ready refusals: refusals that depend only on the kind of a request, which the fast lane sends without Python code.

The general lane refuses the first request of a kind, and writes its log line. It then admits the answer to the pod
record, so that repeats cost as little as a cached token. A ready refusal is valid for FRESH_SECONDS and until the
record's next generation. After that the general lane refuses again, which keeps the decision log and the Events about
lasting refusals.
"""

from enum import IntEnum
from typing import Final

from _native.answers import FixedAnswer, Usage
from _native.histogram import Counter, Series
from _native.index import PodRecord
from nmi.refusal import Reason, Refusal
from nmi.server.parameters import NO_RESOURCE
from nmi.server.responses import PlainAnswer
from nmi.server.target import CanonicalPath, ProxiedPaths

FRESH_SECONDS: Final = 60
_HEAD_END: Final = b"\r\n\r\n"


class Kind(IntEnum):
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
    (Reason.METADATA_HEADER_MISSING, CanonicalPath.TOKEN): (Kind.NO_HEADER,),
    (Reason.METHOD_NOT_ALLOWED, CanonicalPath.TOKEN): (Kind.NOT_GET,),
    (Reason.UNKNOWN_PATH, CanonicalPath.IDENTITY): (Kind.UNKNOWN_IDENTITY,),
    (Reason.UNKNOWN_PATH, CanonicalPath.METADATA): (Kind.UNKNOWN_METADATA,),
    (Reason.UNKNOWN_PATH, CanonicalPath.OTHER): (Kind.UNKNOWN_OTHER,),
    (Reason.BLOCKED_PATH, CanonicalPath.INSTANCE): (Kind.INSTANCE, Kind.INSTANCE_NOT_GET),
    (Reason.METHOD_NOT_ALLOWED, CanonicalPath.INSTANCE): (Kind.INSTANCE_NOT_GET,),
}


def kinds_of(refusal: Refusal, path: CanonicalPath, proxied_paths: ProxiedPaths) -> tuple[Kind, ...]:
    """Return the kinds of requests that all get *refusal* if one request to *path* gets it.

    Where the operator allows further paths, one refused path or method proves nothing about another one.
    """
    if refusal is NO_RESOURCE and path is CanonicalPath.TOKEN:
        return (Kind.NO_RESOURCE,)
    kinds = _KINDS.get((refusal.reason, path), ())
    if proxied_paths.everything and path is not CanonicalPath.TOKEN and kinds != (Kind.UNKNOWN_IDENTITY,):
        return kinds if refusal.reason is Reason.BLOCKED_PATH else ()
    return () if proxied_paths.prefixes and kinds == (Kind.UNKNOWN_METADATA,) else kinds


class ReadyRefusals:
    """Ready refusals of all pods. Those of one kind share their text."""

    def __init__(self) -> None:
        self._texts: dict[tuple[Kind, ...], tuple[bytes, bytes]] = {}

    def admit(
        self,
        record: PodRecord,
        kinds: tuple[Kind, ...],
        answer: PlainAnswer,
        request_id: str,
        *,
        series: Series,
        usage: Usage,
        counter: Counter,
        now_ns: int,
    ) -> None:
        """Store *answer*, with *request_id*, on *record*. *usage* counts its repeats for the decision log, *counter*
        for the metric of refusals.
        """
        if all(record.refusal(kind, now_ns) is not None for kind in kinds):
            return
        text = self._texts.get(kinds)
        if text is None:
            text = self._texts[kinds] = split(answer, request_id)
        head, body = text
        ready = FixedAnswer(
            head=head,
            body=body,
            has_id=True,
            fresh_until_ns=now_ns + FRESH_SECONDS * 10**9,
            series=series,
            usage=usage,
            counter=counter,
        )
        for kind in kinds:
            record.admit_refusal(record.generation, kind, ready)


def split(answer: PlainAnswer, request_id: str) -> tuple[bytes, bytes]:
    """Return the head of *answer* before *request_id*, the value of its last field, and the body."""
    head, _, body = answer.render(0).partition(_HEAD_END)
    return head.removesuffix(request_id.encode()), body
