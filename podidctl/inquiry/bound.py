"""Which bindings and identities are meant for a pod, and which only share its label. Pure."""

from podidctl.inquiry.facts import Facts
from podidctl.inquiry.verdict import is_managed
from podidentity.resources import AzureIdentity, AzureIdentityBinding, IdentityType, Pod


def counting(facts: Facts) -> list[AzureIdentityBinding]:
    """The bindings that may select the pod at all: in managed mode those of its namespace."""
    return [each for each in facts.bindings if not is_managed(facts) or each.metadata.namespace == facts.namespace]


def selecting(facts: Facts, pod: Pod) -> list[AzureIdentityBinding]:
    """Those whose selector is the pod's label, in their order."""
    label = pod.binding_label
    return sorted((each for each in counting(facts) if label and each.spec.selector == label), key=lambda one: one.key)


def named(facts: Facts, binding: AzureIdentityBinding) -> AzureIdentity | None:
    """The identity that *binding* names, if it is there."""
    key = (binding.metadata.namespace, binding.spec.azure_identity)
    return next((each for each in facts.identities if each.key == key), None)


def elsewhere(facts: Facts, pod: Pod, binding: AzureIdentityBinding) -> str:
    """Why what *binding* gives is for pods of its own namespace and not for *pod*, or an empty string."""
    if binding.metadata.namespace == pod.metadata.namespace:
        return ""
    if facts.rules.settings.force_namespaced:
        return "NMI runs with --forceNamespaced, so it serves pods of its own namespace only"
    identity = named(facts, binding)
    if identity is not None and identity.spec.type == IdentityType.FEDERATED:
        return "it is federated (type 3), and such an identity serves pods of its own namespace only"
    if identity is not None and identity.namespaced:
        return "its annotation Behavior: namespaced lets it serve pods of its own namespace only"
    return ""
