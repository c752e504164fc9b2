"""Puts MIC together: every object is made here, given what it needs, and run by one tree of tasks.

Order: probes and metrics, then the lease, then the watches, and once those are complete the rounds. So a second replica
answers its probes and waits, and nothing is written that is not the leader's. Stopping goes the other way: rounds end,
then the lease is released for whoever waits.
"""

import asyncio
import logging
import secrets
import signal
import socket

from prometheus_client import CollectorRegistry

from mic.apply import Applier
from mic.azure.compute import REQUEST_SECONDS, Compute
from mic.claims import misconfigured
from mic.cloud_config import CloudConfig, ConfigError, RotatingCredential, cloud_of, read
from mic.measures import Measures
from mic.plan import Policy
from mic.reconcile import Reconciler
from mic.settings import Settings, not_yet
from mic.view import View
from mic.writing import Writer
from podidentity.azure.clouds import Cloud
from podidentity.exits import StartError
from podidentity.kube import access
from podidentity.kube.client import Client
from podidentity.kube.errors import AccessError, ApiError, Unreachable
from podidentity.kube.events import EventRecorder
from podidentity.kube.informer import Informer
from podidentity.kube.lease import Elector
from podidentity.resources import (
    ASSIGNED_IDENTITIES,
    BINDING_LABEL,
    BINDINGS,
    IDENTITIES,
    NODES,
    PODS,
    AzureIdentity,
)
from podidentity.telemetry.logs import configure
from podidentity.telemetry.metrics import new_registry
from podidentity.telemetry.probes import HttpEndpoints, PortInUse
from podidentity.telemetry.watches import WatchMeasures
from podidentity.version import VERSION

log = logging.getLogger(__name__)

COMPONENT = "aad-pod-identity-mic"
EVERY_ADDRESS = "0.0.0.0"  # noqa: S104  the kubelet and Prometheus come from elsewhere
CONTACT_SECONDS = 10.0
"""How long the API server may take to answer the first request before starting is given up."""
RELEASE_SECONDS = 3.0
"""How long giving up the lease may take at the end; after that it expires by itself."""


class Stopped(Exception):  # noqa: N818  unwinds the task group after an ordered stop; never an error
    """SIGTERM or SIGINT was received."""


async def run(settings: Settings) -> None:
    """Run until SIGTERM or SIGINT. Raises StartError, and LeadershipLost in an exception group."""
    configure(settings.log_format, settings.verbosity)
    told = " ".join(f"{name}={value}" for name, value in settings.describe().items())
    log.info("starting; settings that differ from their defaults are listed", extra={"status": VERSION, "reason": told})
    for flag, meaning in not_yet(settings).items():
        log.warning("a flag has no effect yet; leave it out", extra={"path": f"--{flag}", "reason": meaning})
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    try:
        config, cloud, credential = await asyncio.to_thread(_azure, settings)
        cluster = await access.find(settings.kubeconfig, settings.cluster_environment)
    except (ConfigError, AccessError) as error:
        raise StartError(str(error)) from error
    try:
        async with Client(cluster, user_agent=f"{COMPONENT}/{VERSION}") as client:
            registry = await asyncio.to_thread(new_registry)
            app = App(
                settings=settings, config=config, cloud=cloud, credential=credential, client=client, registry=registry
            )
            await app.run(stop)
    finally:
        await credential.close()


def _azure(settings: Settings) -> tuple[CloudConfig, Cloud, RotatingCredential]:
    config = read(settings.cloud_config, settings.environment)
    cloud = cloud_of(config, settings.azure_environment_file)
    return config, cloud, RotatingCredential(settings.cloud_config, settings.environment, cloud)


