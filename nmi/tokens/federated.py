"""Type 3: tokens of an identity that trusts the pod's own service account, from Entra ID. The identity is on no VM.

A fetch requests an assertion bound to the pod from the API server and exchanges it at Entra ID. A new federated
credential takes minutes to become effective: the source therefore retries "no such credential" until the fetch's
timeout.
"""

import sys
from typing import Final, Self

from nmi.tokens.assertions import Assertion, Assertions
from nmi.tokens.endpoints import Federation, SignInPolicy
from nmi.tokens.jwt import decode_claims
from nmi.tokens.sign_in import SignIn, SignInResult
from nmi.tokens.sign_ins import Attempts, SignIns, token_of, within_time
from nmi.tokens.source import FetchedToken, FetchRequest, PolicyError, Workload
from podidentity.azure.errors import AzureError, Refused
from podidentity.resources import AzureIdentity

if sys.version_info >= (3, 12):
    from typing import override
else:
    from typing_extensions import override

UNKNOWN_CREDENTIAL: Final = frozenset({"AADSTS70021", "AADSTS70025", "AADSTS700211", "AADSTS700212", "AADSTS700213"})
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


def check(policy: SignInPolicy, identity: AzureIdentity, *, enabled: bool) -> Federation:
    """Return the sign-in values of *identity*. Raise PolicyError if policy forbids its tokens; pure."""
    if not enabled:
        raise PolicyError(
            "Federated identities (type 3) are not enabled on this node (--federated-identities).",
            f"AzureIdentity {'/'.join(identity.key)} is of type 3: set federated.enabled and federated.namespaces in "
            f"the chart's values, which starts NMI with --federated-identities",
        )
    return policy.federation(identity)


class FederatedSource:
    """The source for type 3. The caller owns the constructor's arguments."""

    per_pod = True

    def __init__(self, policy: SignInPolicy, assertions: Assertions, sign_ins: SignIns, *, enabled: bool) -> None:
        self._policy = policy
        self._assertions = assertions
        self._sign_ins = sign_ins
        self._enabled = enabled

    def check(self, identity: AzureIdentity) -> None:
        """Implement TokenSource.check."""
        check(self._policy, identity, enabled=self._enabled)

    def credential(self, _identity: AzureIdentity, /) -> str:
        """Implement TokenSource.credential: the credential is a new assertion, not a Secret."""
        return ""

    def accept(self, _identity: AzureIdentity, _credential: str, /) -> None:
        """Implement TokenSource.accept: there is no Secret."""

    async def fetch(self, request: FetchRequest, /) -> FetchedToken:
        """Implement TokenSource.fetch. Raise PolicyError as `check` does, and UntrustedError."""
        federation = check(self._policy, request.identity, enabled=self._enabled)
        if request.workload is None:
            raise ValueError("a federated identity needs the pod's workload")
        attempts = Attempts(self._sign_ins.clock() + request.timeout_seconds, request.observer)
        exchange = self._exchange(federation, request.workload, request.resource, request.xms_cc, attempts)
        answer = await within_time(exchange, request.timeout_seconds)
        token = token_of(answer, federation.client_id, request.resource)
        return FetchedToken(token, answer.expires_in, decode_claims(token.access_token).oid)

    async def _exchange(
        self, federation: Federation, workload: Workload, resource: str, xms_cc: str, attempts: Attempts
    ) -> SignInResult:
        async def request_assertion() -> Assertion:
            async with self._sign_ins.permit(workload.namespace):
                return await self._assertions.of(workload)

        assertion = await self._sign_ins.retry(request_assertion, attempts)
        sign_in = SignIn(
            federation.authority, federation.tenant, federation.client_id, resource, xms_cc, assertion=assertion.token
        )

        async def exchange() -> SignInResult:
            try:
                return await self._sign_ins.token(sign_in, workload.namespace, attempts)
            except AzureError as error:
                if error.code not in {*UNKNOWN_CREDENTIAL, MISSPELT_SUBJECT}:
                    raise
                untrusted = UntrustedError(
                    error, federation.client_id, assertion.issuer, assertion.subject, assertion.audience
                )
            raise untrusted

        return await self._sign_ins.retry(
            exchange,
            attempts,
            retriable=lambda error: error.code in UNKNOWN_CREDENTIAL,
            delays=TRUST_DELAYS,
        )
