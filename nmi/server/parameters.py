"""The query of a request: read once, strictly. Pure.

Form decoding, as Go's url.ParseQuery and IMDS do it ("+" is a space), except that what those pass over in silence is
refused here: a bad escape, ";" as a separator, a name given twice. Two readers who disagree about a query are how a
check gets walked around.
"""

import re
from collections.abc import Mapping
from typing import Final
from urllib.parse import unquote_to_bytes

from nmi.identity.request import SelectorKind, TokenRequest
from nmi.refusal import Limit, Reason, Refusal

PARAMETERS_MAX: Final = 32
"""The token path knows ten."""

_SELECTORS: Final = {
    "client_id": SelectorKind.CLIENT_ID,
    "object_id": SelectorKind.OBJECT_ID,
    "msi_res_id": SelectorKind.RESOURCE_ID,  # azure-identity, MSAL
    "mi_res_id": SelectorKind.RESOURCE_ID,  # MSAL4J, go-autorest
    "msi-res-id": SelectorKind.RESOURCE_ID,  # the probe of Azure.Identity for .NET
}
_MALFORMED: Final = re.compile(r"%(?![0-9A-Fa-f]{2})|;")
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f]")


def parse_query(query: str) -> dict[str, str] | Refusal:
    """The parameters of *query*, names and values decoded, in the order in which they came."""
    if _MALFORMED.search(query):
        return _refuse('The query holds a bad percent escape, or a ";", which has to be sent as %3B.')
    pairs = [each.partition("=") for each in query.split("&") if each]
    if len(pairs) > PARAMETERS_MAX:
        return _refuse("The query has too many parameters.", Limit.PARAMETERS)
    try:
        decoded = [(_decoded(name), _decoded(value)) for name, _, value in pairs]
    except UnicodeDecodeError:
        return _refuse("The query is not UTF-8.")
    parameters = dict(decoded)
    if len(parameters) < len(decoded):
        return _refuse("A query parameter is given more than once.")
    if any(_CONTROL.search(name) or _CONTROL.search(value) for name, value in decoded):
        return _refuse("The query holds a control character.")
    return parameters


def token_request(query: str) -> TokenRequest | Refusal:
    """What *query* asks the token path for. Parameters of other names mean nothing here."""
    parameters = parse_query(query)
    if isinstance(parameters, Refusal):
        return parameters
    resource = parameters.get("resource", "")
    if not resource:
        return _refuse("The parameter resource is required.")
    given = [(kind, value) for name, kind in _SELECTORS.items() if (value := parameters.get(name, ""))]
    if len(given) > 1:
        return _refuse("Only one of client_id, object_id and msi_res_id may be given.")
    kind, value = given[0] if given else (SelectorKind.NONE, "")
    return TokenRequest(
        resource=resource,
        selector=kind,
        selector_value=value,
        xms_cc=parameters.get("xms_cc", ""),
        force_refresh=_wants_fresh(parameters),
    )


def _wants_fresh(parameters: Mapping[str, str]) -> bool:
    return parameters.get("bypass_cache", "").lower() == "true" or bool(parameters.get("token_sha256_to_refresh"))


def _decoded(text: str) -> str:
    return unquote_to_bytes(text.replace("+", " ")).decode("utf-8", "strict")


def _refuse(sentence: str, limit: Limit | None = None) -> Refusal:
    return Refusal(Reason.BAD_PARAMETERS, sentence, f"{sentence} See which client the workload uses.", limit=limit)
