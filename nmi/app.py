"""NMI's assembly: this module builds every object, with `token_server` those of the token server, and ends it.

The start goes from probes to watches until their first lists are complete, to the listener, to the rule that redirects
pods, and only then to "Active". NMI waits for an unavailable API server without a time limit
(`podidentity.kube.first_contact`). At the stop, NMI keeps the rule and serves new requests until the open ones are
answered. Then it removes the rule, so that no new connection arrives, and completes the rest. With --fail-closed the
rule that blocks pods from the real IMDS is installed right after the probes, and both rules remain at the end.
"""

import asyncio
import gc
import logging
import signal
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Final, Never

from _native.index import Index
from nmi.flag_table import OperationMode, RedirectTarget, StaleIdentity
from nmi.handover.messages import SocketName
from nmi.handover.metrics import HandoverMetrics
from nmi.handover.predecessor import Predecessor
from nmi.handover.start_signal import StartSignal
from nmi.handover.takeover import Takeover
from nmi.identity.cluster_cache import ClusterCache
from nmi.identity.metrics import PREFIX, IdentityMetrics
from nmi.node.metrics import NodeMetrics
from nmi.node.neighbour_discovery import NeighbourDiscovery
from nmi.node.network_monitor import NetworkMonitor
from nmi.node.node_address import NodeAddress, NodeAddressMonitor
from nmi.node.node_address import find as find_node_address
from nmi.node.rules import RedirectError
from nmi.node.traffic_redirect import TrafficRedirect
from nmi.pod_events import PodEvents
from nmi.server.decisions import Decisions
from nmi.server.metadata_cache import MetadataCache
from nmi.service import NodeService, is_in_use
from nmi.settings import Settings
from nmi.token_server import TokenServerAssembly, user_agent
from nmi.tokens.broker import TokenBroker
from nmi.tokens.governor import Governor
from podidentity.exits import StartError
from podidentity.kube.access import find
from podidentity.kube.client import Client
from podidentity.kube.errors import AccessError, ApiError
from podidentity.kube.events import EventRecorder
from podidentity.kube.first_contact import FirstContact
from podidentity.kube.sessions import small_session
from podidentity.resources import ASSIGNED_IDENTITIES, BINDINGS, EXCEPTIONS, IDENTITIES, NODES, PODS
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
REMOVE_SECONDS: Final = 5.0
"""How long the stop waits for the xtables lock. The rest of a pod's grace period (30 s) is for the drain."""
SUCCESSOR_SECONDS: Final = 15.0
"""How long the stop waits for a successor that synchronises. With the drain (10 s, and 0.5 s for last answers) this is
less than a pod's grace period (30 s); NMI then removes no rule, which could take 2 * REMOVE_SECONDS more.
"""
REGISTRATION_SECONDS: Final = 3.0
"""How long a stop without a successor waits for one that has started and is not registered yet. Requests are served in
this time. It is a part of SUCCESSOR_SECONDS.
"""
LAST_ACCEPT_SECONDS: Final = 0.02
"""After the jump's removal, how long NMI accepts the connections that the kernel has queued: closing the listener would
reset them.
"""


class Stopped(Exception):  # noqa: N818  not an error
    """Ends the root task group after an ordered stop."""


async def run(settings: Settings) -> None:
    """Serve until SIGTERM or SIGINT. Raises StartError if a change outside of NMI is needed first."""
    logs.configure(settings.log_format, settings.verbosity)
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    log.info("nmi starting", extra={"version": VERSION, "settings": settings.text()})
    # Imported modules stay, so later collections need not scan them, for 20 ms each.
    gc.freeze()
    gc.enable()
    try:
        async with AsyncExitStack() as stack:
            await App(settings, stack).run(stop)
    except* (AccessError, PortInUse, RedirectError) as group:
        first: BaseException = group
        while isinstance(first, BaseExceptionGroup):
            first = first.exceptions[0]
        reason = first.strerror if isinstance(first, PortInUse) else ""  # str() of an OSError begins with its number
        raise StartError(reason or str(first)) from first


