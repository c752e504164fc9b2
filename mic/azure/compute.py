"""Reads and updates of the identities of VMs and scale sets, through azure-core and azure-mgmt-compute.

One read (`arm_reads`) is one request, and so is one call of azure-mgmt-compute. Its own retries are off, because the
caller, which knows the other work on the host, decides about retries. Only the identity part of a resource is sent.
Every failure is an AzureError.
"""

import asyncio
import json
import ssl
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import IO, Any, Final, cast

import aiohttp
from azure.core import MatchConditions
from azure.core.credentials_async import AsyncTokenCredential
from azure.core.exceptions import AzureError as SdkError
from azure.mgmt.compute.aio import ComputeManagementClient
from azure.mgmt.core.polling.async_arm_polling import AsyncARMPolling
from typing_extensions import override

from mic.azure.arm_reads import ArmReads
from mic.azure.errors import (
    CLOUD_CONFIG,
    AzureError,
    HostNotFound,
    LooksThrottled,
    Missing,
    SignInFailed,
    Throttled,
    Unreachable,
    outcome_of,
    status_error,
    translated,
)
from mic.azure.identities import GONE, Change, HostIdentities, decode_identities
from mic.azure.transport import ArmTransport
from mic.leader_client import leader_request
from podidentity.azure.clouds import STACK_NAME, Cloud
from podidentity.azure.resource_ids import Host, ScaleSet

REQUEST_SECONDS: Final = 10.0
"""Limit of one request, including the PATCH that starts an operation: less than the remaining lease after a renewal."""

OPERATION_SECONDS: Final = 30 * 60.0
"""Limit of a whole operation: a large scale set takes many minutes. After this the host is read again."""

POLL_FIRST_SECONDS: Final = 0.2
POLL_LAST_SECONDS: Final = 5.0
POLL_SHARE: Final = 0.08
"""Pause as a share of the elapsed waiting time: the end of an operation of 5 s is noticed within 0.4 s with 20 calls,
that of half an hour within 5 s."""
POLL_SOON_SECONDS: Final = 0.5
"""Longest pause while few operations run, until one of them has run for POLL_SOON_SECONDS / POLL_LONG_SHARE: the end of
an operation of 40 s is noticed within half a second, with 92 calls instead of 49."""
POLL_LONG_SHARE: Final = 0.0125
"""Pause of a long operation as a share of the elapsed waiting time, while few operations run."""
POLLS_PER_SECOND: Final = 12.0
"""Calls of all operations together that shorten their pauses to POLL_SOON_SECONDS: half of the 25 reads a second that
Azure Resource Manager refills for a subscription and a client (learn.microsoft.com, "Understand how Azure Resource
Manager throttles requests"). Other programs with MIC's client may share them."""

CONNECTIONS_MAX: Final = 64

API_VERSION: Final = "2024-07-01"
"""Returns etags for VMs and scale sets. The SDK's default changes with its version, so MIC pins one."""
STACK_API_VERSION: Final = "2020-06-01"
"""The newest that Azure Stack Hub's present releases serve; it gives no etags."""

CallObserver = Callable[[str, float, str], None]
"""Callback for each call: its kind (one of KINDS), its duration in seconds, and its outcome (`errors.OUTCOMES`)."""

POLL: Final = "operation_get"
KINDS: Final = ("vm_get", "vm_update", "vmss_get", "vmss_update", POLL)
"""An update counts once, with its whole operation. Each poll of the operation, and the read after it, is a separate
call."""
READ: Final = "resource_get"
"""The kind of a read of another resource, which MIC does not make."""


def default_api_version(cloud: Cloud) -> str:
    """The Compute API version that is pinned for *cloud*."""
    return STACK_API_VERSION if cloud.name.lower() == STACK_NAME.lower() else API_VERSION


def poll_pause(waited_seconds: float, running: int) -> float:
    """Return the seconds until the next poll of an operation. *running*: the operations that MIC waits for, this one
    included.

    The pause grows with the waiting time. It grows less while few operations run.
    """
    pause = max(POLL_FIRST_SECONDS, POLL_SHARE * waited_seconds)
    soon = max(POLL_SOON_SECONDS, POLL_LONG_SHARE * waited_seconds, running / POLLS_PER_SECOND)
    return min(pause, soon, POLL_LAST_SECONDS)


