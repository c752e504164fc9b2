"""What MIC asks of Azure in one interval while nothing changes: a reconcile pass for each host, by the real
`mic.reconciliation.host_reconciler`, with a fake Azure that has on each host what the cluster says it should have.
"""

import time
from dataclasses import dataclass

from prometheus_client import CollectorRegistry

from mic.azure.identities import Attached, Change, HostIdentities
from mic.cluster.view import ClusterView
from mic.decisions.policy import Policy
from mic.metrics import MicMetrics
from mic.reconciliation.host_reconciler import HostReconciler
from mic.reconciliation.host_updater import HostUpdater
from mic.reconciliation.writer import Writer
from podidentity.azure.resource_ids import Host
from podidentity.kube.client import Client
from podidentity.kube.events import EventRecorder


@dataclass(slots=True)
class _Settled:
    """Azure, where everything is in place. Each call counts."""

    view: ClusterView
    calls: int = 0

    async def get(self, host: Host) -> HostIdentities:
        self.calls += 1
        wanted = {key: Attached(usage.identity_id.text) for key, usage in self.view.host_state(host.key).usages.items()}
        return HostIdentities(type="UserAssigned", attached=wanted)

    async def update(self, host: Host, change: Change) -> HostIdentities:
        raise AssertionError(f"{host.text} is as it should be, and yet it is changed: {change}")


async def calls_of_an_interval(view: ClusterView, client: Client) -> int:
    """Compare every host in *view* with Azure once, as `mic.reconciliation.controller` does in each interval.
    Return the calls to Azure.

    Raises AssertionError if a round changes Azure or fails, as it does where it has to write and *client* cannot.
    """
    azure, metrics = _Settled(view), MicMetrics(CollectorRegistry())
    recorder = EventRecorder(client, "feeding", "host")
    writer = Writer(client, view, recorder, metrics, batch=4, per_second=20.0, burst=20.0)
    updater = HostUpdater(
        view,
        azure,
        policy=Policy(),
        max_retries=0,
        retry_seconds=1.0,
        gone_seconds=180.0,
        lease_needed_seconds=0.0,
        lease_remaining=lambda: 60.0,
        clock=time.monotonic,
    )
    host_reconciler = HostReconciler(view, writer, updater, recorder, metrics, clock=time.monotonic)
    for key in [place.key for place in view.host_states() if place.host is not None and place.usages]:
        host_reconciler.look_again(key)
        done = await host_reconciler.reconcile(key)
        assert not done.failed, f"{key} is as it should be, and yet its round has failed"
    return azure.calls