class App:
    """One NMI, from its start to its end."""

    def __init__(self, settings: Settings, stack: AsyncExitStack) -> None:
        """Prepare the parts. *stack* is the caller's; it closes the opened objects in reverse order."""
        self._settings = settings
        self._stack = stack
        self._registry = new_registry()
        self._node_address = _node_address(settings)
        self._address_monitor: NodeAddressMonitor | None = None
        self._redirect = TrafficRedirect(settings, self._node_address)
        stack.callback(self._redirect.close)
        self._log_limit = LogLimit()
        self._contact: FirstContact | None = None
        self._cluster_cache: ClusterCache | None = None
        self._broker: TokenBroker | None = None
        self._governor: Governor | None = None
        self._metadata_cache: MetadataCache | None = None
        self._service: NodeService | None = None
        self._takeover: Takeover | None = None
        self._predecessor: Predecessor | None = None
        self._keeps_redirect = False
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
                tasks.create_task(self._stop_in_order(stop), name="stop signal")
                tasks.create_task(self._lag.run(), name="event loop lag")
                await self._start(tasks)
        except* Stopped:
            if not self._keeps_redirect:
                await self._leave_redirect(self._redirect.remove)
        log.info("nmi stopped")

    async def _start(self, tasks: asyncio.TaskGroup) -> None:
        settings = self._settings
        service, takeover = await self._start_service(tasks)
        await self._redirect.prepare()
        self._monitor_node_address(tasks)
        service.maintain()
        access = await find(settings.kubeconfig, settings.environ)
        client = await self._stack.enter_async_context(
            Client(access, user_agent=user_agent(settings), open_session=small_session)
        )
        self._contact = FirstContact(
            access, user_agent=user_agent(settings), log_limit=self._log_limit, open_session=small_session
        )
        await self._contact.made()
        index = Index()
        identities = IdentityMetrics(self._registry)
        cluster_cache = ClusterCache(
            client,
            index,
            identities,
            node=settings.node_name,
            managed=settings.operation_mode is OperationMode.MANAGED,
            scale_features=settings.scale_features,
            mic_namespace=settings.mic_namespace,
            exception_namespaces=settings.exception_namespaces,
            refuse_stale=settings.stale_identity is StaleIdentity.REFUSE,
            log_limit=self._log_limit,
        )
        self._stack.push_async_callback(cluster_cache.aclose)
        events = EventRecorder(client, COMPONENT, settings.node_name)
        client.skipped.record_with(events.record)
        self._skipped.watch(client.skipped.counts)
        tasks.create_task(events.run(), name="write events")
        assembly = TokenServerAssembly(settings, self._stack, self._registry, tasks)
        built = await assembly.build(client, index, cluster_cache, identities, Decisions(report=PodEvents(events).tell))
        self._broker, self._governor, self._metadata_cache = built.broker, built.governor, built.metadata_cache
        if settings.address_evidence:
            tasks.create_task(self._network_monitor.run(cluster_cache), name="listen to the node's network")
            discovery = NeighbourDiscovery(cluster_cache.unresolved_addresses)
            tasks.create_task(discovery.run(), name="resolve pod addresses")
        tasks.create_task(cluster_cache.run(), name="watch pods and identities")
        self._cluster_cache = cluster_cache
        await self._contact.first_lists(client, cluster_cache.watches.by_name.values())
        await cluster_cache.synced()
        if settings.redirect.changes_rules:
            tasks.create_task(self._note_node_labels(client), name="read the node's labels")
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
        if self._predecessor is not None:
            tasks.create_task(self._predecessor.run(), name="listen for a successor")

    async def _stop_in_order(self, stop: asyncio.Event) -> Never:
        """Serve, also new requests, until a successor serves or the open ones are answered; then complete the rest.

        Without the jump, requests reach the real IMDS, so it goes as late as possible. The rest of the rule goes last,
        because responses need it.
        """
        await stop.wait()
        log.info("nmi stopping; it completes open requests and then removes the redirect unless configured otherwise")
        service, seconds = self._service, self._settings.drain_seconds
        if service is not None:
            seconds = await self._complete_requests(service, seconds)
            await service.stop_maintaining()
            if not self._keeps_redirect:
                await self._leave_redirect(self._redirect.withdraw)
            if service.server is not None:
                await asyncio.sleep(LAST_ACCEPT_SECONDS)
                service.stop_accepting()
                seconds = await self._pass_connections(service, seconds)
                await service.server.drain(seconds)
        raise Stopped

    async def _complete_requests(self, service: NodeService, seconds: float) -> float:
        """Return the remaining part of *seconds* once the requests that are open now are answered.

        Decide whether the redirect stays: it does if another NMI serves this node, or will soon.
        """
        loop = asyncio.get_running_loop()
        until = loop.time() + SUCCESSOR_SECONDS
        handover, takeover = self._predecessor, self._takeover
        if handover is not None and service.active:
            await handover.wait_for_registration(REGISTRATION_SECONDS)
            if handover.registered:
                log.info("nmi serves until its successor is ready", extra={"seconds": SUCCESSOR_SECONDS})
            await handover.settle(until - loop.time())
        former = takeover.predecessor if takeover is not None else None
        given_back = False
        if service.active and former is not None:
            # The former NMI removes these rules if it uses another backend, and they must not be restored.
            await service.stop_maintaining()
            given_back = await former.give_back()
            if not given_back:
                service.maintain()
        if given_back:
            log.info("the former NMI serves this node again")
        elif not service.active and takeover is not None and takeover.waits:
            self._keeps_redirect = True  # the one that serves owns it
        service.active = False
        if service.server is not None:
            seconds = await service.server.complete_open_requests(seconds)
        if handover is not None:
            await handover.settle(until - loop.time())
            self._keeps_redirect = self._keeps_redirect or given_back or handover.registered or handover.retired
            await handover.refuse()
        return seconds

    async def _pass_connections(self, service: NodeService, seconds: float) -> float:
        """Pass every connection to the NMI that serves this node, if one does.

        Return the remaining part of *seconds*.
        """
        handover, former = self._predecessor, self._takeover.predecessor if self._takeover is not None else None
        if handover is not None and handover.retired:
            if former is not None:
                former.close()  # an NMI before this one passes no further connections to it
            return await handover.pass_connections(lambda: service.open_connections, seconds)
        if former is not None:
            return await former.return_connections(lambda: service.open_connections, seconds)
        return seconds

    async def _leave_redirect(self, step: Callable[[], Awaitable[None]]) -> None:
        try:
            async with asyncio.timeout(REMOVE_SECONDS):
                await step()
        except (TimeoutError, RedirectError, StartError) as error:
            log.error(  # noqa: TRY400  the message is complete
                "the redirect could not be removed; run `nmi --cleanup` on this node", extra={"error": str(error)}
            )

    async def _start_service(self, tasks: asyncio.TaskGroup) -> tuple[NodeService, Takeover]:
        """Own the sockets that no other NMI of this node will pass."""
        settings = self._settings
        pages: dict[SocketName, HttpEndpoints] = {
            "probes": HttpEndpoints(
                "",
                settings.probe_port,
                healthz=self._health,
                readyz=self._checks,
                notes=self._notes,
                state=self._state,
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
        if path is not None:
            self._predecessor = Predecessor(path, service, metrics)
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
        self._service, self._takeover = service, takeover
        await takeover.begin()
        return service, takeover

    def _monitor_node_address(self, tasks: asyncio.TaskGroup) -> None:
        """Monitor the node's address if pods are redirected to it."""
        choice = self._redirect.choice
        if choice is None or choice.target is not RedirectTarget.NODE or self._node_address is None:
            return
        self._address_monitor = NodeAddressMonitor(self._node_address)
        tasks.create_task(self._address_monitor.run(), name="monitor the node's address")

    async def _note_node_labels(self, client: Client) -> None:
        """Read the labels of this node, which show that no rule is effective there."""
        try:
            node = await client.get(NODES, "", self._settings.node_name)
        except (ApiError, AccessError) as error:
            log.warning(
                "the labels of this node could not be read, so NMI does not detect eBPF host routing by them; grant "
                "NMI the verb get on nodes",
                extra={"error": str(error)},
            )
            return
        self._redirect.note_labels((node.metadata.labels or {}).items())

    def _retired(self) -> None:
        """Note that a successor serves: the NMI that served before this one must not serve again."""
        former = self._takeover.predecessor if self._takeover is not None else None
        if former is not None and self._tasks is not None:
            self._tasks.create_task(former.pass_on(), name="pass on")

    def _tokens_to_pass(self) -> Iterator[bytes]:
        return self._broker.tokens_to_pass() if self._broker is not None else iter(())

    def _receive_tokens(self, packets: Sequence[bytes]) -> tuple[int, int]:
        return self._broker.receive_tokens(packets) if self._broker is not None else (0, 0)

    def _health(self) -> str:
        return "Active" if self._service is not None and self._service.active else "Not Active"

    def _checks(self) -> dict[str, str | None]:
        contact = self._contact
        waiting = self._takeover.problem if self._takeover is not None else ""
        return {
            "active": None if self._health() == "Active" else waiting or "not serving (yet, or any more)",
            "api server": contact.problem if contact is not None else "not asked yet",
            "watches": _watch_problem(self._cluster_cache),
            "redirect": self._redirect.problem() or self._address_problem,
        }

    @property
    def _address_problem(self) -> str | None:
        return self._address_monitor.problem if self._address_monitor is not None else None

    def _notes(self) -> dict[str, str]:
        note = self._redirect.note()
        return {"redirect": note} if note else {}

    def _state(self) -> dict[str, object]:
        """Return the state of every package for the debug page: no secrets, nothing unbounded."""
        components = {
            "feed": self._cluster_cache,
            "broker": self._broker,
            "governor": self._governor,
            "metadata": self._metadata_cache,
            "server": self._service.server if self._service is not None else None,
            "plumbing": self._redirect,
        }
        states = {name: each.state() for name, each in components.items() if each is not None}
        return {
            "node": self._settings.node_name,
            "version": VERSION,
            "health": self._health(),
            "node_address": self._node_address or "",
            "handover": self._predecessor.state() if self._predecessor is not None else "off",
            **states,
        }


def _node_address(settings: Settings) -> str | None:
    """Return the node's own address; None if it is unknown, or the target `loopback` is required."""
    if settings.redirect_target is RedirectTarget.LOOPBACK:
        return None
    found: NodeAddress = find_node_address(settings.node_ip, settings.metadata_ip)
    log.info("the node's address", extra={"address": found.address or "unknown", "reason": found.reason})
    return found.address


def _watch_problem(cluster_cache: ClusterCache | None) -> str | None:
    """Return the problem of the watches for readiness; None if every watch is complete and not silent."""
    if cluster_cache is None:
        return "the watches have not started yet"
    if incomplete := cluster_cache.watches.incomplete():
        return f"first lists not complete: {', '.join(f'{name}: {why}' for name, why in incomplete.items())}"
    silent = cluster_cache.silent()
    return f"silent: {', '.join(silent)}; check that the API server responds to this node" if silent else None
