"""The token server's assembly: token sources and broker, cluster cache, proxy for instance metadata, and server."""

import asyncio
import logging
import time
from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack
from typing import Final

import msgspec
from prometheus_client import CollectorRegistry

from _native.index import Index
from _native.limits import Limits
from nmi.choices import OperationMode, StaleIdentity
from nmi.connection_limits import connection_limits, excess
from nmi.identity.cluster_cache import ClusterCache
from nmi.identity.metrics import IdentityMetrics
from nmi.identity.pod_entry import PodEntry
from nmi.node.memory_limit import memory_limit
from nmi.policies import decision_policy, exchanges, server_policy, sign_in_policy, sign_in_trust
from nmi.server.decisions import Decisions
from nmi.server.loop_detection import SENT_FIELDS
from nmi.server.metadata_cache import MetadataCache
from nmi.server.metrics import ServerMetrics
from nmi.server.passthrough import MetadataProxy
from nmi.server.server import Server
from nmi.settings import NmiSettings
from nmi.token_service import TokenService
from nmi.tokens.assertions import Assertions
from nmi.tokens.broker import TokenBroker
from nmi.tokens.endpoint_failures import EndpointFailures
from nmi.tokens.entra_loader import SignInSession
from nmi.tokens.federated import FederatedSource
from nmi.tokens.governor import Governor
from nmi.tokens.metrics import TokenMetrics
from nmi.tokens.secrets import Secrets
from nmi.tokens.service_principal import ServicePrincipalSource
from nmi.tokens.sign_in import proxy_by
from nmi.tokens.sign_ins import SignIns
from nmi.tokens.source import TokenSource
from nmi.tokens.user_assigned import NodeIdentitySource, UserAssignedSource
from podidentity.azure.errors import AzureError
from podidentity.azure.federation import BINDING_AUDIENCE, Exchange
from podidentity.azure.imds import ImdsSource
from podidentity.http_client.session import HttpSession
from podidentity.kube.client import Client
from podidentity.resources import IdentityType
from podidentity.telemetry.log_limit import LogLimit

log = logging.getLogger(__name__)

IMDS_CONNECTIONS: Final = 16
"""The governor sends at most 5 concurrent requests to IMDS. Instance metadata and a reserve are added."""


class TokenServer(msgspec.Struct, frozen=True):
    """The server, and the parts of it that NMI also uses directly."""

    server: Server
    broker: TokenBroker
    governor: Governor
    metadata_cache: MetadataCache


class TokenParts(msgspec.Struct, frozen=True):
    """The parts of the token server that fetch and keep tokens."""

    session: HttpSession
    imds: ImdsSource
    governor: Governor
    broker: TokenBroker
    assertions: tuple[Assertions, ...]

    def forget(self, entry: PodEntry) -> None:
        """Forget the tokens of a pod that is gone."""
        self.broker.forget_pod(entry.uid)
        for assertions in self.assertions:
            assertions.forget(entry.uid)


