"""Refusals for failed calls to Azure: the texts for the pod and for the operator's log. Pure."""

from collections.abc import Collection

from nmi import azure_error_text
from nmi.identity.request import TokenRequest
from nmi.refusal import Limit, Reason, Refusal
from nmi.tokens.assertions import NoAssertionError, NoAssertionYet
from nmi.tokens.federated import UntrustedError
from nmi.tokens.governor import CongestedError
from nmi.tokens.secrets import CredentialError
from nmi.tokens.user_assigned import OtherIdentityError
from podidentity.azure.errors import AzureError, Refused, Throttled
from podidentity.resources import AzureIdentity
from podidentity.telemetry.logs import redacted


def refusal_of_congestion(error: CongestedError) -> Refusal:
    return Refusal(
        Reason.OVERLOADED,
        "Too many token requests are waiting on this node; try again.",
        "calls to IMDS are queued up to their limit: find the pods that request many different tokens",
        retry_after=error.retry_after,
        limit=Limit.GOVERNOR_QUEUE,
    )


def refusal_of(error: AzureError, own: Collection[str] = ()) -> Refusal:
    """Return the refusal for an upstream failure, with the texts for the pod and for the operator.

    For a refused token the pod also receives Azure's own sentence, without the ids and names that are not among *own*
    (`azure_error_text`). The text never contains the word "unreachable", by which SDKs detect a missing endpoint.
    """
    code = "" if "unreachable" in error.code.lower() else error.code
    facts = [code, f"correlation id {error.correlation_id}" if error.correlation_id else ""]
    known = ", ".join(fact for fact in facts if fact)
    suffix = f" ({known})" if known else ""
    if isinstance(error, UntrustedError | NoAssertionError | NoAssertionYet):
        return _unproved(error, suffix)
    if isinstance(error, OtherIdentityError):
        return Refusal(
            Reason.UPSTREAM_REFUSED,
            f"The clientID of this identity's AzureIdentity is not that of the identity on Azure{suffix}.",
            f"{error.message}: set its clientID and resourceID to those of one identity (az identity show)",
            correlation=error.correlation_id,
        )
    if isinstance(error, CredentialError):
        return Refusal(
            Reason.UPSTREAM_REFUSED,
            f"The Secret of this identity cannot be used, so no request was sent to Azure{suffix}.",
            error.message,
        )
    if isinstance(error, Refused):
        return Refusal(
            Reason.UPSTREAM_REFUSED,
            f"Azure refused a token for this identity{suffix}.{_answer_of(error, own)}",
            f"check the AzureIdentity's clientID and the requested resource: {error.message}",
            correlation=error.correlation_id,
        )
    if isinstance(error, Throttled):
        return Refusal(
            Reason.UPSTREAM_THROTTLED,
            f"Azure limits token requests of this node now; try again{suffix}.",
            f"other clients than NMI may use IMDS on this node, or the same service principal: {error.message}",
            retry_after=error.retry_after,
            correlation=error.correlation_id,
        )
    return Refusal(
        Reason.UPSTREAM_UNAVAILABLE,
        f"Azure's token endpoint did not return a token; try again{suffix}.",
        f"check that IMDS, or Azure AD for a service principal, responds to this node: {error.message}",
        retry_after=error.retry_after,
        correlation=error.correlation_id,
    )


def _answer_of(error: AzureError, own: Collection[str]) -> str:
    said = azure_error_text.for_pod(error.said, own)
    return f" Azure's answer: {said}" if said else ""


def own_ids(identity: AzureIdentity, request: TokenRequest) -> tuple[str, ...]:
    """Return the ids and names that a pod with *identity* already knows."""
    spec, resource = identity.spec, request.resource
    return spec.client_id, spec.tenant_id, *(spec.auxiliary_tenant_ids or ()), resource, f"{resource}/.default"


def _unproved(error: UntrustedError | NoAssertionError | NoAssertionYet, suffix: str) -> Refusal:
    """Return the refusal if the pod's own service account was not proved to Azure."""
    if isinstance(error, UntrustedError):
        trust = f"issuer {error.issuer}, subject {error.subject}, audience {error.audience}"
        return Refusal(
            Reason.UPSTREAM_REFUSED,
            f"Azure knows no federated credential of this identity for {trust}{suffix}.",
            f"give the identity with client id {redacted(error.client_id)} a federated credential of exactly these "
            f"(az identity federated-credential create), and allow some minutes until it is known: {trust}",
            correlation=error.correlation_id,
        )
    if isinstance(error, NoAssertionError):
        return Refusal(
            Reason.UPSTREAM_REFUSED,
            f"This pod's service account cannot be proved to Azure, so no request was sent{suffix}.",
            error.message,
        )
    return Refusal(
        Reason.UPSTREAM_UNAVAILABLE,
        f"This pod's service account could not be proved to Azure now; try again{suffix}.",
        f"check that the API server responds to this node: {error.message}",
        retry_after=error.retry_after,
    )