class GrowingPolling(AsyncARMPolling):
    """ARM polling that starts quickly and slows down. Retry-After takes precedence."""

    _waited_seconds = 0.0

    def __init__(
        self, observe: CallObserver, clock: Callable[[], float], running: Callable[[], int], **settings: Any
    ) -> None:
        """*running* returns the number of operations that MIC waits for."""
        super().__init__(**settings)
        self._running = running
        self._observe = observe
        self._clock = clock

    @override
    async def request_status(self, status_link: str) -> Any:
        began = self._clock()
        # Also the outcome of a cancelled poll, which no clause below catches.
        failure: AzureError | None = Unreachable("the call was cut off")
        try:
            response = await super().request_status(status_link)
        except SdkError as error:
            failure = translated(error)
            raise
        else:
            failure = status_error(response.http_response.status_code)
            return response
        finally:
            self._observe(POLL, self._clock() - began, outcome_of(failure))

    @override
    async def _poll(self) -> None:
        # The SDK would poll immediately and then wait, but no operation ends that early.
        if not self.finished():
            await self._delay()
        await super()._poll()

    @override
    def _extract_delay(self) -> float:
        header = self._pipeline_response.http_response.headers.get("Retry-After", "")
        # Not isdigit alone, which accepts ² too: float rejects it.
        if header.isascii() and header.isdigit():
            # A longer pause would end after the operation's own limit.
            return min(float(header), OPERATION_SECONDS)
        delay = poll_pause(self._waited_seconds, self._running())
        self._waited_seconds += delay
        return delay


