"""Refusals for failed calls to Azure: the texts for the pod and for the operator's log. Pure."""

from collections.abc import Callable, Collection
from enum import StrEnum
from types import MappingProxyType
from typing import Any, Final, Generic, NamedTuple, TypeVar

from nmi import azure_error_text
from nmi.identity.request import TokenRequest
from nmi.refusal import Limit, Reason, Refusal
from nmi.server.loop_detection import CAME_BACK
from nmi.tokens.assertions import NoAssertionError, NoAssertionYet
from nmi.tokens.federated import MISSPELT_SUBJECT, UNKNOWN_CREDENTIAL, UntrustedError
from nmi.tokens.governor import CongestedError
from nmi.tokens.proxy_refusals import SENTENCES, NotBoundError, next_action
from nmi.tokens.secrets import CredentialError, SignerError
from nmi.tokens.token_proxy import ProxyFailed, ProxyThrottled, ProxyUnreachable
from nmi.tokens.user_assigned import OtherIdentityError
from podidentity.azure.errors import AzureError, CameBack, Refused, Throttled
from podidentity.azure.imds_responses import GUEST_PROXY
from podidentity.resources import AzureIdentity, IdentityType
from podidentity.telemetry.logs import redacted

E = TypeVar("E", bound=AzureError)


class Service(StrEnum):
    """The service from which NMI requests a token, in words for the operator."""

    IMDS = "IMDS"
    ENTRA_ID = "Entra ID"
    UNKNOWN = "IMDS, or Entra ID for a service principal,"


def service_of(identity: AzureIdentity) -> Service:
    """Return the service that has the tokens of *identity*."""
    return Service.IMDS if identity.spec.type == IdentityType.USER_ASSIGNED else Service.ENTRA_ID


class _ErrorTexts(NamedTuple, Generic[E]):
    """The refusal for errors of one class."""

    error: type[E]
    reason: Reason
    sentence: Callable[[E], str]
    """The sentence for the pod, without the full stop: the error's code and correlation id follow."""
    hint: Callable[[E], str]
    """The next action, for the operator."""
    check: Callable[[Service], str] | None = None
    """What precedes *hint* and depends on the service."""
    with_azure_sentence: bool = False
    """Whether the pod also receives Azure's own sentence."""


_ACTION: Final = "check the AzureIdentity's clientID and the requested resource"
_ACTIONS: Final = MappingProxyType(
    {
        "AADSTS7000215": "put a valid client secret into the Secret that clientPassword of the AzureIdentity names",
        "AADSTS7000222": "put a new client secret into the Secret that clientPassword of the AzureIdentity names",
        "AADSTS700027": "put a certificate of the application into the Secret that clientPassword of the "
        "AzureIdentity names",
        "AADSTS90002": "correct tenantID of the AzureIdentity",
        "AADSTS900023": "correct tenantID of the AzureIdentity",
        "AADSTS700016": "correct clientID of the AzureIdentity, or its tenantID",
        GUEST_PROXY: "allow NMI in the IMDS rules of the metadata security protocol (proxyAgentSettings) of the node's "
        "scale set or VM, or set their mode to Audit",
        "AADSTS500011": "correct the resource that the application requests",
    }
)
"""The next action by the Guest Proxy Agent's code or Entra ID's. Source: Microsoft, "Microsoft Entra authentication and
authorization error codes"."""
CREDENTIAL_CODES: Final = ("AADSTS7000215", "AADSTS7000222", "AADSTS700027")
"""Entra ID's codes for an invalid credential of a service principal."""
OTHER_AUDIENCE: Final = "AADSTS700212"
"""Entra ID's code if a federated credential of the identity has issuer and subject, and another audience."""
_DIFFERENCES: Final = MappingProxyType(
    {
        "AADSTS700211": "no federated credential of the identity has this issuer",
        OTHER_AUDIENCE: "no federated credential of the identity has this audience",
        "AADSTS700213": "no federated credential of the identity has this subject",
        MISSPELT_SUBJECT: "a federated credential of the identity has this subject in other letter case",
    }
)
"""What differs, by Entra ID's code."""
UNTRUSTED_CODES: Final = (*UNKNOWN_CREDENTIAL, MISSPELT_SUBJECT)
"""The codes of an UntrustedError."""

