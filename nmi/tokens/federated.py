"""Type 3: tokens of an identity that trusts the pod's own service account. The identity is on no VM.

A fetch requests an assertion bound to the pod from the API server and exchanges it at Entra ID, or at the cluster's
token proxy (`nmi.tokens.token_proxy`). A new federated credential takes minutes to become effective, and an identity
binding creates one: the source therefore retries "no such credential" until the fetch's timeout.
"""

import sys
from collections.abc import Mapping
from typing import Final, Self

from msgspec.structs import replace

from nmi.tokens.assertions import Assertion, Assertions
from nmi.tokens.endpoints import Federation, SignInPolicy
from nmi.tokens.proxy_refusals import NOT_BOUND, NotBoundError, missing_step
from nmi.tokens.sign_in import SignIn, SignInResult
from nmi.tokens.sign_ins import Attempts, SignIns, token_of, within_time
from nmi.tokens.source import (
    FetchContext,
    FetchedToken,
    FetchRequest,
    IdentityKey,
    PolicyError,
    Workload,
    decode_claims,
)
from nmi.tokens.token_proxy import DIRECT_ONLY, Exchanges, ProxyUnreachable, TokenProxy
from podidentity.azure.errors import AzureError, Refused
from podidentity.azure.federation import Exchange
from podidentity.resources import AzureIdentity

if sys.version_info >= (3, 12):
    from typing import override
else:
    from typing_extensions import override

UNKNOWN_CREDENTIAL: Final = NOT_BOUND
"""Entra ID's codes if no federated credential matches: none matches, there is none, or issuer, audience or subject
differs."""

MISSPELT_SUBJECT: Final = "AADSTS7002138"
"""Entra ID's code if a credential's subject differs in letter case only. A retry does not help."""

TRUST_DELAYS: Final = (1.0, 2.0, 4.0, *(8.0,) * 8)
"""Seconds before each further attempt with a credential that Entra ID does not know (yet)."""


class UntrustedError(Refused):
    """Entra ID has no federated credential for this assertion. The fields are the values to register there."""

    def __init__(self, cause: AzureError, client_id: str, issuer: str, subject: str, audience: str) -> None:
        """*cause* is Entra ID's own response; the other values are the input of the exchange."""
        super().__init__(cause.message, status=cause.status, code=cause.code, correlation_id=cause.correlation_id)
        self.client_id = client_id
        self.issuer = issuer
        self.subject = subject
        self.audience = audience

    @override
    def again(self) -> Self:
        return type(self)(self, self.client_id, self.issuer, self.subject, self.audience)


def check(
    policy: SignInPolicy, identity: AzureIdentity, *, enabled: bool, exchanges: Exchanges = DIRECT_ONLY
) -> Federation:
    """Return the sign-in values of *identity*. Raise PolicyError if policy forbids its tokens; pure.

    It does not depend on whether the node has a usable token proxy.
    """
    if not enabled:
        raise PolicyError(
            "Federated identities (type 3) are not enabled on this node (--federated-identities).",
            f"AzureIdentity {'/'.join(identity.key)} is of type 3: set federated.enabled and federated.namespaces in "
            f"the chart's values, which starts NMI with --federated-identities",
        )
    federation = policy.federation(identity)
    exchanges.choose(identity)
    return federation