class Compute:
    """Azure's VMs and scale sets. Owns its connections, not the credential; close with `aclose()`."""

    def __init__(
        self,
        credential: AsyncTokenCredential,
        cloud: Cloud,
        *,
        user_agent: str,
        api_version: str = "",
        request_seconds: float = REQUEST_SECONDS,
        ssl_context: ssl.SSLContext | None = None,
        observe: CallObserver = lambda _kind, _seconds, _outcome: None,
        clock: Callable[[], float] = time.monotonic,
        may_write: Callable[[], bool] = lambda: True,
        sign_in_action: str = CLOUD_CONFIG,
    ) -> None:
        """*may_write* is called immediately before a change is sent, after every wait for a token or a connection.
        *sign_in_action*: the next action after a failed sign-in.
        """
        self._credential = credential
        self._cloud = cloud
        self._user_agent = user_agent
        self._api_version = api_version or default_api_version(cloud)
        self._request_seconds = request_seconds
        self._ssl = ssl_context
        self._may_write = may_write
        self._sign_in_action = sign_in_action
        self._observe = observe
        self._clock = clock
        self._session: aiohttp.ClientSession | None = None
        self._clients: dict[str, ComputeManagementClient] = {}
        self._reads: ArmReads | None = None
        self._making = asyncio.Lock()
        self._running = 0
        """Operations that MIC waits for."""
        self.sign_in_problem: str | None = None
        """Why the last call had no valid token, until Azure accepts one again."""

    async def get(self, host: Host) -> HostIdentities:
        """Return the identities of *host*; `GONE` if Azure has no such host."""
        try:
            async with self._call(_kind(host, "get"), self._request_seconds):
                return await (await self._arm_reads()).get_host(host)
        except HostNotFound:
            return GONE

    async def read(self, path: str, query: Mapping[str, str]) -> bytes:
        """Return the body of the response to a GET of *path*, which is quoted. Raise AzureError."""
        async with self._call(READ, self._request_seconds):
            body: bytes = (await (await self._arm_reads()).get(path, query)).content
            return body

    async def update(self, host: Host, change: Change) -> HostIdentities:
        """Make *change*, wait for its end, and return the identities of the host; `GONE` if Azure has no such host.

        After a failure the state of the host is unknown: read it again, but not immediately after LooksThrottled. A 404
        may concern an identity in the update or the operation; only a read shows whether it concerns the host.
        """
        after = GONE
        begun = False

        def keep(response: Any, *_: Any) -> None:
            nonlocal after
            after = _read(response)

        try:
            async with self._call(_kind(host, "update"), OPERATION_SECONDS):
                # The PATCH must end while this process certainly holds the lease; the operation may last longer.
                async with asyncio.timeout(self._request_seconds):
                    operations = await self._operations(host)
                    poller = await operations.begin_update(
                        host.resource_group,
                        host.name,
                        # The SDK's models leave null out; bytes go over the wire as they are.
                        cast("IO[bytes]", change.body()),
                        content_type="application/json",
                        etag=change.etag or None,
                        match_condition=MatchConditions.IfNotModified if change.etag else None,
                        cls=keep,
                        # Polls are repeated, unlike other calls: a failed one leaves the update's outcome unknown.
                        polling=GrowingPolling(self._observe, self._clock, lambda: self._running, retry_total=3),
                        **self._options(),
                    )
                begun = True
                self._running += 1
                try:
                    await poller.result()
                finally:
                    self._running -= 1
        except HostNotFound as error:
            if (await self.get(host)).gone:
                return GONE
            # The host exists. If the update had begun, Azure had accepted it, and the 404 concerns its operation.
            raise error.taken_for(AzureError if begun else Missing) from error
        except Throttled as error:
            if not begun:
                raise
            raise error.taken_for(LooksThrottled) from error
        return after

    async def aclose(self) -> None:
        """Close all connections. May be called twice."""
        clients, self._clients, self._reads = self._clients, {}, None
        for client in clients.values():
            await client.close()
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    async def _arm_reads(self) -> ArmReads:
        if self._reads is None:
            async with self._making:
                if self._reads is None:
                    # In a thread, as the SDK runs a program (uname) to find its User-Agent.
                    self._reads = await asyncio.to_thread(self._new_arm_reads, self._open_session())
        return self._reads

    async def _operations(self, host: Host) -> Any:
        """Return the SDK's operations for the host's kind; both kinds have the same methods, which their types do not
        declare."""
        # Of two clients for one subscription only the second would be closed.
        async with self._making:
            client = self._clients.get(host.subscription)
            if client is None:
                session = self._open_session()
                # In a thread, for the same reason.
                client = await asyncio.to_thread(self._client, host.subscription, session)
                self._clients[host.subscription] = client
        return client.virtual_machine_scale_sets if isinstance(host, ScaleSet) else client.virtual_machines

    def _open_session(self) -> aiohttp.ClientSession:
        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=CONNECTIONS_MAX, ssl=self._ssl or True),
                request_class=leader_request(self._may_write),
                cookie_jar=aiohttp.DummyCookieJar(),
                # As in azure-core's own session: its responses are decompressed by azure-core.
                auto_decompress=False,
                trust_env=False,  # ArmTransport finds the proxy
            )
        return self._session

    def _new_arm_reads(self, session: aiohttp.ClientSession) -> ArmReads:
        return ArmReads(
            ArmTransport(session, timeout_seconds=self._request_seconds),
            self._credential,
            resource_manager=self._cloud.resource_manager,
            scope=self._scope,
            user_agent=self._user_agent,
            api_version=self._api_version,
        )

    def _client(self, subscription: str, session: aiohttp.ClientSession) -> ComputeManagementClient:
        return ComputeManagementClient(
            self._credential,
            subscription,
            self._cloud.resource_manager,
            credential_scopes=[self._scope],
            transport=ArmTransport(session, timeout_seconds=self._request_seconds),
            user_agent=self._user_agent,
            retry_total=0,
        )

    @property
    def _scope(self) -> str:
        return self._cloud.resource_manager_audience.rstrip("/") + "/.default"

    def _options(self) -> Mapping[str, Any]:
        return {"api_version": self._api_version}

    @asynccontextmanager
    async def _call(self, kind: str, limit_seconds: float) -> AsyncIterator[None]:
        began = self._clock()
        failure: AzureError | None = Unreachable("the call was cut off")
        try:
            async with asyncio.timeout(limit_seconds):
                yield
            failure = None
        # The last two are raised for a response that is no readable JSON.
        except (SdkError, TimeoutError, OSError, ValueError, RecursionError) as error:
            failure = translated(error, self._sign_in_action)
            raise failure from error
        finally:
            self._observe(kind, self._clock() - began, outcome_of(failure))
            # A call without a response shows nothing about the sign-in.
            if not isinstance(failure, Unreachable):
                self.sign_in_problem = failure.message if isinstance(failure, SignInFailed) else None


def _kind(host: Host, verb: str) -> str:
    return f"{'vmss' if isinstance(host, ScaleSet) else 'vm'}_{verb}"


def _read(response: Any) -> HostIdentities:
    http = response.http_response
    body = json.loads(http.text() or "{}")
    return decode_identities(body if isinstance(body, dict) else {}, http.headers.get("ETag", ""))
