"""Detection of NMI's own requests to IMDS that a redirect returns to NMI. `nmi.server.handlers` refuses them.

Each request of NMI to IMDS has one more header field, which IMDS ignores. An NMI that receives it refuses the request
with status 508, which IMDS never sends, so the first response shows the cause to the NMI that sent the request: the
request neither waits nor reaches IMDS repeatedly. The field has no secret, because only the sender acts on it, on the
response to its own request. A pod that sends the field gets its own request refused. NMI never forwards a pod's field.

A connection gets its destination when it is opened, so the response closes it: Cilium creates the redirect for a new
NMI a moment before NMI's exemption from it, and a kept connection from that moment would return all later requests.

The fast lane does not search for the field. It answers only requests for which it has a ready response, and so sends
none to IMDS.
"""

from http import HTTPStatus
from typing import Final

from nmi.refusal import Reason, Refusal

FIELD: Final = "x-aad-pod-identity-hop"
SENT_FIELDS: Final = {FIELD: "nmi"}
"""The header fields that NMI adds to each request to IMDS."""
LOOP_STATUS: Final = HTTPStatus.LOOP_DETECTED

_NEXT: Final = (
    "set skipRedirectFromBackend: true in the CiliumLocalRedirectPolicy and give NMI's pod its own network (as the "
    "chart does), or use --redirect=auto; see docs/data-planes.md"
)
CAME_BACK: Final = f"NMI's own request to IMDS was redirected to NMI: {_NEXT}"
"""The message for the operator at the NMI that sent the request."""
LOOPED: Final = Refusal(
    Reason.LOOPED,
    "A request with the mark of NMI's own requests is not served.",
    f"NMI's own request came back, unless the peer sent {FIELD}: {_NEXT}",
)
