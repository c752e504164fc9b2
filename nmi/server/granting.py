"""What an issuer hands over, and how it becomes an answer. Shared by the token path and the host's."""

from typing import Protocol
from weakref import WeakKeyDictionary

from _native.answers import ReadyAnswer, Usage
from _native.histogram import Series
from _native.index import PodRecord
from nmi.identity.request import TokenRequest
from nmi.refusal import Refusal
from nmi.server.responses import token_parts
from nmi.tokens.token import Token
from podidentity.azure.imds import RawAnswer
from podidentity.telemetry.logs import redacted


class Granted(Protocol):
    """What the handlers need of `nmi.issuer.Issued`."""

    @property
    def token(self) -> Token: ...
    @property
    def auxiliary(self) -> tuple[Token, ...]:
        """Tokens of the identity's further tenants; none of them outlives *expires_ns*."""

    @property
    def record(self) -> PodRecord: ...
    @property
    def generation(self) -> int: ...
    @property
    def expires_ns(self) -> int: ...
    @property
    def fresh_until_ns(self) -> int: ...
    @property
    def usage(self) -> Usage: ...
    @property
    def cacheable(self) -> bool: ...
    @property
    def identity(self) -> str:
        """The AzureIdentity's `namespace/name`."""

    @property
    def uid(self) -> str:
        """The pod's."""

    @property
    def correlation(self) -> str:
        """Azure's id of the call that fetched it, or empty."""


class TokenIssuer(Protocol):
    """`nmi.issuer.Issuer`."""

    async def issue(self, peer: str, request: TokenRequest) -> Granted | RawAnswer | Refusal:
        """For the pod at *peer*."""

    async def issue_for(self, namespace: str, name: str, request: TokenRequest) -> Granted | RawAnswer | Refusal:
        """For the pod of that name on this node, whatever its network; never the node's own identity."""


def name_of(granted: Granted) -> str:
    """The identity as it is named in the log."""
    return granted.identity or redacted(granted.token.client_id)


class ReadyAnswers:
    """Ready answers, each made once for all pods that have the same token and are counted alike.

    Thousands of pods may share one identity, and an answer takes 2 kB. It goes with the last pod that keeps it and the
    token that it is made of.
    """

    def __init__(self) -> None:
        self._made: WeakKeyDictionary[Token, dict[Series, ReadyAnswer]] = WeakKeyDictionary()

    def admitted(self, granted: Granted, asked: TokenRequest, series: Series, now_ns: int) -> ReadyAnswer | None:
        """The answer, which the fast lane gives from now on if it may; None if it would be too large."""
        made = self._made.setdefault(granted.token, {})
        ready = made.get(series)
        if ready is None or not _is_of(ready, granted):
            before, after = token_parts(granted.token, (), granted.expires_ns, now_ns)
            try:
                ready = made[series] = ReadyAnswer(
                    before=before,
                    after=after,
                    expires_ns=granted.expires_ns,
                    fresh_until_ns=granted.fresh_until_ns,
                    series=series,
                    usage=granted.usage,
                )
            except ValueError:  # over 64 KiB: a pod may have it, but not keep it in our memory
                return None
        if granted.cacheable:
            granted.record.admit(
                granted.generation,
                resource=asked.resource.encode(),
                selector_kind=asked.selector.value,
                selector_value=asked.selector_value.encode(),
                xms_cc=asked.xms_cc.encode(),
                answer=ready,
            )
        return ready


def _is_of(ready: ReadyAnswer, granted: Granted) -> bool:
    """Whether *ready*, made of the same token, tells and counts what one made of *granted* would."""
    return (
        ready.expires_ns == granted.expires_ns
        and ready.fresh_until_ns == granted.fresh_until_ns
        and ready.usage is granted.usage
    )
