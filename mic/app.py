"""Assembly of MIC: this module creates every object, passes its dependencies to it, and runs one tree of tasks.

MIC starts in this order: probes and metrics, the first response of the API server (without a time limit), the lease,
the type upgrade, the watches and, once these are complete, reconciliation. A second replica therefore answers its
probes while it waits, and only the leader writes. MIC stops in the reverse order: reconciliation ends, then MIC
releases the locks for the next leader.
"""

import asyncio
import gc
import logging
import secrets
import signal
import socket
from functools import partial

from prometheus_client import CollectorRegistry

from mic.azure.compute import REQUEST_SECONDS, Compute
from mic.cluster.ignored_objects import IgnoredObjects
from mic.cluster.kept_parts import ObjectReducer
from mic.cluster.mirror_pods import MirrorPods
from mic.cluster.view import ClusterView
from mic.decisions.assignments import misconfigured
from mic.endpoints import Endpoints
from mic.leader_client import LeaderClient
from mic.metrics import MicMetrics
from mic.reconciliation.controller import Controller
from mic.reconciliation.host_reconciler import HostReconciler
from mic.reconciliation.host_updater import HostUpdater
from mic.reconciliation.writer import Writer
from mic.startup.cloud_config import (
    CloudConfig,
    ConfigError,
    RotatingCredential,
    ca_bundle,
    cloud_of,
    credential_for,
    read,
)
from mic.startup.first_read import few_full_collections
from mic.startup.policy import policy_of
from mic.startup.settings import MicSettings
from mic.startup.startup_taint import StartupTaint
from mic.startup.type_upgrade import TypeUpgrade, UpgradeRecord
from podidentity.azure.ca_bundle import CaBundle
from podidentity.azure.clouds import Cloud
from podidentity.daemon_settings import user_agent
from podidentity.exits import StartError
from podidentity.kube import access
from podidentity.kube.client import Client
from podidentity.kube.errors import AccessError
from podidentity.kube.events import EventRecorder
from podidentity.kube.first_contact import FirstContact
from podidentity.kube.informer import Informer
from podidentity.kube.lease import Elector
from podidentity.paced import paced
from podidentity.resources import (
    ASSIGNED_IDENTITIES,
    BINDING_LABEL,
    BINDINGS,
    EXCEPTIONS,
    IDENTITIES,
    NODES,
    PODS,
    SCHEDULED_PODS,
    AzureIdentity,
)
from podidentity.telemetry.log_limit import LogLimit
from podidentity.telemetry.logs import LIBRARIES_VERBOSE, configure
from podidentity.telemetry.loop_lag import LoopLag
from podidentity.telemetry.metrics import new_registry
from podidentity.telemetry.probes import PortInUse
from podidentity.telemetry.skipped import SkippedMetrics
from podidentity.version import VERSION

log = logging.getLogger(__name__)

PREFIX = "aadpodidentity_mic_"
READ_KINDS = (PODS, NODES, IDENTITIES, BINDINGS, ASSIGNED_IDENTITIES, EXCEPTIONS)
SCHEDULED = "spec.nodeName!="
COMPONENT = "aad-pod-identity-mic"
RELEASE_SECONDS = 3.0
"""Limit for the release of the lease at the end; after that the lease expires."""


class StopRequested(Exception):  # noqa: N818  unwinds the task group after an ordered stop; never an error
    """SIGTERM or SIGINT was received."""


async def run(settings: MicSettings) -> None:
    """Run until SIGTERM or SIGINT. Raises StartError, and LeadershipLost in an exception group."""
    configure(settings.log_format, settings.verbosity)
    if settings.verbosity < LIBRARIES_VERBOSE:
        # MIC logs a failed sign-in once per host. The library's lines differ on each attempt, without a limit.
        logging.getLogger("azure").setLevel(logging.ERROR)
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    log.info("mic starting", extra={"version": VERSION, "settings": settings.text()})
    # Imported objects stay alive. Without the freeze each later collection would scan them again, for 50 ms.
    gc.freeze()
    gc.enable()
    try:
        config, cloud, credential, bundle = await asyncio.to_thread(_azure, settings)
        cluster = await access.find(settings.kubeconfig, settings.cluster_environment)
    except (ConfigError, AccessError) as error:
        raise StartError(str(error)) from error
    try:
        async with Client(cluster, user_agent=f"{COMPONENT}/{VERSION}") as client:
            registry = await asyncio.to_thread(new_registry)
            app = MicApp(
                settings=settings,
                config=config,
                cloud=cloud,
                credential=credential,
                client=client,
                registry=registry,
                bundle=bundle,
            )
            await app.run(stop)
    finally:
        await credential.close()


def _azure(settings: MicSettings) -> tuple[CloudConfig, Cloud, RotatingCredential, CaBundle | None]:
    config = read(settings.cloud_config, settings.environment)
    cloud = cloud_of(config, settings.azure_environment_file)
    bundle = ca_bundle(settings.ca_bundle)
    make = partial(credential_for, trust=None if bundle is None else bundle.context)
    return config, cloud, RotatingCredential(settings.cloud_config, settings.environment, cloud, make), bundle


