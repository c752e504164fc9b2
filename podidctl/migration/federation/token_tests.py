"""Tests of an identity before its switch, one per service account.

With the exchange `direct` the test requests a token as NMI would request it, and discards it. NMI's own code requests
the assertion from the API server, with the permissions of the operator, and the token from Entra ID, from this machine.
The test covers the federated credential, the identity's ids and the tenant. It does not cover NMI's network or NMI's
permissions, which an access review checks.

With identity bindings only pods of the cluster reach the token proxy, so the exchange cannot be tested from the
operator's machine. The API server answers whether its RBAC has the permission that the proxy requires.
"""

import asyncio
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Final

from nmi.tokens.assertions import Assertion, Assertions, NoAssertionError, requested
from nmi.tokens.endpoints import SignInPolicy
from nmi.tokens.entra_loader import SignInSession
from nmi.tokens.federated import UNKNOWN_CREDENTIAL, FederatedSource
from nmi.tokens.sign_in import proxy_by
from nmi.tokens.sign_ins import SignIns
from nmi.tokens.source import FetchContext, FetchRequest, PolicyError, TokenKey, Workload, decode_claims
from podidctl.evaluation.federated import APPLY, REVIEW_ACCESS, manifest_of
from podidctl.facts.model import ReadFailure
from podidctl.migration.federation.schema import AccountUsage, TokenTest
from podidctl.reading.reviews import may_use_identity
from podidentity.azure.errors import AzureError
from podidentity.azure.federation import BINDING_VERB, Exchange
from podidentity.azure.identity_permissions import is_grantable, permission_resource
from podidentity.kube.client import Client
from podidentity.kube.errors import ApiError, Forbidden
from podidentity.resources import AzureIdentity

if sys.version_info >= (3, 12):
    from typing import override
else:
    from typing_extensions import override

RESOURCE: Final = "https://management.azure.com/"
WITHIN_SECONDS: Final = 10.0
"""Time limit per service account; requests with an unknown credential are repeated within it."""
_NAME_MOST: Final = 128
ALLOWED: Final = "may use it by identity bindings; the exchange was not tested, because only pods reach the token proxy"
CREATE_ROLE: Final = f"list it in federated.identityBindings.permissions of the chart's values, or {APPLY}"
NOT_A_GUID: Final = "set the AzureIdentity's clientID to the client id of the identity, which is a GUID"


class _CallerAssertions(Assertions):
    """Assertions with the operator's permissions, and without a pod if none runs. Stores each assertion."""

    def __init__(self, client: Client, audience: str) -> None:
        super().__init__(client, audience)
        self._api = client
        self.given: dict[str, Assertion] = {}

    @override
    async def of(self, workload: Workload) -> Assertion:
        assertion = await (super().of(workload) if workload.pod else self._unbound(workload))
        self.given[workload.service_account] = assertion
        return assertion

    async def _unbound(self, workload: Workload) -> Assertion:
        try:
            token = await requested(self._api, workload.namespace, workload.service_account, self.audience)
        except ApiError as error:
            code = "assertion_forbidden" if error.status == 403 else "assertion_refused"
            raise NoAssertionError(error.message, code=code) from error
        except ValueError:
            token = ""
        claims = decode_claims(token)
        if not claims.sub:
            raise NoAssertionError("the API server responded without a token", code="assertion_refused")
        return Assertion(token, claims.iss, claims.sub, self.audience)