class FederatedSource:
    """The source for type 3. The caller owns the constructor's arguments."""

    per_pod = True

    def __init__(
        self,
        policy: SignInPolicy,
        assertions: Mapping[Exchange, Assertions],
        sign_ins: SignIns,
        *,
        enabled: bool,
        exchanges: Exchanges = DIRECT_ONLY,
    ) -> None:
        """*assertions* has the client of each exchange that *exchanges* allows."""
        self._policy = policy
        self._assertions = assertions
        self._sign_ins = sign_ins
        self._enabled = enabled
        self._exchanges = exchanges

    def check(self, identity: AzureIdentity) -> None:
        """Implement TokenSource.check."""
        check(self._policy, identity, enabled=self._enabled, exchanges=self._exchanges)
        # Here too, so that a request is refused before its fetch if the node has no usable proxy.
        self._exchanges.of(identity)

    def key(self, identity: AzureIdentity, /) -> IdentityKey:
        """Implement TokenSource.key: the credential is a new assertion, not a Secret."""
        return self._policy.federation(identity).key(self._exchanges.choose(identity))

    def accept(self, _identity: AzureIdentity, _credential: str, /) -> None:
        """Implement TokenSource.accept: there is no Secret."""

    async def fetch(self, request: FetchRequest, context: FetchContext, /) -> FetchedToken:
        """Implement TokenSource.fetch. Raise PolicyError as `check` does, UntrustedError and NotBoundError."""
        federation = check(self._policy, request.identity, enabled=self._enabled, exchanges=self._exchanges)
        chosen = self._exchanges.of(request.identity)
        if request.workload is None:
            raise ValueError("a federated identity needs the pod's workload")
        attempts = Attempts(self._sign_ins.clock() + context.timeout_seconds, context.observer, context.charged)
        exchange = self._exchange(chosen, federation, request.workload, request, attempts)
        result = await within_time(exchange, context.timeout_seconds)
        token = token_of(result, federation.client_id, request.resource)
        return FetchedToken(token, result.expires_in, decode_claims(token.access_token).oid)

    async def _exchange(
        self,
        chosen: Exchange,
        federation: Federation,
        workload: Workload,
        request: FetchRequest,
        attempts: Attempts,
    ) -> SignInResult:
        async def request_assertion() -> Assertion:
            # Assertions count in the same limit, so that no namespace uses up the calls to the API server.
            async with self._sign_ins.permit(workload.namespace, attempts.charged):
                return await self._assertions[chosen].of(workload)

        assertion = await self._sign_ins.retry(request_assertion, attempts)
        proxy = self._exchanges.proxy if chosen is Exchange.IDENTITY_BINDINGS else None
        sign_in = SignIn(
            federation.authority,
            federation.tenant,
            # A permission names the client id exactly, and Azure writes it in lower case.
            federation.client_id if proxy is None else federation.client_id.lower(),
            request.resource,
            request.xms_cc,
            assertion=assertion.token,
        )

        if proxy is not None:
            # A request whose time ends before the proxy responds is refused with the name of the proxy.
            attempts.observer.awaiting(_silent_proxy(proxy))

        async def exchange() -> SignInResult:
            # The proxy's CA certificate may have changed since the last attempt.
            sent = sign_in if proxy is None else replace(sign_in, via=await proxy.target())
            try:
                return await self._sign_ins.token(sent, workload.namespace, attempts)
            except AzureError as error:
                refusal = _translated(error, chosen, federation, assertion, workload)
            raise refusal

        return await self._sign_ins.retry(exchange, attempts, retriable=_may_pass, delays=TRUST_DELAYS)


def _translated(
    error: AzureError, chosen: Exchange, federation: Federation, assertion: Assertion, workload: Workload
) -> AzureError:
    """Return *error* with what its reader needs; the same error if it has no more to it."""
    if chosen is Exchange.IDENTITY_BINDINGS:
        if not isinstance(error, Refused):
            return error
        account = f"{workload.namespace}/{workload.service_account}"
        return NotBoundError(error, missing_step(error), federation.client_id, account)
    if error.code not in {*UNKNOWN_CREDENTIAL, MISSPELT_SUBJECT}:
        return error
    return UntrustedError(error, federation.client_id, assertion.issuer, assertion.subject, assertion.audience)


def _silent_proxy(proxy: TokenProxy) -> ProxyUnreachable:
    return ProxyUnreachable(f"no response from {proxy.endpoint.host} within the time of the request", code="timeout")


def _may_pass(error: AzureError) -> bool:
    return error.may_pass if isinstance(error, NotBoundError) else error.code in UNKNOWN_CREDENTIAL
