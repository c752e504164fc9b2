"""Type 3: tokens of an identity that trusts the pod's own service account, from Entra ID. No VM has to hold it.

One fetch asks the API server for an assertion bound to the pod and exchanges it. Entra ID learns of a new federated
credential within minutes: that it knows none yet is therefore tried again for as long as the request may wait.
"""

import sys
from typing import Final, Self

from nmi.tokens.assertions import Assertion, Assertions
from nmi.tokens.claims import claims_of
from nmi.tokens.endpoints import SignInPolicy, Trusting
from nmi.tokens.sign_in import SignedIn, SignIn
from nmi.tokens.sign_ins import SignIns, Tries, in_time, token_of
from nmi.tokens.source import UNWATCHED, Course, Granted, PolicyError, Slot, Workload
from podidentity.azure.errors import AzureError, Refused
from podidentity.resources import AzureIdentity

if sys.version_info >= (3, 12):
    from typing import override
else:
    from typing_extensions import override

UNKNOWN_CREDENTIAL: Final = frozenset({"AADSTS70021", "AADSTS70025", "AADSTS700211", "AADSTS700212", "AADSTS700213"})
"""What Entra ID says where no federated credential matches: none does, there is none, or issuer, audience or subject
differs."""

MISSPELT_SUBJECT: Final = "AADSTS7002138"
"""What it says where a credential's subject differs in letter case alone, which no waiting mends."""

TRUST_DELAYS: Final = (1.0, 2.0, 4.0, *(8.0,) * 8)
"""Seconds before each further try at a credential that is not known (yet)."""


class UntrustedError(Refused):
    """Entra ID knows no federated credential for this assertion, which is what must be told to it."""

    def __init__(self, told: AzureError, client_id: str, issuer: str, subject: str, audience: str) -> None:
        """*told* is Entra ID's own answer; the rest is what the exchange was asked with."""
        super().__init__(told.message, status=told.status, code=told.code, correlation_id=told.correlation_id)
        self.client_id = client_id
        self.issuer = issuer
        self.subject = subject
        self.audience = audience

    @override
    def again(self) -> Self:
        return type(self)(self, self.client_id, self.issuer, self.subject, self.audience)


def check(policy: SignInPolicy, identity: AzureIdentity, *, enabled: bool) -> Trusting:
    """What a token of *identity* is asked for with. Raises PolicyError where none may be had; pure."""
    if not enabled:
        raise PolicyError(
            "Federated identities (type 3) are not switched on at this node (--federated-identities).",
            f"AzureIdentity {'/'.join(identity.key)} is of type 3: set federated.enabled and federated.namespaces in "
            f"the chart's values, which starts NMI with --federated-identities",
        )
    return policy.trusting(identity)


class FederatedSource:
    """The source for type 3. What it is given stays its owners'."""

    per_pod = True

    def __init__(self, policy: SignInPolicy, assertions: Assertions, sign_ins: SignIns, *, enabled: bool) -> None:
        self._policy = policy
        self._assertions = assertions
        self._sign_ins = sign_ins
        self._enabled = enabled

    def check(self, identity: AzureIdentity) -> None:
        """As TokenSource.check."""
        check(self._policy, identity, enabled=self._enabled)

    def credential(self, identity: AzureIdentity) -> str:  # noqa: ARG002  each fetch makes its own
        """As TokenSource.credential."""
        return ""

    async def fetch(
        self,
        identity: AzureIdentity,
        resource: str,
        *,
        xms_cc: str,
        bypass_cache: bool,  # noqa: ARG002  nothing is cached here
        within: float,
        lag_seconds: float,  # noqa: ARG002  how long Entra ID lags has nothing to do with the assignment
        slot: Slot,  # noqa: ARG002  IMDS is not asked
        course: Course = UNWATCHED,
        workload: Workload | None = None,
    ) -> Granted:
        """As TokenSource.fetch; raises PolicyError too, as `check` does, and UntrustedError."""
        trusting = check(self._policy, identity, enabled=self._enabled)
        if workload is None:
            raise ValueError("a federated identity's token is some pod's")
        tries = Tries(self._sign_ins.clock() + within, course)
        answer = await in_time(self._exchange(trusting, workload, resource, xms_cc, tries), within)
        token = token_of(answer, trusting.client_id, resource)
        return Granted(token, answer.expires_in, claims_of(token.access_token).oid)

    async def _exchange(
        self, trusting: Trusting, workload: Workload, resource: str, xms_cc: str, tries: Tries
    ) -> SignedIn:
        async def assertion_of() -> Assertion:
            async with self._sign_ins.place(workload.namespace):
                return await self._assertions.of(workload)

        assertion = await self._sign_ins.again(assertion_of, tries)
        asked = SignIn(
            trusting.authority, trusting.tenant, trusting.client_id, resource, xms_cc, assertion=assertion.token
        )

        async def exchanged() -> SignedIn:
            try:
                return await self._sign_ins.token(asked, workload.namespace, tries)
            except AzureError as error:
                if error.code not in {*UNKNOWN_CREDENTIAL, MISSPELT_SUBJECT}:
                    raise
                untrusted = UntrustedError(
                    error, trusting.client_id, assertion.issuer, assertion.subject, assertion.audience
                )
            raise untrusted

        return await self._sign_ins.again(
            exchanged,
            tries,
            curable=lambda error: error.code in UNKNOWN_CREDENTIAL,
            delays=TRUST_DELAYS,
        )
