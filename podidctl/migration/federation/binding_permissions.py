"""Test of identities with identity bindings: whether the service accounts may use the identity at the token proxy.

Only pods of the cluster reach the token proxy, so the exchange cannot be tested from the operator's machine. The API
server answers whether its RBAC has the permission that the proxy requires.
"""

import asyncio
from collections.abc import Sequence
from typing import Final

from nmi.tokens.endpoints import SignInPolicy
from nmi.tokens.source import PolicyError
from podidctl.evaluation.federated import APPLY, REVIEW_ACCESS, manifest_of
from podidctl.facts.model import ReadFailure
from podidctl.migration.federation.schema import AccountUsage, TokenTest
from podidctl.reading.reviews import may_use_identity
from podidentity.azure.federation import BINDING_VERB
from podidentity.azure.identity_permissions import is_grantable, permission_resource
from podidentity.kube.client import Client
from podidentity.kube.errors import ApiError, Forbidden
from podidentity.resources import AzureIdentity

ALLOWED: Final = "may use it by identity bindings; the exchange was not tested, because only pods reach the token proxy"
CREATE_ROLE: Final = f"list it in federated.identityBindings.permissions of the chart's values, or {APPLY}"
NOT_A_GUID: Final = "set the AzureIdentity's clientID to the client id of the identity, which is a GUID"


class BindingPermissionTester:
    """Access reviews of an identity's service accounts. The caller owns the client."""

    def __init__(self, client: Client, policy: SignInPolicy) -> None:
        self._client = client
        self._policy = policy

    async def all(self, identity: AzureIdentity, accounts: Sequence[AccountUsage]) -> list[TokenTest]:
        """Return one result per account for *identity* in its future form. Failures are results, not exceptions."""
        return list(await asyncio.gather(*(self._one(identity, each) for each in accounts)))

    async def _one(self, identity: AzureIdentity, account: AccountUsage) -> TokenTest:
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
        return TokenTest(
            account=account.full_name,
            bound_to="",
            problem=problem,
            do=do,
            note="" if problem else ALLOWED,
            manifest=manifest,
        )
