"""NMI put together: every object is built here, given what it needs, and ended here.

The order of the start is the order of trust: probes first, then the watches until they have told everything, then the
listener, then the rule that leads pods to it, and only then "Active". The stop goes the other way: the rule comes off
first, so that nobody new is led here, then what is open is answered.
"""

import asyncio
import logging
import signal
import socket
from contextlib import AsyncExitStack
from typing import Final, Never

import aiohttp

from _native.index import Index
from _native.lane import Limits
from nmi.flag_table import StaleIdentity
from nmi.identity.decide import Policy
from nmi.identity.feed import Feed
from nmi.identity.measures import IdentityMeasures
from nmi.issuer import Issuer
from nmi.node.measures import NodeMeasures
from nmi.node.plumbing import Plumbing
from nmi.node.redirect import RedirectError
from nmi.server.measures import Measures
from nmi.server.passthrough import MetadataProxy
from nmi.server.policy import PIPELINE_SECONDS, ServerPolicy
from nmi.server.server import Server
from nmi.server.target import Forwarding
from nmi.settings import Settings, not_yet
from nmi.tokens.broker import Broker
from nmi.tokens.governor import Governor
from nmi.tokens.measures import TokenMeasures
from nmi.tokens.user_assigned import TYPE, UserAssignedSource
from podidentity.azure.imds import ImdsSource
from podidentity.exits import StartError
from podidentity.kube.access import find
from podidentity.kube.client import Client
from podidentity.kube.errors import AccessError, ApiError
from podidentity.telemetry import logs
from podidentity.telemetry.metrics import new_registry
from podidentity.telemetry.probes import HttpEndpoints, PortInUse
from podidentity.version import VERSION

log = logging.getLogger(__name__)

BACKLOG: Final = 4096
"""Connections that the kernel holds for us; it cuts this to net.core.somaxconn."""
REACH_SECONDS: Final = 15.0
"""How long the API server may stay silent at the start before NMI says so and exits, to be started again."""
REMOVE_SECONDS: Final = 10.0
"""How long the end waits for the xtables lock. The rest of a pod's grace period (30 s) is the drain's."""
IMDS_CONNECTIONS: Final = 16
"""IMDS takes 5 requests at once, the governor sees to it; instance metadata and a margin come on top."""


class Stopped(Exception):  # noqa: N818  not an error
    """Unwinds the root task group after an ordered stop."""


async def run(settings: Settings) -> None:
    """Serve until SIGTERM or SIGINT. Raises StartError when something outside must change first."""
    logs.configure(settings.log_format, settings.verbosity)
    log.info("nmi starts", extra={"version": VERSION, "settings": settings.describe()})
    for given, meaning in not_yet(settings).items():
        log.warning("a setting has no effect yet; leave it out", extra={"reason": f"{given}: {meaning}"})
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    try:
        async with AsyncExitStack() as stack:
            await App(settings, stack).run(stop)
    except* (AccessError, PortInUse, RedirectError) as group:
        first: BaseException = group
        while isinstance(first, BaseExceptionGroup):
            first = first.exceptions[0]
        told = first.strerror if isinstance(first, PortInUse) else ""  # str() of an OSError begins with its number
        raise StartError(told or str(first)) from first


