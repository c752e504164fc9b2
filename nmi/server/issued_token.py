"""The issuer's interface, and ready answers of issued tokens. Used by the token path and the host token path."""

from typing import Protocol
from weakref import WeakKeyDictionary

from _native.answers import ReadyAnswer, TokenAnswer
from _native.histogram import Series
from nmi.identity.request import TokenRequest
from nmi.refusal import Refusal
from nmi.server.responses import token_parts
from nmi.tokens.source import Issued, Token
from podidentity.azure.imds import RawAnswer
from podidentity.telemetry.logs import redacted


class TokenIssuer(Protocol):
    """The interface of `nmi.token_service.TokenService` that the handlers use."""

    async def issue(self, peer: str, request: TokenRequest) -> Issued | RawAnswer | Refusal:
        """Return a token for the pod at *peer*."""

    async def issue_for(self, namespace: str, name: str, request: TokenRequest) -> Issued | RawAnswer | Refusal:
        """Return a token for the named pod of this node, with any network; never one of the node's own identity."""


def name_of(issued: Issued) -> str:
    """Return the name of the identity for the log."""
    return issued.identity or redacted(issued.token.client_id)


class ReadyAnswers:
    """Ready answers, each created once for all pods with the same token and the same metric series.

    Thousands of pods may share one identity, and an answer takes 2 kB. It is freed with its token and the last pod
    record that contains it.
    """

    def __init__(self) -> None:
        self._made: WeakKeyDictionary[Token, dict[Series, ReadyAnswer]] = WeakKeyDictionary()

    def admit(self, issued: Issued, asked: TokenRequest, series: Series, now_ns: int) -> ReadyAnswer | None:
        """Return the ready answer and admit it to the pod record if it is cacheable; None if it is too large."""
        made = self._made.setdefault(issued.token, {})
        ready = made.get(series)
        if ready is None or not _is_of(ready, issued):
            before, after = token_parts(issued.token, (), issued.expires_ns, now_ns)
            try:
                ready = made[series] = TokenAnswer(
                    before=before,
                    after=after,
                    expires_ns=issued.expires_ns,
                    fresh_until_ns=issued.fresh_until_ns,
                    series=series,
                    usage=issued.usage,
                )
            except ValueError:  # over 64 KiB: returned to the pod, but not kept in memory
                return None
        if issued.cacheable:
            issued.record.admit(
                issued.generation,
                resource=asked.resource.encode(),
                selector_kind=asked.selector.value,
                selector_value=asked.selector_value.encode(),
                xms_cc=asked.xms_cc.encode(),
                answer=ready,
            )
        return ready


def _is_of(ready: ReadyAnswer, issued: Issued) -> bool:
    """Return whether *ready*, which has the same token, equals the ready answer of *issued* in times and usage."""
    return (
        ready.expires_ns == issued.expires_ns
        and ready.fresh_until_ns == issued.fresh_until_ns
        and ready.usage is issued.usage
    )
