"""NMI's assembly and start: this module builds every object, with `assembly` those of the token server.

The start goes from probes to watches until their first lists are complete, to the listener, to the rule that redirects
pods, and only then to "Active". NMI waits for an unavailable API server without a time limit
(`podidentity.kube.first_contact`). `shutdown` describes the stop. With --fail-closed the rule that blocks pods from the
real IMDS is installed right after the probes, as soon as the node's labels permit rules, and both rules remain at the
end.
"""

import asyncio
import gc
import logging
import signal
from collections.abc import Iterator, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Final

from _native.index import Index
from nmi.assembly import TokenServerAssembly
from nmi.choices import RedirectTarget
from nmi.handover.messages import SocketName
from nmi.handover.metrics import HandoverMetrics
from nmi.handover.predecessor import Predecessor
from nmi.handover.start_signal import StartSignal
from nmi.handover.takeover import Takeover
from nmi.identity.metrics import PREFIX, IdentityMetrics
from nmi.node.metrics import NodeMetrics
from nmi.node.neighbour_discovery import NeighbourDiscovery
from nmi.node.network_monitor import NetworkMonitor
from nmi.node.node_address import NodeAddress, NodeAddressMonitor
from nmi.node.node_address import find as find_node_address
from nmi.node.rules import RedirectError
from nmi.node.traffic_redirect import TrafficRedirect
from nmi.node_labels import NodeLabels
from nmi.pod_events import PodEvents
from nmi.server.decisions import Decisions
from nmi.service import NodeService, Serving, is_in_use
from nmi.settings import FORMER_FLAGS, NmiSettings
from nmi.shutdown import Shutdown, Stopped
from nmi.status import Status
from nmi.tokens.broker import TokenBroker
from podidentity.exits import StartError, first_error
from podidentity.kube.access import ClusterAccess, find
from podidentity.kube.client import Client
from podidentity.kube.errors import AccessError
from podidentity.kube.events import EventRecorder
from podidentity.kube.first_contact import FirstContact
from podidentity.kube.sessions import small_session
from podidentity.machine_sleep import MachineSleep, end_after_sleep
from podidentity.resources import ASSIGNED_IDENTITIES, BINDINGS, EXCEPTIONS, IDENTITIES, PODS
from podidentity.telemetry import logs
from podidentity.telemetry.log_limit import LogLimit
from podidentity.telemetry.loop_lag import LoopLag
from podidentity.telemetry.metrics import new_registry
from podidentity.telemetry.probes import HttpEndpoints, PortInUse
from podidentity.telemetry.profile import Profiler
from podidentity.telemetry.skipped import SkippedMetrics
from podidentity.version import VERSION

log = logging.getLogger(__name__)

READ_KINDS: Final = (PODS, EXCEPTIONS, ASSIGNED_IDENTITIES, IDENTITIES, BINDINGS)
COMPONENT: Final = "aad-pod-identity-nmi"
"""The source of NMI's Events."""


async def run(settings: NmiSettings) -> None:
    """Serve until SIGTERM or SIGINT. Raises StartError if a change outside of NMI is needed first."""
    logs.configure(settings.log_format, settings.verbosity)
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    log.info("nmi starting", extra={"version": VERSION, "settings": settings.text()})
    for flag in settings.former_flags:
        log.warning("a flag has no effect any more; remove it", extra={"reason": f"--{flag}: {FORMER_FLAGS[flag]}"})
    # Imported modules stay, so later collections need not scan them, for 20 ms each.
    gc.freeze()
    gc.enable()
    try:
        async with AsyncExitStack() as stack:
            await App(settings, stack).run(stop)
    except* (AccessError, PortInUse, RedirectError) as group:
        first = first_error(group)
        reason = first.strerror if isinstance(first, PortInUse) else ""  # str() of an OSError begins with its number
        raise StartError(reason or str(first)) from first


