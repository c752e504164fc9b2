"""Links from the pod's label to its bindings, their identities and the assignments. Pure."""

from collections.abc import Iterator
from typing import Final

from mic.decisions.assignments import misconfigured
from nmi.identity.managed_mode import join
from podidctl.diagnosis.bindings import (
    eligible_bindings,
    named_identity,
    namespace_restriction,
    selecting_bindings,
)
from podidctl.diagnosis.decision import Outcome, assignments_of, is_managed, predict_decision
from podidctl.diagnosis.input import DiagnosisInput
from podidctl.diagnosis.several_identities import CLIENT_ID_VARIABLE, NAME_ONE, sets_client_id
from podidctl.diagnosis.similar_texts import similar_texts
from podidctl.diagnosis.token_source import TYPE_NAMES
from podidctl.explain.assignments import assignment_link, is_served, served_link, unbound_assignment_link
from podidctl.explain.ignored_fields import correct, ignored_fields, ignored_selectors, why_ignored
from podidctl.explain.schema import Link, LinkState, make_link
from podidctl.printing import listed
from podidentity.resources import BINDINGS, IDENTITIES, AzureIdentity, AzureIdentityBinding, Meta, Pod
from podidentity.telemetry.logs import redacted

SIMILAR_MAX: Final = 3


def binding_links(data: DiagnosisInput, pod: Pod) -> Iterator[Link]:
    """Yield the links of the bindings, of the identity of each, and of their assignments."""
    bindings = selecting_bindings(data, pod)
    if pod.binding_label and not bindings:
        yield _no_binding(data, pod)
    # A binding of another team is not a fault unless the pod has no other.
    others = {each.key: why for each in bindings if (why := namespace_restriction(data, pod, each))}
    others_are_well = len(others) < len(bindings) or predict_decision(data).outcome is Outcome.GRANTED
    seen: set[tuple[str, str]] = set()
    for binding in bindings:
        key = (binding.metadata.namespace, binding.spec.azure_identity)
        if binding.key in others and others_are_well:
            says = f"it does not serve this namespace: {others[binding.key]}"
            yield make_link("binding", "/".join(binding.key), LinkState.OK, says)
            continue
        identity = named_identity(data, binding)
        yield _binding(data, binding)
        if key in seen:
            continue
        yield _identity(data, pod, binding, identity)
        if identity is not None and is_managed(data):
            joined = join(binding, identity)
            yield served_link(data, pod, "/".join(binding.key), joined, well="bound, in the same namespace")
        elif identity is not None and binding.key not in others and not misconfigured(identity):
            seen.add(key)
            yield assignment_link(data, pod, identity)
    for each in data.assigned if not is_managed(data) else ():
        if each.spec.azure_identity_ref.key not in seen:
            yield unbound_assignment_link(data, pod, each)


def choice_links(data: DiagnosisInput, pod: Pod) -> Iterator[Link]:
    """Yield the link of the choice between several identities, for a request that names none."""
    bindings = [each for each in selecting_bindings(data, pod) if not namespace_restriction(data, pod, each)]
    found = {identity.key for each in bindings if (identity := named_identity(data, each)) is not None}
    found |= {each.identity.key for each in assignments_of(data, pod) if is_served(data, pod, each)}
    if len(found) < 2:
        return
    several = listed("/".join(each) for each in found)
    decision = predict_decision(data)
    gets = "waits until one is assigned"
    if decision.assigned is not None:
        gets = f"gets {'/'.join(decision.assigned.identity.key)}"
    elif decision.outcome is not Outcome.WAITS:
        return
    says = f"a request that names none {gets}"
    if sets_client_id(pod):
        yield make_link("choice", several, LinkState.OK, f"a container sets {CLIENT_ID_VARIABLE}; {says}")
    else:
        yield make_link("choice", several, LinkState.UNKNOWN, says, NAME_ONE)


