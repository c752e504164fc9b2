"""HTTP endpoints of MIC: /healthz, /readyz and /debug on the probe port, /metrics on a second port.

Ready means that this replica can do its work: it reaches the API server and, if it leads, its watches are alive and it
can sign in to Azure. A replica that waits for the lease is ready too, because it can take over.
"""

import math
from collections.abc import Mapping
from typing import Final, Protocol

from prometheus_client import CollectorRegistry

from mic.azure.compute import Compute
from mic.cluster.view import ClusterView
from mic.metrics import MicMetrics
from mic.reconciliation.controller import Controller
from mic.reconciliation.host_reconciler import HostReconciler
from mic.startup.settings import MicSettings
from podidentity.kube.client import Client
from podidentity.kube.events import EventRecorder
from podidentity.kube.informer import SILENCE_SECONDS
from podidentity.telemetry.probes import HttpEndpoints
from podidentity.telemetry.profile import Profiler
from podidentity.telemetry.watches import Watch, WatchMetrics
from podidentity.version import VERSION

EVERY_ADDRESS: Final = "0.0.0.0"  # noqa: S104  the kubelet and Prometheus come from elsewhere
SILENT_SECONDS: Final = 30.0
"""Time without a response of the API server after which MIC is not ready; the lease alone sends a request every few
seconds."""
WATCH_GRACE_SECONDS: Final = 10.0
"""The time for the replacement of a silent watch, before /readyz reports it."""


class Leadership(Protocol):
    """The state of the leadership."""

    def remaining_seconds(self) -> float:
        """Return the seconds during which no other process can hold the lease; 0 without it."""


class Contact(Protocol):
    """The state of the wait for the API server at the start."""

    @property
    def problem(self) -> str | None: ...


class Endpoints:
    """The two listeners and their content."""

    def __init__(
        self,
        settings: MicSettings,
        registry: CollectorRegistry,
        metrics: MicMetrics,
        *,
        lease_client: Client,
        lease: Leadership,
        contact: Contact,
        watches: Mapping[str, Watch],
        view: ClusterView,
        host_reconciler: HostReconciler,
        controller: Controller,
        compute: Compute,
        recorder: EventRecorder,
    ) -> None:
        """*lease_client*: the elector's client, the only one that a replica without the lease uses."""
        self._client = lease_client
        self._lease = lease
        self._contact = contact
        self._watches = watches
        self._view = view
        self._host_reconciler = host_reconciler
        self._controller = controller
        self._compute = compute
        # Half a lease's duration may pass between two renewals that succeed.
        self._silent_seconds = max(SILENT_SECONDS, settings.lease_seconds)
        self._probes = HttpEndpoints(
            EVERY_ADDRESS,
            settings.probe_port,
            healthz=self.health,
            readyz=self.checks,
            state=self.state,
            profile=Profiler().sample if settings.profile else None,
            flag="--http-probe-port",
        )
        self._metrics_server = HttpEndpoints(
            EVERY_ADDRESS, settings.metrics_port, registry=registry, flag="--prometheus-port"
        )
        WatchMetrics(registry, "aadpodidentity_mic_").watch(watches)
        metrics.watch("mic_events_dropped", "Events left out, being too many", lambda: recorder.dropped)
        metrics.watch("mic_queue_depth", "Hosts that wait for a round or have one", lambda: len(controller))
        metrics.watch(
            "mic_bindings_beyond_limit",
            "Identities that bindings give to a selector and that its pods do not get, being beyond the limit",
            lambda: view.beyond_limit,
        )
        metrics.watch("mic_quarantined_identities", "Identities held back after a refusal", host_reconciler.quarantined)
        metrics.watch(
            "mic_oldest_pending_assignment_age_seconds",
            "Age of the oldest assignment that is wanted, not there, and not held back after a refusal",
            host_reconciler.oldest_pending_seconds,
        )
        metrics.watch(
            "mic_lease_held", "Whether this process is the leader", lambda: float(lease.remaining_seconds() > 0)
        )

    async def start(self) -> None:
        """Listen. Raises PortInUse."""
        await self._probes.start()
        await self._metrics_server.start()

    async def stop(self) -> None:
        await self._metrics_server.stop()
        await self._probes.stop()

    def health(self) -> str:
        """Return the body of /healthz, worded as in the Go implementation."""
        return "Active" if self._controller.running else "Not Active"

    def checks(self) -> dict[str, str | None]:
        """Return the checks of /readyz: name -> why it fails."""
        return {
            "api server": self._api_server_problem(),
            "watches": self._watch_problem(),
            "azure": self._compute.sign_in_problem,
        }

    def state(self) -> dict[str, object]:
        """Return the state of all parts for /debug/state, without secrets and of limited size."""
        return {
            "version": VERSION,
            "health": self.health(),
            "lease": {"seconds": round(self._lease.remaining_seconds(), 1)},
            "cluster": self._view.state(),
            "oldest pending": round(self._host_reconciler.oldest_pending_seconds(), 1),
            "queue": self._controller.state(),
            "hosts": self._host_reconciler.state(),
        }

    def _api_server_problem(self) -> str | None:
        if self._contact.problem is not None:
            return self._contact.problem
        silent = self._client.silent_seconds()
        if silent <= self._silent_seconds:
            return None
        return f"no answer for {silent:.0f} s from {self._client.access.server}; see whether it runs and is reachable"

    def _watch_problem(self) -> str | None:
        """Return which watches are silent. Only the leader watches."""
        if self._lease.remaining_seconds() <= 0:
            return None
        age = {name: watch.staleness_seconds() for name, watch in self._watches.items()}
        if all(seconds == math.inf for seconds in age.values()):
            return "nothing is watched yet: the type upgrade comes before that; see the log if it lasts"
        limit = SILENCE_SECONDS + WATCH_GRACE_SECONDS
        silent = [name for name, seconds in age.items() if seconds > limit]
        return f"silent: {', '.join(silent)}; see the log for why they cannot be watched" if silent else None
