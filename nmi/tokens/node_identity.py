"""The node's own identities, for pods under an exception and for MIC: IMDS's response, unchanged.

The caller decides whether a pod may have it (`nmi.identity`): any process on the VM could get the same token. The
source caches nothing, builds its own request instead of forwarding the pod's, and every call needs a permit of the
governor.
"""

from typing import Final

from nmi.identity.request import SelectorKind, TokenRequest
from nmi.tokens.governor import Governor
from podidentity.azure.imds import ImdsSource, RawAnswer

_PARAMETERS: Final = {
    SelectorKind.CLIENT_ID: "client_id",
    SelectorKind.OBJECT_ID: "object_id",
    SelectorKind.RESOURCE_ID: "resource_id",
}


class NodeIdentitySource:
    """Client of one IMDS on behalf of exempt pods. It stores nothing."""

    def __init__(self, imds: ImdsSource, governor: Governor) -> None:
        self._imds = imds
        self._governor = governor

    async def token(self, request: TokenRequest, starter: str, within: float) -> RawAnswer:
        """Return IMDS's response to *request*, with any status, within *within* seconds. *starter* is charged for it.

        The token is of the VM's own identity unless *request* names one. A forced refresh, and a report of a rejected
        token, skip IMDS's cache too. Raise AzureError and CongestedError.
        """
        named = {_PARAMETERS[request.selector]: request.selector_value} if request.selector in _PARAMETERS else {}
        return await self._imds.raw(
            request.resource,
            client_id=named.get("client_id", ""),
            object_id=named.get("object_id", ""),
            resource_id=named.get("resource_id", ""),
            xms_cc=request.xms_cc,
            bypass_cache=request.force_refresh or bool(request.rejected_sha256),
            within=within,
            permit=lambda: self._governor.token_permit(starter, within),
        )