def _no_binding(data: DiagnosisInput, pod: Pod) -> Link:
    there, label = eligible_bindings(data), pod.binding_label
    similar = similar_texts(label, {each.spec.selector for each in there})[:SIMILAR_MAX]
    selectors = {each.spec.selector: each for each in there}
    near = [f"{'/'.join(selectors[text].key)} selects {text!r}" for text in similar]
    where = f"of namespace {data.namespace} (managed mode) " if is_managed(data) else ""
    says = f"no AzureIdentityBinding {where}has selector {label!r}"
    then: list[str] = []
    if near:
        says += f"; {'; '.join(near)}"
        then.append(f"set spec.selector of the binding or the pod's label to the same value: {'; '.join(near)}")
    if ignored := ignored_selectors(data, pod):
        says += f"; {why_ignored(ignored, by_mic=not is_managed(data))}"
        then.append(correct("the binding that is to select this pod"))
    if not then:
        then.append(
            f"create an AzureIdentityBinding with spec.selector {label!r} in the namespace of the AzureIdentity"
        )
    return make_link("binding", "none", LinkState.BROKEN, says, "; or ".join(then))


def _binding(data: DiagnosisInput, binding: AzureIdentityBinding) -> Link:
    about = "/".join(binding.key)
    says = f"its selector matches the pod's label; it names {binding.spec.azure_identity or 'no AzureIdentity'}"
    if binding.metadata.namespace != data.namespace:
        says += "; it is of another namespace, whose authors give the pod this identity"
    if ignored := ignored_fields(data, BINDINGS, binding.key):
        says += f"; {why_ignored(ignored, by_mic=not is_managed(data))}"
    if binding.metadata.deletion_timestamp is None:
        return make_link("binding", about, LinkState.OK, says)
    if is_managed(data):
        then = (
            "wait until it is deleted and create it again: in managed mode a binding has no effect while it is being "
            "deleted"
        )
        return make_link("binding", about, LinkState.BROKEN, "it is being deleted", then)
    return make_link("binding", about, LinkState.OK, f"{says}; {_deletion_note(binding.metadata)}")


def _deletion_note(meta: Meta) -> str:
    """Return the note for an operator who revokes access in standard mode, where MIC acts only when an object is
    deleted.
    """
    finalizers = ", ".join(meta.finalizers or ())
    return (
        "it is being deleted, and pods keep its access until the deletion is complete, which requires its finalizers "
        f"{f'({finalizers}) ' if finalizers else ''}to be removed"
    )


def _identity(data: DiagnosisInput, pod: Pod, binding: AzureIdentityBinding, identity: AzureIdentity | None) -> Link:
    namespace, name = binding.metadata.namespace, binding.spec.azure_identity
    about = f"{namespace}/{name}"
    if not name:
        key = "/".join(binding.key)
        then = f"set spec.azureIdentity of binding {key}"
        if ignored_fields(data, BINDINGS, binding.key):
            then = correct(f"AzureIdentityBinding {key}")
        return make_link("identity", "none", LinkState.BROKEN, f"binding {key} names no AzureIdentity", then)
    if identity is None:
        namesakes = sorted(each.metadata.namespace for each in data.identities if each.metadata.name == name)
        found = f"; one of that name exists in {', '.join(namesakes[:SIMILAR_MAX])}" if namesakes else ""
        then = (
            f"create AzureIdentity {name} in namespace {namespace}, or correct spec.azureIdentity of binding "
            f"{'/'.join(binding.key)}; a binding finds only identities of its own namespace"
        )
        return make_link("identity", about, LinkState.BROKEN, f"this AzureIdentity does not exist{found}", then)
    deleting = identity.metadata.deletion_timestamp is not None
    if deleting and is_managed(data):
        return make_link(
            "identity", about, LinkState.BROKEN, "it is being deleted", "wait until it is deleted and create it again"
        )
    ignored = ignored_fields(data, IDENTITIES, identity.key)
    note = f"; {why_ignored(ignored, by_mic=not is_managed(data))}" if ignored else ""
    if not is_managed(data) and (why := misconfigured(identity)):
        then = correct(f"AzureIdentity {about}") if ignored else f"correct AzureIdentity {about} with kubectl edit"
        return make_link("identity", about, LinkState.BROKEN, f"{why}{note}", then)
    if why := namespace_restriction(data, pod, binding):
        return make_link("identity", about, LinkState.BROKEN, why, "move the AzureIdentity and its binding, or the pod")
    spec = identity.spec
    kind = TYPE_NAMES.get(spec.type, "unknown type")
    client = f", client id {redacted(spec.client_id)}" if spec.client_id else ""
    still = f"; {_deletion_note(identity.metadata)}" if deleting else ""
    return make_link("identity", about, LinkState.OK, f"{kind} (type {spec.type}){client}{still}{note}")
