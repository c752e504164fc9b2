"""What MIC asks of Azure in one interval while nothing changes: a reconcile pass for each host, by the real
`mic.reconciliation.host_reconciler`, with a fake Azure that has on each host what the cluster says it should have.
"""

import time
from dataclasses import dataclass

from prometheus_client import CollectorRegistry

from mic.azure.identities import Attached, Change, HostIdentities
from mic.cluster.view import View
from mic.decisions.plan import Policy
from mic.metrics import Measures
from mic.reconciliation.host_reconciler import Applier
from mic.reconciliation.writer import Writer
from podidentity.azure.resource_ids import Host
from podidentity.kube.client import Client
from podidentity.kube.events import EventRecorder


@dataclass(slots=True)
class _Settled:
    """Azure, where everything is in place. Each call counts."""

    view: View
    calls: int = 0

    async def get(self, host: Host) -> HostIdentities:
        self.calls += 1
        wanted = {key: Attached(stake.identity_id.text) for key, stake in self.view.place(host.key).stakes.items()}
        return HostIdentities(type="UserAssigned", attached=wanted)

    async def update(self, host: Host, change: Change) -> HostIdentities:
        raise AssertionError(f"{host.text} is as it should be, and yet it is changed: {change}")


async def calls_of_an_interval(view: View, client: Client) -> int:
    """Compare every host in *view* with Azure once, as `mic.reconciliation.controller` does in each interval.
    Return the calls to Azure.

    Raises AssertionError if a round changes Azure or fails, as it does where it has to write and *client* cannot.
    """
    azure, measures = _Settled(view), Measures(CollectorRegistry())
    recorder = EventRecorder(client, "feeding", "host")
    applier = Applier(
        view,
        Writer(client, view, recorder, measures, batch=4, per_second=20.0, burst=20.0),
        azure,
        recorder,
        measures,
        policy=Policy(),
        max_retries=0,
        retry_seconds=1.0,
        gone_seconds=180.0,
        lease_needed_seconds=0.0,
        lease_remaining=lambda: 60.0,
        clock=time.monotonic,
    )
    for key in [place.key for place in view.places() if place.host is not None and place.stakes]:
        applier.look_again(key)
        done = await applier.round(key)
        assert not done.failed, f"{key} is as it should be, and yet its round has failed"
    return azure.calls