class App:
    """One NMI, from its start to its end."""

    def __init__(self, settings: NmiSettings, stack: AsyncExitStack) -> None:
        """Prepare the parts. *stack* is the caller's; it closes the opened objects in reverse order."""
        self._settings = settings
        self._stack = stack
        self._registry = new_registry()
        self._node_address = _node_address(settings)
        self._redirect = TrafficRedirect(settings, self._node_address)
        stack.callback(self._redirect.close)
        self._status = Status(self._redirect, node=settings.node_name, node_address=self._node_address)
        self._shutdown = Shutdown(self._redirect, settings.drain_seconds)
        self._log_limit = LogLimit()
        self._broker: TokenBroker | None = None
        self._tasks: asyncio.TaskGroup | None = None
        self._network_monitor = NetworkMonitor()
        NodeMetrics(self._registry, self._redirect, self._network_monitor)
        self._skipped = SkippedMetrics(self._registry, PREFIX, READ_KINDS)
        self._lag = LoopLag(self._registry, PREFIX)

    async def run(self, stop: asyncio.Event) -> None:
        """Start in order, serve, and stop in order once *stop* is set, also during the start.

        After an error the rules remain: until NMI runs again, pods are refused and do not get the node's own
        identities.
        """
        try:
            async with asyncio.TaskGroup() as tasks:
                self._tasks = tasks
                tasks.create_task(self._shutdown.run(stop), name="stop signal")
                tasks.create_task(self._lag.run(), name="event loop lag")
                tasks.create_task(end_after_sleep(MachineSleep()), name="notice a sleep of the machine")
                await self._start(tasks)
        except* Stopped:
            await self._shutdown.remove_redirect()
        log.info("nmi stopped")

    async def _start(self, tasks: asyncio.TaskGroup) -> None:
        settings = self._settings
        service, takeover, predecessor = await self._start_service(tasks)
        await self._redirect.prepare()
        self._monitor_node_address(tasks)
        access = await self._find_access()
        client = await self._stack.enter_async_context(
            Client(
                access,
                user_agent=settings.user_agent,
                open_session=small_session,
                old_field_names=settings.read_old_field_names,
            )
        )
        contact = self._status.contact = FirstContact(
            access, user_agent=settings.user_agent, log_limit=self._log_limit, open_session=small_session
        )
        node_labels = NodeLabels(client, settings.node_name, log_limit=self._log_limit)
        await self._first_contact(contact, node_labels, service, tasks)
        index = Index()
        identities = IdentityMetrics(self._registry)
        events = EventRecorder(client, COMPONENT, settings.node_name)
        client.skipped.record_with(events.record)
        client.ignored_fields.record_with(events.record)
        self._skipped.watch(client.skipped.counts)
        tasks.create_task(events.run(), name="write events")
        assembly = TokenServerAssembly(settings, self._stack, self._registry, tasks)
        tokens = await assembly.build_tokens(client, identities, note_imds=self._redirect.note_imds)
        cluster_cache = assembly.build_cluster_cache(client, tokens, index, identities, log_limit=self._log_limit)
        decisions = Decisions(report=PodEvents(events).record)
        built = await assembly.build_server(tokens, index, cluster_cache, identities, decisions)
        self._broker, self._status.token_server = built.broker, built
        if settings.address_evidence:
            tasks.create_task(self._network_monitor.run(cluster_cache), name="listen to the node's network")
            discovery = NeighbourDiscovery(cluster_cache.unresolved_addresses)
            tasks.create_task(discovery.run(), name="resolve pod addresses")
        tasks.create_task(cluster_cache.run(), name="watch pods and identities")
        self._status.cluster_cache = cluster_cache
        # Without complete lists NMI would refuse pods whose identities it has not read yet.
        await contact.first_lists(client, cluster_cache.watches.by_name.values())
        await cluster_cache.synced()
        await self._redirect.decided()
        # Current objects stay, so a full collection need not scan them repeatedly, for 20 ms each.
        gc.collect()
        gc.freeze()
        await takeover.complete()
        await service.listen()
        # An NMI that serves is retired first: until then it serves again if this one fails, and no connection is lost.
        if takeover.predecessor is not None:
            await takeover.predecessor.confirm()
            tasks.create_task(takeover.predecessor.follow(service), name="adopt connections")
        await service.serve(built.server)
        service.active = True
        log.info("nmi active", extra={"node": settings.node_name, "count": len(index)})
        if predecessor is not None:
            tasks.create_task(predecessor.run(), name="listen for a successor")

    async def _start_service(self, tasks: asyncio.TaskGroup) -> Serving:
        """Own the sockets that no other NMI of this node will pass."""
        settings = self._settings
        pages: dict[SocketName, HttpEndpoints] = {
            "probes": HttpEndpoints(
                "",
                settings.probe_port,
                healthz=self._status.health,
                readyz=self._status.checks,
                notes=self._status.notes,
                state=self._status.state,
                profile=Profiler().sample if settings.profile else None,
                flag="--http-probe-port",
            ),
            "metrics": HttpEndpoints("", settings.metrics_port, registry=self._registry, flag="--prometheus-port"),
        }
        for endpoints in pages.values():
            self._stack.push_async_callback(endpoints.stop)
        service = NodeService(
            settings,
            self._redirect,
            pages,
            tasks,
            node_address=self._node_address,
            tokens=self._tokens_to_pass,
            on_retired=self._retired,
        )
        self._stack.callback(service.close)
        path = Path(settings.handover_socket) if settings.handover_socket else None
        metrics = HandoverMetrics(self._registry)
        predecessor = Predecessor(path, service, metrics) if path is not None else None
        signal = StartSignal(Path(settings.start_signal) if settings.start_signal else None)
        self._stack.callback(signal.close)
        takeover = Takeover(
            path,
            service.hello(),
            metrics,
            service.bind,
            in_use=is_in_use,
            receive_tokens=self._receive_tokens,
            signal=signal.give,
        )
        serving = self._status.serving = self._shutdown.serving = Serving(service, takeover, predecessor)
        await takeover.begin()
        return serving

    def _monitor_node_address(self, tasks: asyncio.TaskGroup) -> None:
        """Monitor the node's address if pods are redirected to it."""
        choice = self._redirect.choice
        if choice is None or choice.target is not RedirectTarget.NODE or self._node_address is None:
            return
        monitor = self._status.address_monitor = NodeAddressMonitor(self._node_address)
        tasks.create_task(monitor.run(), name="monitor the node's address")

    async def _find_access(self) -> ClusterAccess:
        try:
            return await find(self._settings.kubeconfig, self._settings.cluster_environment)
        except AccessError:
            await self._redirect.note_labels(None)  # the reject of --fail-closed outlives this start
            raise

    async def _first_contact(
        self, contact: FirstContact, node_labels: NodeLabels, service: NodeService, tasks: asyncio.TaskGroup
    ) -> None:
        """Return after the API server's first response.

        If it does not respond soon, the labels in the kubelet's flags decide whether the first rule may be written.
        """
        if not self._redirect.needs_labels:
            service.maintain()
            await contact.made()
            return
        labels = await node_labels.first(contact)
        await self._redirect.note_labels(labels)
        service.maintain()
        if labels is None:
            await contact.made()
        tasks.create_task(
            node_labels.follow(self._redirect.note_labels, known=labels is not None), name="read the node's labels"
        )

    def _retired(self) -> None:
        """Note that a successor serves: the NMI that served before this one must not serve again."""
        serving = self._shutdown.serving
        former = serving.takeover.predecessor if serving is not None else None
        if former is not None and self._tasks is not None:
            self._tasks.create_task(former.pass_on(), name="pass on")

    def _tokens_to_pass(self) -> Iterator[bytes]:
        return self._broker.tokens_to_pass() if self._broker is not None else iter(())

    def _receive_tokens(self, packets: Sequence[bytes]) -> tuple[int, int]:
        return self._broker.receive_tokens(packets) if self._broker is not None else (0, 0)


def _node_address(settings: NmiSettings) -> str | None:
    """Return the node's own address; None if it is unknown, or the target `loopback` is required."""
    if settings.redirect_target is RedirectTarget.LOOPBACK:
        return None
    node_address: NodeAddress = find_node_address(settings.node_ip, settings.metadata_ip)
    log.info("the node's address", extra={"address": node_address.address or "unknown", "reason": node_address.reason})
    return node_address.address