_TEXTS: Final[tuple[_ErrorTexts[Any], ...]] = (
    _ErrorTexts[UntrustedError](
        UntrustedError,
        Reason.UPSTREAM_REFUSED,
        lambda error: f"Azure has no federated credential of this identity for {_trust(error)}",
        lambda error: untrusted_text(error.code, error.issuer, error.subject, error.audience, error.client_id),
    ),
    _ErrorTexts[NotBoundError](
        NotBoundError,
        Reason.UPSTREAM_REFUSED,
        lambda error: SENTENCES[error.step],
        next_action,
        with_azure_sentence=True,
    ),
    _ErrorTexts[ProxyUnreachable](
        ProxyUnreachable,
        Reason.UPSTREAM_UNAVAILABLE,
        lambda _: "The cluster's token proxy did not respond; try again",
        lambda error: (
            f"{error.message}; check the proxy's URL, TLS server name and authority (AZURE_KUBERNETES_* of NMI) and "
            f"the network; clusters with API server VNet integration have no token proxy"
        ),
    ),
    _ErrorTexts[ProxyThrottled](
        ProxyThrottled,
        Reason.UPSTREAM_THROTTLED,
        lambda _: "The cluster's token proxy limits token requests now; try again",
        lambda error: (
            f"the token proxy limits the requests of this cluster: find the pods that request many different tokens "
            f"(podidctl top): {error.message}"
        ),
    ),
    _ErrorTexts[ProxyFailed](
        ProxyFailed,
        Reason.UPSTREAM_UNAVAILABLE,
        lambda _: "The cluster's token proxy did not return a token; try again",
        lambda error: f"check the state of the AKS cluster, whose token proxy failed: {error.message}",
    ),
    _ErrorTexts[NoAssertionError](
        NoAssertionError,
        Reason.UPSTREAM_REFUSED,
        lambda _: "This pod's service account cannot be proved to Azure, so no request was sent",
        lambda error: error.message,
    ),
    _ErrorTexts[NoAssertionYet](
        NoAssertionYet,
        Reason.UPSTREAM_UNAVAILABLE,
        lambda _: "This pod's service account could not be proved to Azure now; try again",
        lambda error: f"check that the API server responds to this node: {error.message}",
    ),
    _ErrorTexts[OtherIdentityError](
        OtherIdentityError,
        Reason.UPSTREAM_REFUSED,
        lambda _: "The clientID of this identity's AzureIdentity is not that of the identity on Azure",
        lambda error: f"{error.message}: set its clientID and resourceID to those of one identity (az identity show)",
    ),
    _ErrorTexts[CredentialError](
        CredentialError,
        Reason.UPSTREAM_REFUSED,
        lambda _: "The Secret of this identity cannot be used, so no request was sent to Azure",
        lambda error: error.message,
    ),
    _ErrorTexts[SignerError](
        SignerError,
        Reason.UPSTREAM_UNAVAILABLE,
        lambda _: "This node could not sign a request to Azure now; try again",
        lambda error: error.message,
    ),
    _ErrorTexts[Refused](
        Refused,
        Reason.UPSTREAM_REFUSED,
        lambda _: "Azure refused a token for this identity",
        lambda error: f"{_ACTIONS.get(error.code, _ACTION)}: {error.message}",
        with_azure_sentence=True,
    ),
    _ErrorTexts[Throttled](
        Throttled,
        Reason.UPSTREAM_THROTTLED,
        lambda _: "Azure limits token requests of this node now; try again",
        lambda error: error.message,
        lambda service: (
            f"find what else requests tokens from {service} here, and pods that request many different ones "
            "(podidctl top)"
        ),
    ),
    _ErrorTexts[CameBack](
        CameBack,
        Reason.UPSTREAM_UNAVAILABLE,
        lambda _: "NMI's request to the metadata service came back to NMI",
        lambda _: CAME_BACK,
    ),
    _ErrorTexts[AzureError](
        AzureError,
        Reason.UPSTREAM_UNAVAILABLE,
        lambda _: "Azure's token endpoint did not return a token; try again",
        lambda error: error.message,
        lambda service: f"check that {service} responds to this node",
    ),
)
"""The first row whose class an error has applies."""