class IdentityTester:
    """Tests of an identity's service accounts. The caller owns the client and the session."""

    def __init__(
        self,
        client: Client,
        session: SignInSession,
        policy: SignInPolicy,
        environ: Mapping[str, str],
        *,
        audience: str,
        resource: str = RESOURCE,
    ) -> None:
        proxy = environ.get("HTTPS_PROXY") or environ.get("https_proxy", "")
        direct = environ.get("NO_PROXY") or environ.get("no_proxy", "")
        self._client = client
        self._sign_ins = SignIns(session.open, proxy_for=proxy_by(proxy, direct))
        self._policy = policy
        self._audience = audience
        self._resource = resource

    async def test(
        self, identity: AzureIdentity, accounts: Sequence[AccountUsage], exchange: Exchange
    ) -> list[TokenTest]:
        """Return one result per account for *identity* in its future form. Failures are results, not exceptions."""
        test = self._test_token if exchange is Exchange.DIRECT else self._test_permission
        return list(await asyncio.gather(*(test(identity, account) for account in accounts)))

    async def _test_token(self, identity: AzureIdentity, account: AccountUsage) -> TokenTest:
        # NMI's own code, so that this request differs from NMI's only in its network and permissions.
        proofs = _CallerAssertions(self._client, self._audience)
        source = FederatedSource(self._policy, {Exchange.DIRECT: proofs}, self._sign_ins, enabled=True)
        try:
            workload = Workload(account.namespace, account.pod, account.pod_uid, account.name)
            key = TokenKey.of(source.key(identity), self._resource, xms_cc="", pod=workload.uid)
            request = FetchRequest(key, identity, workload=workload)
            granted = await source.fetch(request, FetchContext(timeout_seconds=WITHIN_SECONDS))
        except PolicyError as error:
            return _failed_test(account, error.detail, "correct the AzureIdentity")
        except AzureError as error:
            return _failed_test(account, *_advice(error, account, proofs.given.get(account.name)))
        expires = datetime.fromtimestamp(granted.token.expires_on, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        client_id = decode_claims(granted.token.access_token).client_id
        if client_id and client_id.lower() != identity.spec.client_id.strip().lower():
            return _failed_test(
                account, f"the token is for another client, {client_id}", "correct the AzureIdentity's clientID"
            )
        return TokenTest(
            account=account.full_name,
            bound_to=account.pod,
            client_id=client_id[:_NAME_MOST],
            object_id=granted.object_id,
            expires=expires,
        )

    async def _test_permission(self, identity: AzureIdentity, account: AccountUsage) -> TokenTest:
        problem = do = manifest = ""
        try:
            self._policy.federation(identity)
            client_id = permission_resource(identity.spec.client_id)
            if not await may_use_identity(self._client, account.full_name, client_id):
                problem = f"service account {account.full_name} has no permission to use the identity ({BINDING_VERB})"
                do = CREATE_ROLE if is_grantable(client_id) else NOT_A_GUID
                manifest = manifest_of({client_id: [account.full_name]})
        except PolicyError as error:
            problem, do = error.detail, "correct the AzureIdentity"
        except ApiError as error:
            problem = f"its permission could not be read: {error.message}"
            do = ReadFailure(problem, is_forbidden=isinstance(error, Forbidden)).next_action(REVIEW_ACCESS)
        note = "" if problem else ALLOWED
        return TokenTest(account=account.full_name, bound_to="", problem=problem, do=do, note=note, manifest=manifest)


def _failed_test(account: AccountUsage, problem: str, do: str) -> TokenTest:
    return TokenTest(account=account.full_name, bound_to=account.pod, problem=problem, do=do)


def _advice(error: AzureError, account: AccountUsage, given: Assertion | None) -> tuple[str, str]:
    """Return the fault and the next action."""
    if given is not None and error.code in UNKNOWN_CREDENTIAL:
        trusted = f"issuer {given.issuer}, subject {given.subject}, audience {given.audience}"
        return (
            f"Entra ID has no matching federated credential ({error.code}): {trusted}",
            "create it (podidctl migrate plan -o az); a new one takes a few minutes to take effect everywhere",
        )
    match error.code:
        case "assertion_forbidden":
            return (
                f"you may not request tokens of service account {account.full_name}",
                f"obtain the permission to create serviceaccounts/token in namespace {account.namespace}",
            )
        case "service_account_missing" | "pod_replaced":
            return f"pod {account.namespace}/{account.pod} does not exist any more", "run this command again"
        case _:
            cause = f"{error.code}: {error.message}" if error.code else error.message
            return cause, "see docs/troubleshooting.md for this error, then run this command again"
