"""Refusals of the cluster's token proxy, translated into the step that is missing. Pure.

AKS does not document the proxy's error texts. The translation therefore uses what the protocol fixes: the status, Entra
ID's codes, which the proxy passes on, and the API server's own Status object. The proxy's sentence is always added.
"""

import re
import sys
from enum import StrEnum
from typing import Final, Self

from podidentity.azure.errors import AzureError, Refused
from podidentity.azure.federation import BINDING_VERB

if sys.version_info >= (3, 12):
    from typing import override
else:
    from typing_extensions import override

API_SERVER_CODE: Final = "api_server_status"
"""The code of a response by the API server itself, which received the request in place of the proxy."""

NOT_BOUND: Final = frozenset({"AADSTS70021", "AADSTS70025", "AADSTS700211", "AADSTS700212", "AADSTS700213"})
"""Entra ID's codes if the identity has no federated credential for the proxy's own assertion: AKS creates it with the
identity binding, and it takes minutes to become effective."""

_BINDING: Final = re.compile(
    r"identity ?binding.{0,80}(?:not found|does not exist|no such)|no identity ?binding", re.IGNORECASE | re.DOTALL
)
_AUDIENCE: Final = re.compile(r"\baudience", re.IGNORECASE)


class MissingStep(StrEnum):
    """The step that the operator has to take."""

    IDENTITY_BINDING = "identity_binding"
    PERMISSION = "permission"
    AUDIENCE = "audience"
    ADDRESS = "address"
    """The request did not reach a token proxy."""
    ASSERTION = "assertion"
    OTHER = "other"


class NotBoundError(Refused):
    """The token proxy refuses the exchange. *step* is the step that is missing."""

    def __init__(self, cause: AzureError, step: MissingStep, client_id: str, account: str) -> None:
        """*cause* is the proxy's response; *account* is the service account as `namespace/name`."""
        super().__init__(
            cause.message,
            status=cause.status,
            code=cause.code,
            correlation_id=cause.correlation_id,
            sentence=cause.sentence,
        )
        self.step = step
        self.client_id = client_id
        self.account = account

    @override
    def again(self) -> Self:
        return type(self)(self, self.step, self.client_id, self.account)

    @property
    def may_pass(self) -> bool:
        """Whether a repetition within the minutes that Azure needs for a new identity binding may succeed."""
        return self.step is MissingStep.IDENTITY_BINDING


def missing_step(error: Refused) -> MissingStep:
    """Return the step that is missing after the proxy's refusal *error*."""
    # First: a response of the API server has a status too, which states nothing about the proxy.
    if error.code == API_SERVER_CODE:
        return MissingStep.ADDRESS
    if error.code in NOT_BOUND or error.status == 404 or _BINDING.search(error.message):
        return MissingStep.IDENTITY_BINDING
    if error.status == 403:
        return MissingStep.PERMISSION
    if error.status in {400, 401} and _AUDIENCE.search(error.message):
        return MissingStep.AUDIENCE
    return MissingStep.ASSERTION if error.status == 401 else MissingStep.OTHER


SENTENCES: Final = {
    MissingStep.IDENTITY_BINDING: "This cluster has no AKS identity binding for the identity",
    MissingStep.PERMISSION: (
        f"This pod's service account has no permission ({BINDING_VERB}) to use the identity; podidctl explain pod "
        f"prints the ClusterRole and its binding"
    ),
    MissingStep.AUDIENCE: "The token proxy does not accept the audience of this pod's service account token",
    MissingStep.ADDRESS: "The API server answered in place of the cluster's token proxy",
    MissingStep.ASSERTION: "The token proxy does not accept this pod's service account token",
    MissingStep.OTHER: "The cluster's token proxy refused a token for this identity",
}
"""The sentence for the pod, without the full stop."""


def next_action(error: NotBoundError) -> str:
    """Return the next action, for the operator. It omits the client id, which a log must not contain."""
    match error.step:
        case MissingStep.IDENTITY_BINDING:
            action = (
                "create the identity binding of this cluster and the identity (az aks identity-binding create), and "
                "allow some minutes until it is effective"
            )
        case MissingStep.PERMISSION:
            action = (
                f"apply the ClusterRole and ClusterRoleBinding that podidctl explain pod prints for service account "
                f"{error.account}"
            )
        case MissingStep.AUDIENCE:
            action = (
                "NMI requested the token that AKS documents for identity bindings: check that the token proxy of the "
                "environment is that of AKS, and the version of AKS"
            )
        case MissingStep.ADDRESS:
            action = (
                "check AZURE_KUBERNETES_SNI_NAME, by which the API server recognises requests for the proxy; "
                "clusters with API server VNet integration have no token proxy: use federated.exchange=direct there"
            )
        case MissingStep.ASSERTION:
            action = (
                "check that the token proxy belongs to this cluster; if it accepts no token that NMI requests, use the "
                "exchange direct, or type 0"
            )
        case _:
            action = "check the AzureIdentity's clientID and tenantID, and the proxy's response"
    return f"{action}: {error.message}"
