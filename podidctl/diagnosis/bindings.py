"""Selection of a pod's bindings and identities, and of the ones that are restricted to another namespace. Pure."""

from podidctl.diagnosis.decision import is_managed, is_watched
from podidctl.diagnosis.input import DiagnosisInput
from podidentity.resources import AzureIdentity, AzureIdentityBinding, IdentityType, Pod


def eligible_bindings(data: DiagnosisInput) -> list[AzureIdentityBinding]:
    """Return the bindings that may select the pod: in managed mode the ones in its namespace, else all."""
    return [each for each in data.bindings if not is_managed(data) or each.metadata.namespace == data.namespace]


def selecting_bindings(data: DiagnosisInput, pod: Pod) -> list[AzureIdentityBinding]:
    """Return the bindings that select the pod's label, sorted by key."""
    label = pod.binding_label
    return sorted(
        (each for each in eligible_bindings(data) if label and each.spec.selector == label), key=lambda one: one.key
    )


def named_identity(data: DiagnosisInput, binding: AzureIdentityBinding) -> AzureIdentity | None:
    """Return the identity that *binding* names, or None if it does not exist."""
    key = (binding.metadata.namespace, binding.spec.azure_identity)
    return next((each for each in data.identities if each.key == key), None)


def bound_identities(data: DiagnosisInput, pod: Pod) -> list[AzureIdentity]:
    """Return the identities that may serve the pod, each once: those of its bindings and those assigned to it."""
    bindings = [each for each in selecting_bindings(data, pod) if not namespace_restriction(data, pod, each)]
    found = [identity for each in bindings if (identity := named_identity(data, each)) is not None]
    if not is_managed(data):
        found += [each.spec.azure_identity_ref for each in data.assigned if is_watched(data, pod, each)]
    return list({each.key: each for each in found}.values())


def namespace_restriction(data: DiagnosisInput, pod: Pod, binding: AzureIdentityBinding) -> str:
    """Return why *binding* serves only pods of its own namespace and not *pod*, or an empty string."""
    if binding.metadata.namespace == pod.metadata.namespace:
        return ""
    if data.configuration.settings.force_namespaced:
        return "NMI runs with --forceNamespaced, so it serves pods of its own namespace only"
    identity = named_identity(data, binding)
    if identity is not None and identity.spec.type == IdentityType.FEDERATED:
        return "it is federated (type 3), and such an identity serves pods of its own namespace only"
    if identity is not None and identity.namespaced:
        return "its annotation Behavior: namespaced lets it serve pods of its own namespace only"
    return ""
