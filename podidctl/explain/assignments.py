"""What MIC has made of bindings and identities for the pod, and whether NMI serves the pod by it. Pure."""

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
    """The AzureAssignedIdentity of the pod and *identity*: the one that serves, where there are several."""
    links = [
        _existing_assignment_link(data, pod, each)
        for each in data.assigned
        if each.spec.azure_identity_ref.key == identity.key
    ]
    if links:
        return next((each for each in links if each.state is LinkState.OK), links[0])
    says = "MIC has made none for this pod and identity"
    then = "see that MIC runs and leads (podidctl doctor), what it would do (podidctl plan), and its log"
    return make_link("assigned identity", f"for {'/'.join(identity.key)}", LinkState.BROKEN, says, then)


def unbound_assignment_link(data: DiagnosisInput, pod: Pod, each: AzureAssignedIdentity) -> Link:
    """One that no binding gives to the pod: that it serves nothing is right."""
    link = _existing_assignment_link(data, pod, each)
    says = f"{link.says}; no binding gives it to the pod any more, so MIC is to take it away"
    if not is_watched(data, pod, each) or not is_served(data, pod, project(each)):
        return make_link(link.link, link.about, LinkState.OK, says)
    if link.state is LinkState.BROKEN:
        return make_link(link.link, link.about, LinkState.BROKEN, says, link.next)
    return make_link(link.link, link.about, LinkState.UNKNOWN, says, "see that MIC runs and leads (podidctl doctor)")


def _existing_assignment_link(data: DiagnosisInput, pod: Pod, each: AzureAssignedIdentity) -> Link:
    about, node = "/".join(each.key), pod.spec.node_name
    if not is_watched(data, pod, each):
        says = f"it is for node {each.spec.nodename or '(none)'}, and its label nodename has to say {node}"
        then = "MIC moves it when it next works on the pod; if that does not come, see MIC's log"
        return make_link("assigned identity", about, LinkState.BROKEN, says, then)
    return served_link(data, pod, about, project(each), well=f"Assigned, on node {node}", note=_note(each, pod))


def served_link(
    data: DiagnosisInput, pod: Pod, about: str, assigned: AssignedIdentity, *, well: str, note: str = ""
) -> Link:
    """Whether NMI serves the pod by *assigned*: `decide` says so, and then whether NMI asks Azure at all."""
    link = "assigned identity" if not is_managed(data) else "served"
    if not is_served(data, pod, assigned):
        says, then = _why_not(pod, assigned, note)
        return make_link(link, about, LinkState.BROKEN, says, then)
    account = f"{pod.metadata.namespace}/{pod.spec.service_account_name}"
    whom = describe_token_source(data.configuration.settings, assigned.identity, ANY_IDENTITY.resource, account=account)
    if isinstance(whom, Refusal):
        then = "; ".join(filter(None, (whom.detail, unknown_cloud_note(data.configuration, assigned.identity))))
        return make_link(
            link, about, LinkState.BROKEN, f"{well}, and no token of it is asked for: {whom.sentence}", then
        )
    if assigned.identity.spec.type == IdentityType.FEDERATED:
        return make_link(link, about, LinkState.OK, f"{well}; NMI asks {whom}")
    return make_link(link, about, LinkState.OK, well)


def is_served(data: DiagnosisInput, pod: Pod, assigned: AssignedIdentity) -> bool:
    """Whether NMI lets the pod have a token of it, as far as that is its own to decide."""
    return isinstance(
        decide(pod_facts(data, pod), [assigned], ANY_IDENTITY, decision_policy(data.configuration.settings), {}), Grant
    )


def _why_not(pod: Pod, assigned: AssignedIdentity, note: str) -> tuple[str, str]:
    log = "see MIC's log, and kubectl describe on it"
    if assigned.deleting:
        return "it is being removed, and is served no more", log
    if assigned.pod_uid not in {"", pod.metadata.uid}:
        return "it was made for an earlier pod of this name, whose rights this one does not inherit", (
            "MIC renews it when it next works on the pod; if that does not come, see MIC's log"
        )
    if assigned.selector != pod.binding_label:
        return f"it was made by a binding that selects {assigned.selector!r}, which is not the pod's label", (
            "MIC renews or removes it; if that does not come, see MIC's log"
        )
    if assigned.status == CREATED:
        waits = "the identity is not on the VM or scale set yet"
        return f"Created: {note or waits}", note or "Azure takes up to a minute; then see MIC's log and podidctl plan"
    if not assigned.usable:
        return f"its status is {assigned.status!r}{note and ': ' + note}", note or log
    return _in_another_namespace(pod, assigned)


def _in_another_namespace(pod: Pod, assigned: AssignedIdentity) -> tuple[str, str]:
    namespace = pod.metadata.namespace
    if assigned.identity.spec.type == IdentityType.FEDERATED and assigned.identity.metadata.namespace == namespace:
        says = f"it or its binding is not in namespace {namespace}, from where alone a federated identity is served"
        return says, "MIC makes it there: see that MIC runs, leads and is of this version (podidctl doctor)"
    return "the identity serves its own namespace only", "move the AzureIdentity and its binding, or the pod"


def _note(each: AzureAssignedIdentity, pod: Pod) -> str:
    """What MIC wrote on it, where that is about this pod."""
    uid = each.metadata.annotation(POD_UID_ANNOTATION)
    return each.metadata.annotation(MESSAGE_ANNOTATION) if uid in {"", pod.metadata.uid} else ""