class TokenServerAssembly:
    """Builder of the token server, in three steps: the server needs the cluster cache, and the cache the token parts.

    The *stack* closes the built objects; *tasks* runs their background tasks.
    """

    def __init__(
        self, settings: NmiSettings, stack: AsyncExitStack, registry: CollectorRegistry, tasks: asyncio.TaskGroup
    ) -> None:
        self._settings = settings
        self._stack = stack
        self._registry = registry
        self._tasks = tasks

    async def build_tokens(
        self,
        client: Client,
        identities: IdentityMetrics,
        *,
        note_imds: Callable[[AzureError | None], None] = lambda _error: None,
    ) -> TokenParts:
        """Build the token parts. Raises StartError for unusable settings.

        *note_imds* is called at the end of each token request to IMDS.
        """
        settings = self._settings
        imds_url = self._imds_url
        session = await self._stack.enter_async_context(
            HttpSession(connections=IMDS_CONNECTIONS, headers={"User-Agent": settings.user_agent, **SENT_FIELDS})
        )
        measures = TokenMetrics(self._registry)
        governor = Governor()
        self._stack.callback(governor.close)
        failures = EndpointFailures()

        def observed(named: bool, seconds: float, error: AzureError | None) -> None:
            measures.observe_imds(named, seconds, error)
            note_imds(error)

        imds = ImdsSource(session, imds_url, observe=failures.with_imds(imds_url, observed))
        sign_ins = await self._sign_ins(measures, failures)
        assertions = {
            Exchange.DIRECT: Assertions(client, settings.federated_audience, count_failure=identities.token_not_made),
            Exchange.IDENTITY_BINDINGS: Assertions(client, BINDING_AUDIENCE, count_failure=identities.token_not_made),
        }
        secrets = Secrets(client, count_failure=identities.secret_not_read)
        broker = TokenBroker(
            await self._sources(imds, sign_ins, secrets, assertions),
            governor,
            measures,
            caching=settings.token_cache,
            fetch_seconds=settings.max_hold_seconds,
        )
        self._stack.push_async_callback(broker.aclose)
        if settings.federated_identities:
            await sign_ins.load()  # so that no pod's first token waits for it
        return TokenParts(session, imds, governor, broker, tuple(assertions.values()))

    def build_cluster_cache(
        self, client: Client, tokens: TokenParts, index: Index, identities: IdentityMetrics, *, log_limit: LogLimit
    ) -> ClusterCache:
        """Build the cluster cache. *tokens* forget each removed pod.

        *log_limit* bounds the lines about failures before the first lists are complete.
        """
        settings = self._settings
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
            log_limit=log_limit,
            on_gone=tokens.forget,
        )
        self._stack.push_async_callback(cluster_cache.aclose)
        return cluster_cache

    async def build_server(
        self,
        tokens: TokenParts,
        index: Index,
        cluster_cache: ClusterCache,
        identities: IdentityMetrics,
        decisions: Decisions,
    ) -> TokenServer:
        """Build the server for the pods in *cluster_cache*. Raises StartError for unusable settings."""
        settings = self._settings
        policy = server_policy(settings)
        proxy = MetadataProxy(tokens.session, self._imds_url, policy)
        self._stack.callback(proxy.close)
        metadata_cache = MetadataCache(proxy, settings.metadata_cache_seconds, now_ns=time.monotonic_ns)
        server = Server(
            limits=await self._connection_limits(),
            policy=policy,
            index=index,
            token_service=TokenService(
                cluster_cache,
                tokens.broker,
                decision_policy(settings),
                identities,
                NodeIdentitySource(tokens.imds, tokens.governor),
            ),
            proxy=metadata_cache,
            measures=ServerMetrics(self._registry),
            decisions=decisions,
        )
        self._stack.push_async_callback(server.aclose)
        return TokenServer(server, tokens.broker, tokens.governor, metadata_cache)

    @property
    def _imds_url(self) -> str:
        return f"http://{self._settings.metadata_ip}:{self._settings.metadata_port}"

    async def _sign_ins(self, measures: TokenMetrics, failures: EndpointFailures) -> SignIns:
        settings = self._settings
        bundle = await asyncio.to_thread(sign_in_trust, settings)
        if bundle is not None:
            self._tasks.create_task(bundle.follow(), name="read the CA bundle")
        trust = bundle.context if bundle is not None else None
        session = SignInSession(settings.user_agent, trust=trust)
        self._stack.push_async_callback(session.aclose)
        return SignIns(
            session.open,
            proxy_for=proxy_by(settings.https_proxy, settings.no_proxy),
            observe=measures.observe_aad,
            failures=failures,
        )

    async def _sources(
        self, imds: ImdsSource, sign_ins: SignIns, secrets: Secrets, assertions: Mapping[Exchange, Assertions]
    ) -> dict[int, TokenSource]:
        settings = self._settings
        may_sign_in = await asyncio.to_thread(sign_in_policy, settings)
        principals = ServicePrincipalSource(may_sign_in, secrets, sign_ins)
        choice = exchanges(settings)
        if choice.proxy_problem:
            log.error(
                "no usable token proxy, identities with identity bindings are refused; correct NMI's environment",
                extra={"error": choice.proxy_problem},
            )
        return {
            IdentityType.USER_ASSIGNED: UserAssignedSource(
                imds, by_resource_id=settings.operation_mode is OperationMode.MANAGED
            ),
            IdentityType.SECRET: principals,
            IdentityType.CERTIFICATE: principals,
            IdentityType.FEDERATED: FederatedSource(
                may_sign_in, assertions, sign_ins, enabled=settings.federated_identities, exchanges=choice
            ),
        }

    async def _connection_limits(self) -> Limits:
        """Return the limits for the container's memory; log a setting that exceeds them."""
        memory = await asyncio.to_thread(memory_limit)
        limits = connection_limits(self._settings, memory)
        log.info(
            "limits of connections",
            extra={
                "memory_limit": memory or 0,
                "connections": limits.connections,
                "connections_per_pod": limits.connections_per_peer,
                "bytes": limits.memory_bytes,
            },
        )
        if warning := excess(limits):
            log.warning("connections may use more memory than the limit allows", extra={"error": warning})
        return limits
