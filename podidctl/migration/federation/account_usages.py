"""Service accounts whose pods have an AzureIdentity. Pure."""

from collections import defaultdict

from podidctl.migration.federation.schema import AccountUsage
from podidctl.migration.workload_identity import WorkloadState
from podidctl.migration.workloads import DEFAULT_ACCOUNT, Key
from podidentity.resources import BINDING_LABEL, BareMeta


def account_usages(situation: WorkloadState) -> dict[Key, list[AccountUsage]]:
    """Return, by AzureIdentity, the service accounts whose pods have it, with their workloads and one pod."""
    bound = situation.bound()
    workloads: defaultdict[Key, defaultdict[Key, set[str]]] = defaultdict(lambda: defaultdict(set))
    pods: dict[tuple[Key, Key], BareMeta] = {}
    for workload in situation.inventory.workloads():
        for desired in bound.desired(workload):
            workloads[desired.identity.key][workload.account_key].add(workload.description)
    for pod in situation.inventory.pods:
        if pod.status.phase in {"Succeeded", "Failed"}:
            continue
        account = (pod.metadata.namespace, pod.spec.service_account_name or DEFAULT_ACCOUNT)
        for desired in bound.desired_for(pod.metadata.namespace, pod.metadata.label(BINDING_LABEL)):
            descriptions = workloads[desired.identity.key][account]
            if not descriptions:
                descriptions.add(f"Pod {'/'.join(pod.key)}")
            if pod.metadata.deletion_timestamp is None:
                pods.setdefault((desired.identity.key, account), pod.metadata)
    no_pod = BareMeta()
    return {
        identity: [
            AccountUsage(
                namespace=account[0],
                name=account[1],
                workloads=sorted(descriptions),
                pod=pods.get((identity, account), no_pod).name,
                pod_uid=pods.get((identity, account), no_pod).uid,
            )
            for account, descriptions in sorted(users.items())
        ]
        for identity, users in workloads.items()
    }
