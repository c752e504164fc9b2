"""Links for the pod's AzureAssignedIdentities: whether MIC has written them and NMI serves the pod by them. Pure."""

from nmi.identity.assigned_identity import AssignedIdentity, project
from nmi.identity.decide import Grant, decide
from nmi.policies import decision_policy
from nmi.refusal import Refusal
from podidctl.diagnosis.decision import ANY_IDENTITY, is_managed, is_watched, pod_facts
from podidctl.diagnosis.input import DiagnosisInput
from podidctl.diagnosis.token_source import describe_token_source, unknown_cloud_note
from podidctl.explain.schema import Link, LinkState, make_link
from podidentity.resources import (
    CREATED,
    MESSAGE_ANNOTATION,
    POD_UID_ANNOTATION,
    AzureAssignedIdentity,
    AzureIdentity,
    IdentityType,
    Pod,
)


def assignment_link(data: DiagnosisInput, pod: Pod, identity: AzureIdentity) -> Link:
    """Return the link for the AzureAssignedIdentity of the pod and *identity*; if there are several, for the served
    one.
    """
    links = [
        _existing_assignment_link(data, pod, each)
        for each in data.assigned
        if each.spec.azure_identity_ref.key == identity.key
    ]
    if links:
        return next((each for each in links if each.state is LinkState.OK), links[0])
    says = "MIC has not created one for this pod and identity"
    then = "check that MIC runs and leads (podidctl doctor), its planned changes (podidctl plan) and its log"
    return make_link("assigned identity", f"for {'/'.join(identity.key)}", LinkState.BROKEN, says, then)


def unbound_assignment_link(data: DiagnosisInput, pod: Pod, each: AzureAssignedIdentity) -> Link:
    """Return the link for an AzureAssignedIdentity that no binding requires. It is correct that NMI does not
    serve it.
    """
    link = _existing_assignment_link(data, pod, each)
    says = f"{link.says}; no binding requires it for the pod any more, so MIC has to delete it"
    if not is_watched(data, pod, each) or not is_served(data, pod, project(each)):
        return make_link(link.link, link.about, LinkState.OK, says)
    if link.state is LinkState.BROKEN:
        return make_link(link.link, link.about, LinkState.BROKEN, says, link.next)
    return make_link(link.link, link.about, LinkState.UNKNOWN, says, "check that MIC runs and leads (podidctl doctor)")


def _existing_assignment_link(data: DiagnosisInput, pod: Pod, each: AzureAssignedIdentity) -> Link:
    about, node = "/".join(each.key), pod.spec.node_name
    if not is_watched(data, pod, each):
        says = f"it is for node {each.spec.nodename or '(none)'}, but its label nodename must be {node}"
        then = "MIC updates it in its next reconcile pass; if it does not, see MIC's log"
        return make_link("assigned identity", about, LinkState.BROKEN, says, then)
    return served_link(data, pod, about, project(each), well=f"Assigned, on node {node}", note=_note(each, pod))


def served_link(
    data: DiagnosisInput, pod: Pod, about: str, assigned: AssignedIdentity, *, well: str, note: str = ""
) -> Link:
    """Return whether NMI serves the pod by *assigned*: first by `decide`, then by NMI's checks before a request to
    Azure.
    """
    link = "assigned identity" if not is_managed(data) else "served"
    if not is_served(data, pod, assigned):
        says, then = _why_not(pod, assigned, note)
        return make_link(link, about, LinkState.BROKEN, says, then)
    account = f"{pod.metadata.namespace}/{pod.spec.service_account_name}"
    whom = describe_token_source(data.configuration.settings, assigned.identity, ANY_IDENTITY.resource, account=account)
    if isinstance(whom, Refusal):
        then = "; ".join(filter(None, (whom.detail, unknown_cloud_note(data.configuration, assigned.identity))))
        return make_link(link, about, LinkState.BROKEN, f"{well}, but NMI requests no token: {whom.sentence}", then)
    if assigned.identity.spec.type == IdentityType.FEDERATED:
        return make_link(link, about, LinkState.OK, f"{well}; NMI asks {whom}")
    return make_link(link, about, LinkState.OK, well)


def is_served(data: DiagnosisInput, pod: Pod, assigned: AssignedIdentity) -> bool:
    """Return whether NMI's own rules allow the pod a token of *assigned*."""
    return isinstance(
        decide(pod_facts(data, pod), [assigned], ANY_IDENTITY, decision_policy(data.configuration.settings), {}), Grant
    )


def _why_not(pod: Pod, assigned: AssignedIdentity, note: str) -> tuple[str, str]:
    log = "see MIC's log and kubectl describe of this object"
    if assigned.deleting:
        return "it is being deleted and is not served any more", log
    if assigned.pod_uid not in {"", pod.metadata.uid}:
        return "it was created for an earlier pod of this name, and the new pod does not inherit its access", (
            "MIC renews it in its next reconcile pass; if it does not, see MIC's log"
        )
    if assigned.selector != pod.binding_label:
        return f"its binding selects {assigned.selector!r}, which is not the pod's label", (
            "MIC renews or deletes it; if it does not, see MIC's log"
        )
    if assigned.status == CREATED:
        waits = "the identity is not attached to the VM or scale set yet"
        return f"Created: {note or waits}", note or (
            "Azure takes up to a minute; after that see MIC's log and podidctl plan"
        )
    if not assigned.usable:
        return f"its status is {assigned.status!r}{note and ': ' + note}", note or log
    return _in_another_namespace(pod, assigned)


def _in_another_namespace(pod: Pod, assigned: AssignedIdentity) -> tuple[str, str]:
    namespace = pod.metadata.namespace
    if assigned.identity.spec.type == IdentityType.FEDERATED and assigned.identity.metadata.namespace == namespace:
        says = (
            f"it or its binding is not in namespace {namespace}, but a federated identity serves only its own namespace"
        )
        return says, "MIC creates it there: check that MIC runs, leads and has this version (podidctl doctor)"
    return "the identity serves only its own namespace", "move the AzureIdentity and its binding, or the pod"


def _note(each: AzureAssignedIdentity, pod: Pod) -> str:
    """Return MIC's message on the object if it is about this pod."""
    uid = each.metadata.annotation(POD_UID_ANNOTATION)
    return each.metadata.annotation(MESSAGE_ANNOTATION) if uid in {"", pod.metadata.uid} else ""
