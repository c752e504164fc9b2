"""Identities of a workload's pods, by MIC's own rules. Pure."""

from collections.abc import Sequence

from mic.cluster.bindings import indexed
from mic.decisions.assignments import DesiredAssignment
from nmi.identity.candidate_order import candidate_order
from podidctl.migration.workloads import Workload
from podidentity.resources import BINDING_LABEL, AzureIdentity, AzureIdentityBinding, Pod, PodMeta, PodSpec


class BindingIndex:
    """Desired assignments of workloads, computed once per namespace and label."""

    def __init__(
        self,
        identities: Sequence[AzureIdentity],
        bindings: Sequence[AzureIdentityBinding],
        *,
        force_namespaced: bool,
    ) -> None:
        self._index = indexed(identities, bindings, force_namespaced=force_namespaced)
        self._cache: dict[tuple[str, str], list[DesiredAssignment]] = {}

    def desired(self, workload: Workload) -> list[DesiredAssignment]:
        """Return the desired assignments of *workload*; the first one serves requests that name no identity."""
        return self.desired_for(workload.namespace, workload.labels.get(BINDING_LABEL, ""))

    def desired_for(self, namespace: str, label: str) -> list[DesiredAssignment]:
        """Return the desired assignments of any pod of *namespace* with this *label*."""
        known = self._cache.get((namespace, label))
        if known is not None:
            return known
        pod = Pod(
            metadata=PodMeta(namespace=namespace, name="any", labels={BINDING_LABEL: label}),
            spec=PodSpec(node_name="any"),
        )
        desired = self._index.all_desired(pod)
        ordered = sorted(
            desired.values(),
            key=lambda each: candidate_order(namespace, each.binding.metadata.name, each.identity.key),
        )
        return self._cache.setdefault((namespace, label), ordered)
