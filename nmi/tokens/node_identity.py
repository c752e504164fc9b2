"""The node's own identities, for pods under an exception and for MIC: what IMDS itself says, as it says it.

Whoever asks here gets what any process on the VM could have; whether a pod may is decided before (`nmi.identity`).
Nothing is cached, nothing of the pod's request is forwarded as it came, and every call takes its turn in the governor.
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
    """Asks one IMDS on behalf of pods that may. Holds nothing."""

    def __init__(self, imds: ImdsSource, governor: Governor) -> None:
        self._imds = imds
        self._governor = governor

    async def token(self, request: TokenRequest, starter: str, within: float) -> RawAnswer:
        """IMDS's answer to *request*, whatever its status, *within* so many seconds; *starter* is the pod that pays.

        The VM's own identity unless *request* names one. A request that asks to skip caches does so at IMDS too. Raises
        AzureError and CongestedError.
        """
        named = {_PARAMETERS[request.selector]: request.selector_value} if request.selector in _PARAMETERS else {}
        return await self._imds.raw(
            request.resource,
            client_id=named.get("client_id", ""),
            object_id=named.get("object_id", ""),
            resource_id=named.get("resource_id", ""),
            xms_cc=request.xms_cc,
            bypass_cache=request.force_refresh,
            within=within,
            slot=lambda: self._governor.token_slot(starter, within),
        )
