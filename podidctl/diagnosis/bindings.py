"""Which bindings and identities are meant for a pod, and which only share its label. Pure."""

from podidctl.diagnosis.decision import is_managed
from podidctl.diagnosis.input import DiagnosisInput
from podidentity.resources import AzureIdentity, AzureIdentityBinding, IdentityType, Pod


def eligible_bindings(data: DiagnosisInput) -> list[AzureIdentityBinding]:
    """The bindings that may select the pod at all: in managed mode those of its namespace."""
    return [each for each in data.bindings if not is_managed(data) or each.metadata.namespace == data.namespace]


def selecting_bindings(data: DiagnosisInput, pod: Pod) -> list[AzureIdentityBinding]:
    """Those whose selector is the pod's label, in their order."""
    label = pod.binding_label
    return sorted(
        (each for each in eligible_bindings(data) if label and each.spec.selector == label), key=lambda one: one.key
    )


def named_identity(data: DiagnosisInput, binding: AzureIdentityBinding) -> AzureIdentity | None:
    """The identity that *binding* names, if it is there."""
    key = (binding.metadata.namespace, binding.spec.azure_identity)
    return next((each for each in data.identities if each.key == key), None)


def namespace_restriction(data: DiagnosisInput, pod: Pod, binding: AzureIdentityBinding) -> str:
    """Why what *binding* gives is for pods of its own namespace and not for *pod*, or an empty string."""
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
