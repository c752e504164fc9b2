"""The strict parser of a request's query. Pure.

It uses form decoding like Go's url.ParseQuery and IMDS ("+" is a space), but refuses input that those ignore: a bad
escape, ";" as a separator, a repeated name. If two readers read a query differently, a check can be bypassed.
"""

import re
from typing import Final

from nmi.identity.request import SelectorKind, TokenRequest
from nmi.refusal import Limit, Reason, Refusal

PARAMETERS_MAX: Final = 16
"""Parameters of a query, also empty ones. The token path uses ten."""

ESCAPES_MAX: Final = 512
"""A token request with every slash of a full ARM id escaped has under 20. The fast lane's queries have 512 at most."""

_SELECTORS: Final = {
    "client_id": SelectorKind.CLIENT_ID,
    "object_id": SelectorKind.OBJECT_ID,
    "msi_res_id": SelectorKind.RESOURCE_ID,  # azure-identity, MSAL
    "mi_res_id": SelectorKind.RESOURCE_ID,  # MSAL4J, go-autorest
    "msi-res-id": SelectorKind.RESOURCE_ID,  # the probe of Azure.Identity for .NET
}
_BAD_ESCAPE: Final = re.compile(r"%(?![0-9A-Fa-f]{2})")
_CONTROL: Final = re.compile(r"%(?:[01]|7[fF])")
"""The escapes of control characters. They have no other way into a target (`nmi.server.head`)."""


def parse_query(query: str) -> dict[str, str] | Refusal:
    """Return the parameters of *query*, with decoded names and values, in their order."""
    pairs = _pairs(query)
    if isinstance(pairs, Refusal):
        return pairs
    try:
        decoded = [_decoded_pair(pair) for pair in pairs]
    except UnicodeDecodeError:
        return _refuse("The query is not UTF-8.")
    parameters = dict(decoded)
    # Two readers may use different ones of two equal names, so a check of one could be bypassed.
    if len(parameters) < len(decoded):
        return _refuse("A query parameter is given more than once.")
    if _CONTROL.search(query):
        return _refuse("The query holds a control character.")
    return parameters


def _pairs(query: str) -> list[str] | Refusal:
    """Return the parameters of *query* before their decoding, whose time is limited by their number and escapes."""
    if ";" in query or _BAD_ESCAPE.search(query):
        return _refuse('The query holds a bad percent escape, or a ";", which has to be sent as %3B.')
    if query.count("%") > ESCAPES_MAX:
        return _refuse("The query holds too many percent escapes.", Limit.PARAMETERS)
    if query.count("&") >= PARAMETERS_MAX:
        return _refuse("The query has too many parameters.", Limit.PARAMETERS)
    return [*filter(None, query.split("&"))]


def token_request(query: str) -> TokenRequest | Refusal:
    """Return the token request in *query*. Other parameters are ignored."""
    parameters = parse_query(query)
    if isinstance(parameters, Refusal):
        return parameters
    resource = parameters.get("resource", "")
    if not resource:
        return NO_RESOURCE
    given = [(kind, value) for name, kind in _SELECTORS.items() if (value := parameters.get(name, ""))]
    if len(given) > 1:
        return _refuse("Only one of client_id, object_id and msi_res_id may be given.")
    kind, value = given[0] if given else (SelectorKind.NONE, "")
    return TokenRequest(
        resource=resource,
        selector=kind,
        selector_value=value,
        xms_cc=parameters.get("xms_cc", ""),
        force_refresh=parameters.get("bypass_cache", "").lower() == "true",
        rejected_sha256=parameters.get("token_sha256_to_refresh", "").lower(),
    )


def _decoded_pair(text: str) -> tuple[str, str]:
    name, _, value = text.partition("=")
    return (_decoded(name), _decoded(value)) if "%" in text or "+" in text else (name, value)


def _decoded(text: str) -> str:
    """Return *text*, whose escapes are valid, decoded as a form. `urllib.parse` takes ten times as long."""
    if "%" not in text and "+" not in text:
        return text
    escaped = text.replace("+", " ").replace("\\", r"\x5c").replace("%", r"\x")
    return escaped.encode().decode("unicode_escape").encode("latin-1").decode("utf-8")


def _refuse(sentence: str, limit: Limit | None = None) -> Refusal:
    return Refusal(Reason.BAD_PARAMETERS, sentence, f"{sentence} See which client the workload uses.", limit=limit)


NO_RESOURCE: Final = _refuse("The parameter resource is required.")
