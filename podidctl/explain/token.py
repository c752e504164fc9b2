"""Links that the objects of the API server do not show: Secrets, and NMI's last response to the pod. Pure."""

from collections.abc import Iterator

from nmi.tokens.secrets import CredentialError
from podidctl.diagnosis.bindings import bound_identities
from podidctl.diagnosis.decision import Outcome, predict_decision
from podidctl.diagnosis.input import DiagnosisInput, ReadFailure
from podidctl.diagnosis.recent_refusals import recent_refusal
from podidctl.diagnosis.secrets import READ_PERMISSION, application_of
from podidctl.explain.schema import Link, LinkState, make_link
from podidentity.resources import Pod


def secret_links(data: DiagnosisInput, pod: Pod) -> Iterator[Link]:
    """Yield the link of each Secret that the pod's service principals need."""
    for identity in bound_identities(data, pod):
        application = application_of(data.configuration.settings, identity)
        if application is None or identity.key not in data.secrets:
            continue
        about = application.secret
        match data.secrets[identity.key]:
            case CredentialError() as error:
                says, _, then = error.message.partition(": ")
                yield make_link("secret", about, LinkState.BROKEN, says, then or error.message)
            case ReadFailure(why):
                yield make_link("secret", about, LinkState.UNKNOWN, f"it could not be checked: {why}", READ_PERMISSION)
            case None:
                yield make_link("secret", about, LinkState.OK, "it exists and has the keys that NMI reads")


def token_links(data: DiagnosisInput) -> Iterator[Link]:
    """Yield the link of NMI's last response if it is a refusal that the other links do not explain."""
    decision = predict_decision(data)
    if decision.outcome is not Outcome.GRANTED or decision.assigned is None:
        return
    identity = "/".join(decision.assigned.identity.key)
    refused = recent_refusal(data, identity=identity)
    if refused is not None:
        yield make_link("token", identity, LinkState.BROKEN, f"{refused.description}: {refused.text}", refused.text)
