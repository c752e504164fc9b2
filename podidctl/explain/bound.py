"""The links from the pod's label to what is bound to it: bindings, the identity of each, what is assigned. Pure."""

import difflib
from collections.abc import Iterator
from typing import Final

from mic.decisions.assignments import misconfigured
from nmi.identity.managed_mode import join
from podidctl.explain.assigned import left_over, made, served
from podidctl.explain.shapes import Link, State, linked
from podidctl.inquiry.asking import TYPES
from podidctl.inquiry.bound import counting, elsewhere, named, selecting
from podidctl.inquiry.facts import Facts
from podidctl.inquiry.verdict import Outcome, is_managed, verdict
from podidentity.resources import AzureIdentity, AzureIdentityBinding, Meta, Pod
from podidentity.telemetry.logs import redacted

NEAR_MOST: Final = 3


def bound(facts: Facts, pod: Pod) -> Iterator[Link]:
    """Bindings, the identity of each, and what MIC has made of the two."""
    bindings = selecting(facts, pod)
    if pod.binding_label and not bindings:
        yield _no_binding(facts, counting(facts), pod.binding_label)
    # What is another team's is nobody's fault, unless the pod has nothing else.
    others = {each.key: why for each in bindings if (why := elsewhere(facts, pod, each))}
    others_are_well = len(others) < len(bindings) or verdict(facts).outcome is Outcome.GRANTED
    seen: set[tuple[str, str]] = set()
    for binding in bindings:
        key = (binding.metadata.namespace, binding.spec.azure_identity)
        if binding.key in others and others_are_well:
            says = f"it is not for this namespace: {others[binding.key]}"
            yield linked("binding", "/".join(binding.key), State.OK, says)
            continue
        identity = named(facts, binding)
        yield _binding(facts, binding)
        if key in seen:
            continue
        yield _identity(facts, pod, binding, identity)
        if identity is not None and is_managed(facts):
            joined = join(binding, identity)
            yield served(facts, pod, "/".join(binding.key), joined, well="bound, in one namespace")
        elif identity is not None and binding.key not in others and not misconfigured(identity):
            seen.add(key)
            yield made(facts, pod, identity)
    for each in facts.assigned if not is_managed(facts) else ():
        if each.spec.azure_identity_ref.key not in seen:
            yield left_over(facts, pod, each)


def _no_binding(facts: Facts, there: list[AzureIdentityBinding], label: str) -> Link:
    selectors = {each.spec.selector: each for each in there if each.spec.selector}
    folded = {text.strip().lower(): text for text in selectors}
    close = difflib.get_close_matches(label.lower(), folded, n=NEAR_MOST, cutoff=0.7)
    near = [f"{'/'.join(selectors[folded[text]].key)} selects {folded[text]!r}" for text in close]
    where = f"of namespace {facts.namespace} (managed mode) " if is_managed(facts) else ""
    says = f"no AzureIdentityBinding {where}has selector {label!r}"
    if near:
        then = f"set spec.selector of the binding, or the pod's label, so that both are the same: {'; '.join(near)}"
        return linked("binding", "none", State.BROKEN, f"{says}; {'; '.join(near)}", then)
    then = f"create an AzureIdentityBinding with spec.selector {label!r} in the namespace of the AzureIdentity"
    return linked("binding", "none", State.BROKEN, says, then)


def _binding(facts: Facts, binding: AzureIdentityBinding) -> Link:
    about = "/".join(binding.key)
    says = f"its selector is the pod's label; it names {binding.spec.azure_identity}"
    if binding.metadata.deletion_timestamp is None:
        return linked("binding", about, State.OK, says)
    if is_managed(facts):
        then = "wait until it is gone and create it again: in managed mode it gives nothing while it is being deleted"
        return linked("binding", about, State.BROKEN, "it is being deleted", then)
    return linked("binding", about, State.OK, f"{says}; {_still(binding.metadata)}")


def _still(meta: Meta) -> str:
    """What whoever revokes something has to know in standard mode, where MIC goes by what is there."""
    held = ", ".join(meta.finalizers or ())
    return (
        "it is being deleted, and pods have what it gives until it is gone, for which its finalizers "
        f"{f'({held}) ' if held else ''}have to be taken off"
    )


def _identity(facts: Facts, pod: Pod, binding: AzureIdentityBinding, identity: AzureIdentity | None) -> Link:
    namespace, name = binding.metadata.namespace, binding.spec.azure_identity
    about = f"{namespace}/{name}"
    if identity is None:
        namesakes = sorted(each.metadata.namespace for each in facts.identities if each.metadata.name == name)
        found = f"; there is one of that name in {', '.join(namesakes[:NEAR_MOST])}" if namesakes else ""
        then = (
            f"create AzureIdentity {name} in namespace {namespace}, or correct spec.azureIdentity of binding "
            f"{'/'.join(binding.key)}; a binding finds identities of its own namespace only"
        )
        return linked("identity", about, State.BROKEN, f"there is no such AzureIdentity{found}", then)
    deleting = identity.metadata.deletion_timestamp is not None
    if deleting and is_managed(facts):
        return linked(
            "identity", about, State.BROKEN, "it is being deleted", "wait until it is gone and create it again"
        )
    if not is_managed(facts) and (why := misconfigured(identity)):
        return linked("identity", about, State.BROKEN, why, f"correct AzureIdentity {about}: kubectl edit it")
    if why := elsewhere(facts, pod, binding):
        return linked("identity", about, State.BROKEN, why, "move the AzureIdentity and its binding, or the pod")
    spec = identity.spec
    kind = TYPES.get(spec.type, "unknown type")
    client = f", client id {redacted(spec.client_id)}" if spec.client_id else ""
    still = f"; {_still(identity.metadata)}" if deleting else ""
    return linked("identity", about, State.OK, f"{kind} (type {spec.type}){client}{still}")