class App:
    """One NMI, from its start to its end."""

    def __init__(self, settings: Settings, stack: AsyncExitStack) -> None:
        """*stack* is the caller's; what was opened is closed with it, in reverse order."""
        self._settings = settings
        self._stack = stack
        self._registry = new_registry()
        self._plumbing = Plumbing(settings)
        self._feed: Feed | None = None
        self._server: Server | None = None
        self._listener: socket.socket | None = None
        self._maintaining: asyncio.Task[None] | None = None
        self._active = False
        NodeMeasures(self._registry, self._plumbing)

    async def run(self, stop: asyncio.Event) -> None:
        """Start in order, serve, and stop in order once *stop* is set, at whatever point of the start that is.

        An error that ends it leaves the rule where it is: until NMI is back pods are refused, not given the node's own
        identities.
        """
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._stop_in_order(stop), name="stop signal")
                await self._start(tasks)
        except* Stopped:
            # Once more, since the signal may have come in the middle of the installation.
            await self._remove_redirect()
        log.info("nmi has stopped")

    async def _start(self, tasks: asyncio.TaskGroup) -> None:
        settings = self._settings
        await self._start_endpoints()
        await self._plumbing.prepare()
        listener = self._stack.enter_context(bound(settings.listen_address, settings.listen_port))
        client = await self._stack.enter_async_context(await self._reach_cluster())
        index = Index()
        identities = IdentityMeasures(self._registry)
        feed = Feed(
            client,
            index,
            identities,
            node=settings.node_name,
            scale_features=settings.scale_features,
            refuse_stale=settings.stale_identity is StaleIdentity.REFUSE,
        )
        self._stack.push_async_callback(feed.aclose)
        server = await self._build_server(index, feed, identities)
        tasks.create_task(feed.run(), name="watch pods and assigned identities")
        await feed.synced()
        self._feed = feed
        listener.listen(BACKLOG)
        await server.start(listener)
        self._server, self._listener = server, listener
        await self._plumbing.install()
        self._maintaining = tasks.create_task(self._plumbing.maintain(), name="maintain the redirect")
        self._active = True
        log.info("nmi is active", extra={"node": settings.node_name, "count": len(index)})

    async def _stop_in_order(self, stop: asyncio.Event) -> Never:
        """The rule first: from then on nobody new is led here. Then what is open is answered."""
        await stop.wait()
        log.info("nmi stops: the redirect comes off, open requests are answered")
        self._active = False
        if self._maintaining is not None:
            self._maintaining.cancel()
            await asyncio.wait([self._maintaining])
            await self._remove_redirect()
        if self._server is not None and self._listener is not None:
            self._server.stop_accepting()
            self._listener.close()  # whoever connects now is refused at once, instead of hanging until the exit
            await self._server.drain(self._settings.drain_seconds)
        raise Stopped

    async def _remove_redirect(self) -> None:
        try:
            async with asyncio.timeout(REMOVE_SECONDS):
                await self._plumbing.remove()
        except (TimeoutError, RedirectError, StartError) as error:
            log.error(  # noqa: TRY400  the sentence says it all
                "the redirect could not be removed; run `nmi --cleanup` on this node", extra={"error": str(error)}
            )

    async def _start_endpoints(self) -> None:
        settings = self._settings
        probes = HttpEndpoints(
            "", settings.probe_port, healthz=self._health, readyz=self._checks, flag="--http-probe-port"
        )
        metrics = HttpEndpoints("", settings.metrics_port, registry=self._registry, flag="--prometheus-port")
        for endpoints in (probes, metrics):
            await endpoints.start()
            self._stack.push_async_callback(endpoints.stop)

    def _health(self) -> str:
        return "Active" if self._active else "Not Active"

    def _checks(self) -> dict[str, str | None]:
        feed = self._feed
        return {
            "active": None if self._active else "not serving (yet, or any more)",
            "watches": None if feed is not None and not feed.stale() else "a watch is silent: see the log",
            "redirect": self._plumbing.problem(),
        }

    async def _reach_cluster(self) -> Client:
        """A client of the API server, which has answered once. Raises StartError when it does not."""
        settings = self._settings
        access = await find(settings.kubeconfig, settings.environ)
        client = Client(access, user_agent=self._user_agent)
        try:
            async with asyncio.timeout(REACH_SECONDS):
                await client.request("GET", "/version")
        except (ApiError, TimeoutError) as error:
            await client.aclose()
            why = str(error) or f"{access.server} did not answer within {REACH_SECONDS:g} s"
            raise StartError(
                f"the API server is not to be had ({why}): check the address in the kubeconfig or the pod's "
                f"environment, the network from this node, and the credentials"
            ) from error
        return client

    async def _build_server(self, index: Index, feed: Feed, identities: IdentityMeasures) -> Server:
        settings = self._settings
        imds_url = f"http://{settings.metadata_ip}:{settings.metadata_port}"
        session = await self._stack.enter_async_context(
            aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=IMDS_CONNECTIONS),
                cookie_jar=aiohttp.DummyCookieJar(),
                headers={"User-Agent": self._user_agent},
            )
        )
        measures = TokenMeasures(self._registry)
        governor = Governor()
        self._stack.callback(governor.close)
        source = UserAssignedSource(ImdsSource(session, imds_url, observe=measures.observe_imds))
        broker = Broker(
            {TYPE: source},
            governor,
            measures,
            caching=settings.token_cache,
            fetch_seconds=settings.max_hold_seconds,
        )
        self._stack.push_async_callback(broker.aclose)
        policy = server_policy(settings)
        server = Server(
            limits=limits(settings),
            policy=policy,
            index=index,
            issuer=Issuer(feed, broker, hold_policy(settings), identities),
            proxy=MetadataProxy(session, imds_url, governor, policy),
            measures=Measures(self._registry),
        )
        self._stack.push_async_callback(server.aclose)
        return server

    @property
    def _user_agent(self) -> str:
        return f"aad-pod-identity-nmi/{VERSION} {self._settings.custom_user_agent}".rstrip()


def bound(address: str, port: int) -> socket.socket:
    """A socket bound there, not listening yet: whoever connects is refused until it does. Raises StartError."""
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    try:
        listener.setblocking(False)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((address, port))
    except OSError as error:
        listener.close()
        raise StartError(
            f"{address}:{port} cannot be listened on ({error.strerror}): end what holds it (another NMI?), or choose "
            f"another with --nmi-port and --nmi-listen-address"
        ) from error
    return listener


def hold_policy(settings: Settings) -> Policy:
    """What of *settings* decides who gets what, and how long a request is held."""
    return Policy(
        force_namespaced=settings.force_namespaced,
        created_attempts=settings.attempts_for_created,
        assigned_attempts=settings.attempts_for_assigned,
        interval_seconds=float(settings.find_interval_seconds),
        max_hold_seconds=settings.max_hold_seconds,
    )


def server_policy(settings: Settings) -> ServerPolicy:
    """What of *settings* decides how requests are treated. Raises StartError for a path that may never be proxied."""
    try:
        forwarding = Forwarding(settings.allowed_metadata_paths, everything=settings.proxy_all_metadata)
    except ValueError as error:
        raise StartError(f"--allow-metadata-path: {error}") from error
    return ServerPolicy(
        require_metadata_header=settings.metadata_header_required,
        allow_x_forwarded_for=settings.allow_x_forwarded_for,
        block_instance_metadata=settings.block_instance_metadata,
        set_retry_after=settings.set_retry_after_header,
        forwarding=forwarding,
        answer_seconds=settings.max_hold_seconds + 10,
        log_each_request=settings.verbosity >= logs.VERBOSE,
        # The lane ends a connection whose next head is not whole after head_seconds: stop reading before it does.
        pipeline_seconds=min(PIPELINE_SECONDS, settings.head_seconds / 2),
    )


def limits(settings: Settings) -> Limits:
    """The listener's limits out of *settings*."""
    return Limits(
        connections=settings.max_connections,
        connections_per_peer=settings.max_connections_per_pod,
        first_byte_seconds=settings.first_byte_seconds,
        head_seconds=settings.head_seconds,
        idle_seconds=settings.idle_seconds,
        write_seconds=settings.write_seconds,
    )