class MicApp:
    """All of MIC for one API server and one cloud."""

    def __init__(
        self,
        *,
        settings: MicSettings,
        config: CloudConfig,
        cloud: Cloud,
        credential: RotatingCredential,
        client: Client,
        registry: CollectorRegistry,
        bundle: CaBundle | None = None,
    ) -> None:
        """*client* is used by the elector only, so that no renewal waits behind other requests. *bundle* replaces the
        CA certificates that the machine trusts for Azure."""
        self._settings = settings
        self._credential = credential
        self._bundle = bundle
        host = socket.gethostname()
        limit = LogLimit()
        self._contact = FirstContact(client.access, user_agent=f"{COMPONENT}/{VERSION}", log_limit=limit)
        self._metrics = MicMetrics(registry)
        self._elector = Elector(
            client,
            namespace=settings.lease_namespace,
            name=settings.lease_name,
            identity=candidate(settings.lease_holder or host),
            duration_seconds=settings.lease_seconds,
            with_go_implementation=True,
            log_limit=limit,
        )
        self._client = LeaderClient(
            client.access, user_agent=f"{COMPONENT}/{VERSION}", remaining_seconds=self._elector.remaining_seconds
        )
        self._recorder = EventRecorder(self._client, COMPONENT, host)
        self._client.skipped.record_with(self._recorder.record)
        self._client.ignored_fields.record_with(self._recorder.record)
        SkippedMetrics(registry, PREFIX, READ_KINDS).watch(self._client.skipped.counts)
        self._lag = LoopLag(registry, PREFIX)
        self._ignored = IgnoredObjects(self._recorder, self._metrics.ignored)
        # A request to Azure must end while this process certainly holds the lease.
        request_seconds = min(REQUEST_SECONDS, settings.lease_seconds * 0.6)
        self._compute = Compute(
            credential,
            cloud,
            user_agent=user_agent(COMPONENT, settings.custom_user_agent),
            api_version=settings.arm_api_version,
            request_seconds=request_seconds,
            ssl_context=None if bundle is None else bundle.context,
            may_write=lambda: self._elector.remaining_seconds() > request_seconds,
            observe=self._metrics.called_cloud,
        )
        self._view = view = ClusterView(
            loading=True,
            force_namespaced=settings.force_namespaced,
            on_dirty=self._dirty,
            on_identity=self._identity_changed,
            on_ignored=self._ignored.binding,
        )
        writer = Writer(
            self._client,
            view,
            self._recorder,
            self._metrics,
            batch=settings.write_batch,
            per_second=settings.writes_per_second,
            burst=settings.writes_at_once,
        )
        updater = HostUpdater(
            view,
            self._compute,
            policy=policy_of(settings, config.user_assigned_identity),
            max_retries=settings.update_retries,
            retry_seconds=settings.update_retry_seconds,
            grace_seconds=settings.detach_grace_seconds,
            gone_seconds=settings.look_seconds,
            lease_needed_seconds=request_seconds,
            lease_remaining=self._elector.remaining_seconds,
        )
        self._host_reconciler = HostReconciler(view, writer, updater, self._recorder, self._metrics)
        self._controller = Controller(
            view,
            self._host_reconciler,
            look_seconds=settings.look_seconds,
            resync_seconds=settings.resync_seconds,
            on_fault=lambda: self._metrics.faulted("pass"),
        )
        record = UpgradeRecord(self._client, settings.namespace, settings.upgrade_config_map, settings.upgrade_key)
        self._upgrade = TypeUpgrade(self._client, self._recorder, record, in_flight=settings.write_batch)
        # A pod without a node needs nothing. The watch reports it once it is scheduled.
        reducer = ObjectReducer()
        self._pods = Informer(
            self._client,
            SCHEDULED_PODS,
            MirrorPods(view.pods, self._recorder),
            field_selector=SCHEDULED,
            label_selector=BINDING_LABEL,
            keep=reducer.pod,
            hold=True,
            log_limit=limit,
        )
        self._nodes = Informer(self._client, NODES, view.nodes, keep=reducer.node, log_limit=limit)
        self._identities = Informer(self._client, IDENTITIES, view.identities, log_limit=limit)
        self._bindings = Informer(self._client, BINDINGS, view.bindings, log_limit=limit)
        self._assigned = Informer(
            self._client, ASSIGNED_IDENTITIES, view.assigned, keep=reducer.assigned, log_limit=limit
        )
        self._taint = (
            StartupTaint(
                self._client,
                settings.startup_taint,
                namespace=settings.namespace,
                selector=settings.nmi_selector,
                on_fault=lambda: self._metrics.faulted("pass"),
            )
            if settings.startup_taint
            else None
        )
        self._endpoints = Endpoints(
            settings,
            registry,
            self._metrics,
            lease_client=client,
            lease=self._elector,
            contact=self._contact,
            watches={
                "pods": self._pods,
                "nodes": self._nodes,
                "identities": self._identities,
                "bindings": self._bindings,
                "assigned_identities": self._assigned,
                **({"startup_taint_nodes": self._taint.nodes, "nmi_pods": self._taint.pods} if self._taint else {}),
            },
            view=view,
            host_reconciler=self._host_reconciler,
            controller=self._controller,
            compute=self._compute,
            recorder=self._recorder,
        )

    async def run(self, stop: asyncio.Event) -> None:
        """Lead whenever this process holds the lease, until *stop* is set."""
        try:
            await self._endpoints.start()
            try:
                async with asyncio.TaskGroup() as tasks:
                    tasks.create_task(_until(stop), name="stop signal")
                    tasks.create_task(self._lag.run(), name="event loop lag")
                    tasks.create_task(self._serve(), name="serving")
            except* StopRequested:
                log.info("stopping; leader locks are released")
        except PortInUse as error:
            raise StartError(str(error)) from error
        finally:
            await self._release()
            await self._client.aclose()
            await self._compute.aclose()
            await self._endpoints.stop()

    async def _release(self) -> None:
        """Release the leader locks, after any end of the tasks. No task of MIC runs at this point, and a lock may still
        be held."""
        try:
            async with asyncio.timeout(RELEASE_SECONDS):
                await self._elector.release()
        except TimeoutError:
            log.warning("lease not released in time; it will expire")

    async def _serve(self) -> None:
        await self._contact.made()
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._elector.run(), name="leader election")
            tasks.create_task(self._credential.follow(self._protect), name="cloud config")
            if self._bundle is not None:
                tasks.create_task(self._bundle.follow(), name="CA bundle")
            tasks.create_task(self._lead(), name="leading")

    async def _lead(self) -> None:
        await self._elector.acquired()
        self._metrics.became_leader()
        informers = (self._pods, self._nodes, self._identities, self._bindings, self._assigned)
        async with asyncio.TaskGroup() as tasks:
            # The type upgrade records Events, and determines the field names that the watches read.
            tasks.create_task(self._recorder.run(), name="events")
            await self._upgrade_objects()
            if self._taint is not None:
                tasks.create_task(self._taint.nodes.run(), name="watch nodes' taints")
                tasks.create_task(self._taint.pods.run(), name="watch NMI's pods")
                tasks.create_task(self._taint.run(), name="start-up taint")
            with few_full_collections():
                tasks.create_task(self._pods.run(), name="watch pods")
                tasks.create_task(self._nodes.run(), name="watch nodes")
                tasks.create_task(self._identities.run(), name="watch identities")
                tasks.create_task(self._bindings.run(), name="watch bindings")
                tasks.create_task(self._assigned.run(), name="watch assigned identities")
                await self._contact.first_lists(self._client, informers)
                # After all others, so that the view compares each assignment once.
                await self._pods.release()
                await paced(self._view.loaded())
            unfinished = sum(host_state.has_work for host_state in self._view.host_states())
            # Most of these objects stay alive. Each full collection would scan them again and block the loop.
            gc.collect()
            gc.freeze()
            log.info("the cluster is known; assigning identities", extra={"count": unfinished})
            # Last: before the lists are complete, objects would seem to have no pod and be revoked.
            tasks.create_task(self._controller.run(), name="controller")

    async def _upgrade_objects(self) -> None:
        """Run the type upgrade, and read old field names only if it is not done."""
        upgrade, settings = self._upgrade, self._settings
        is_done = await upgrade.run() if settings.type_upgrade else await upgrade.is_recorded()
        self._client.old_field_names = settings.read_old_field_names or not is_done
        if is_done is False and not (settings.type_upgrade or settings.read_old_field_names):
            log.warning(
                "the type upgrade is neither recorded nor enabled, so MIC reads old field names, which admission "
                "policies do not see; enable it (--enable-type-upgrade), or apply deploy/admission"
            )

    def _protect(self, config: CloudConfig) -> None:
        if config.user_assigned_identity:
            self._host_reconciler.protect(config.user_assigned_identity)

    def _dirty(self, host_key: str) -> None:
        self._controller.dirty(host_key)

    def _identity_changed(self, identity: AzureIdentity) -> None:
        reason = misconfigured(identity)
        if reason:
            self._ignored.identity(identity, reason)
        self._controller.identity_changed(identity)


def candidate(name: str) -> str:
    """Return the identity of this process in the lease: *name* with a random suffix.

    A process leads if the lease has its identity, so two replicas with one name (a shared host network, a copied flag)
    would both write.
    """
    return f"{name}_{secrets.token_hex(4)}"


async def _until(stop: asyncio.Event) -> None:
    await stop.wait()
    raise StopRequested