def untrusted_text(code: str, issuer: str, subject: str, audience: str, client_id: str) -> str:
    """Return the operator's text for an UntrustedError. podidctl finds the issuer in it, and compares all else."""
    return (
        f"{_DIFFERENCES.get(code, 'the identity has no such federated credential')} ({code}): az identity "
        "federated-credential create --name NAME --identity-name IDENTITY --resource-group GROUP "
        f"--issuer {issuer} --subject {subject} --audiences {audience} (the identity with client id "
        f"{redacted(client_id)}; Azure knows it after some minutes)"
    )


def refusal_of_congestion(error: CongestedError) -> Refusal:
    return Refusal(
        Reason.OVERLOADED,
        "Too many token requests are waiting on this node; try again.",
        "calls to IMDS are queued up to their limit: find the pods that request many different tokens",
        retry_after=error.retry_after,
        limit=Limit.GOVERNOR_QUEUE,
    )


def refusal_of(error: AzureError, own: Collection[str] = (), service: Service = Service.UNKNOWN) -> Refusal:
    """Return the refusal for an upstream failure of *service*, with the texts for the pod and for the operator.

    For a refused token the pod also receives Azure's own sentence, without the ids and names that are not among *own*
    (`azure_error_text`). The text never contains the word "unreachable", by which SDKs detect a missing endpoint.
    """
    texts = next(row for row in _TEXTS if isinstance(error, row.error))
    # SDKs search the whole text, so Azure's code must not contain the word either.
    code = "" if "unreachable" in error.code.lower() else error.code
    facts = [code, f"correlation id {error.correlation_id}" if error.correlation_id else ""]
    details = ", ".join(fact for fact in facts if fact)
    suffix = f" ({details})" if details else ""
    azure_sentence = _azure_sentence(error, own) if texts.with_azure_sentence else ""
    return Refusal(
        texts.reason,
        f"{texts.sentence(error)}{suffix}.{azure_sentence}",
        f"{texts.check(service)}: {texts.hint(error)}" if texts.check is not None else texts.hint(error),
        # A repeated request is refused again, so the pod receives no time for it.
        retry_after=None if texts.reason is Reason.UPSTREAM_REFUSED else error.retry_after,
        correlation=error.correlation_id,
        cause=_cause(error, texts),
    )


def _cause(error: AzureError, texts: _ErrorTexts[Any]) -> str:
    """Return what distinguishes errors that an operator corrects in different ways.

    Azure's own sentences differ between repeats, so its code is used. Of errors that a retry may resolve the status
    counts: a service that fails and one that does not respond are two causes.
    """
    if texts.reason is not Reason.UPSTREAM_REFUSED:
        return f"{texts.reason} {type(error).__name__} {error.status or ''}"
    return f"{texts.sentence(error)} {error.code}" if texts.with_azure_sentence else texts.hint(error)


def _azure_sentence(error: AzureError, own: Collection[str]) -> str:
    sentence = azure_error_text.for_pod(error.sentence, own)
    return f" Azure's answer: {sentence}" if sentence else ""


def _trust(error: UntrustedError) -> str:
    return f"issuer {error.issuer}, subject {error.subject}, audience {error.audience}"


def own_ids(identity: AzureIdentity, request: TokenRequest) -> tuple[str, ...]:
    """Return the ids and names that a pod with *identity* already knows."""
    spec, resource = identity.spec, request.resource
    return spec.client_id, spec.tenant_id, *(spec.auxiliary_tenant_ids or ()), resource, f"{resource}/.default"