class App:
    """All of MIC for one API server and one cloud."""

    def __init__(
        self,
        *,
        settings: Settings,
        config: CloudConfig,
        cloud: Cloud,
        credential: RotatingCredential,
        client: Client,
        registry: CollectorRegistry,
    ) -> None:
        self._client = client
        self._credential = credential
        host = socket.gethostname()
        self._measures = Measures(registry)
        self._elector = Elector(
            client,
            namespace=settings.lease_namespace,
            name=settings.lease_name,
            identity=candidate(settings.lease_holder or host),
            duration_seconds=settings.lease_seconds,
        )
        self._recorder = EventRecorder(client, COMPONENT, host)
        # A request to Azure must be over, one way or the other, while the lease is certainly ours.
        request_seconds = min(REQUEST_SECONDS, settings.lease_seconds * 0.6)
        self._compute = Compute(
            credential,
            cloud,
            user_agent=" ".join(filter(None, (f"{COMPONENT}/{VERSION}", settings.custom_user_agent))),
            api_version=settings.arm_api_version,
            request_seconds=request_seconds,
            observe=self._measures.called_cloud,
        )
        view = View(
            force_namespaced=settings.force_namespaced,
            on_dirty=self._dirty,
            on_identity=self._identity_changed,
        )
        writer = Writer(
            client,
            view,
            self._recorder,
            self._measures,
            batch=settings.write_batch,
            per_second=settings.writes_per_second,
            may_write=lambda: self._elector.remaining_seconds() > 0,
        )
        immutable = {*settings.immutable_client_ids, config.user_assigned_client_id.lower()} - {""}
        self._applier = Applier(
            view,
            writer,
            self._compute,
            self._recorder,
            self._measures,
            policy=Policy(frozenset(immutable), settings.adopt_existing),
            max_retries=settings.update_retries,
            retry_seconds=settings.update_retry_seconds,
            gone_seconds=settings.look_seconds,
            lease_needed_seconds=request_seconds,
            lease_remaining=self._elector.remaining_seconds,
        )
        self._reconciler = Reconciler(
            view,
            self._applier,
            look_seconds=settings.look_seconds,
            resync_seconds=settings.resync_seconds,
        )
        self._pods = Informer(client, PODS, view.pods, label_selector=BINDING_LABEL)
        self._nodes = Informer(client, NODES, view.nodes)
        self._identities = Informer(client, IDENTITIES, view.identities)
        self._bindings = Informer(client, BINDINGS, view.bindings)
        self._assigned = Informer(client, ASSIGNED_IDENTITIES, view.assigned)
        self._probes = HttpEndpoints(EVERY_ADDRESS, settings.probe_port, healthz=self.health, flag="--http-probe-port")
        self._metrics = HttpEndpoints(EVERY_ADDRESS, settings.metrics_port, registry=registry, flag="--prometheus-port")
        WatchMeasures(registry, "aadpodidentity_mic_").watch(
            {
                "pods": self._pods,
                "nodes": self._nodes,
                "identities": self._identities,
                "bindings": self._bindings,
                "assigned_identities": self._assigned,
            }
        )
        self._measures.watch("mic_events_dropped", "Events left out, being too many", lambda: self._recorder.dropped)
        self._measures.watch(
            "mic_queue_depth", "Hosts that wait for a round or have one", lambda: len(self._reconciler)
        )
        self._measures.watch("mic_quarantined_identities", "Identities held back after a refusal", self._applier.barred)

    def health(self) -> str:
        """What /healthz says: the reference's words."""
        return "Active" if self._reconciler.running else "Not Active"

    async def run(self, stop: asyncio.Event) -> None:
        """Lead when it is our turn, until *stop* is set."""
        try:
            await self._probes.start()
            await self._metrics.start()
            try:
                async with asyncio.TaskGroup() as tasks:
                    tasks.create_task(_until(stop), name="stop signal")
                    tasks.create_task(self._serve(), name="serving")
            except* Stopped:
                log.info("stopping; the lease is released")
            async with asyncio.timeout(RELEASE_SECONDS):
                await self._elector.release()
        except PortInUse as error:
            raise StartError(str(error)) from error
        except TimeoutError:
            log.warning("the lease could not be released in time; it expires by itself")
        finally:
            await self._compute.aclose()
            await self._metrics.stop()
            await self._probes.stop()

    async def _serve(self) -> None:
        await self._first_contact()
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._elector.run(), name="leader election")
            tasks.create_task(self._credential.follow(), name="cloud config")
            tasks.create_task(self._lead(), name="leading")

    async def _first_contact(self) -> None:
        """Say at once, rather than in a log of retries, that the API server cannot be used."""
        try:
            await self._client.request("GET", "/version", timeout_seconds=CONTACT_SECONDS)
        except Unreachable as error:
            raise StartError(f"{error.message}: check --kubeconfig, or that the API server runs") from error
        except ApiError as error:
            raise StartError(f"the API server refuses us ({error}): check the credentials in --kubeconfig") from error

    async def _lead(self) -> None:
        await self._elector.acquired()
        self._measures.became_leader()
        informers = (self._pods, self._nodes, self._identities, self._bindings, self._assigned)
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._recorder.run(), name="events")
            tasks.create_task(self._pods.run(), name="watch pods")
            tasks.create_task(self._nodes.run(), name="watch nodes")
            tasks.create_task(self._identities.run(), name="watch identities")
            tasks.create_task(self._bindings.run(), name="watch bindings")
            tasks.create_task(self._assigned.run(), name="watch assigned identities")
            for informer in informers:
                await informer.synced()
            log.info("the cluster is known; assigning identities")
            tasks.create_task(self._reconciler.run(), name="rounds")

    def _dirty(self, place: str) -> None:
        self._reconciler.dirty(place)  # which is made after the view that calls this

    def _identity_changed(self, identity: AzureIdentity) -> None:
        why = misconfigured(identity)
        if why:
            name = "/".join(identity.key)
            log.warning("an AzureIdentity cannot be used; correct it", extra={"identity": name, "reason": why})
            self._recorder.record(identity, IDENTITIES, "Warning", "invalid identity", why)
        self._reconciler.identity_changed(identity)


def candidate(name: str) -> str:
    """What *name* calls itself in the lease: its own in every process, since who finds its own name there leads.

    Two replicas under one name (a shared host network, a flag copied from one to the other) would both write.
    """
    return f"{name}_{secrets.token_hex(4)}"


async def _until(stop: asyncio.Event) -> None:
    await stop.wait()
    raise Stopped
