"""Which identities the pods of a workload have, by MIC's own rules. Pure."""

from collections.abc import Sequence

from mic.cluster.bindings import indexed
from mic.decisions.assignments import Want
from podidctl.migration.workloads import Workload
from podidentity.resources import BINDING_LABEL, AzureIdentity, AzureIdentityBinding, Pod, PodMeta, PodSpec


class Bound:
    """Remembers what it has told: asked for each workload, it looks once for each label of a namespace."""

    def __init__(
        self,
        identities: Sequence[AzureIdentity],
        bindings: Sequence[AzureIdentityBinding],
        *,
        force_namespaced: bool,
    ) -> None:
        self._index = indexed(identities, bindings, force_namespaced=force_namespaced)
        self._told: dict[tuple[str, str], list[Want]] = {}

    def wants(self, workload: Workload) -> list[Want]:
        """What *workload* is bound to, first what a request gets that names nothing."""
        return self.given(workload.namespace, workload.labels.get(BINDING_LABEL, ""))

    def given(self, namespace: str, label: str) -> list[Want]:
        """The same for any pod of *namespace* with this *label*."""
        known = self._told.get((namespace, label))
        if known is not None:
            return known
        pod = Pod(
            metadata=PodMeta(namespace=namespace, name="any", labels={BINDING_LABEL: label}),
            spec=PodSpec(node_name="any"),
        )
        wants = self._index.wants(pod)
        # As nmi.identity.assigned_identity orders them.
        ordered = sorted(wants.values(), key=lambda each: (each.binding.metadata.name, each.identity.key[::-1]))
        return self._told.setdefault((namespace, label), ordered)
