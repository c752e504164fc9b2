"""Verification reads: shared, bounded reads from the API server before a token for a doubtful pod.

While a pod is ending, or a watch is silent, the index may be behind. Then each grant needs a read. All requests of one
pod share one read, which is valid for a second from its sending. After a failure no read is sent for a few seconds, so
that requests do not queue behind its time limit.

`PendingReads` finds the reads whose response may be older than what NMI has learned in the meantime.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Coroutine, Hashable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final, Generic, TypeVar

from podidentity.kube.client import Client
from podidentity.kube.errors import MALFORMED, ApiError, NotFound, ServerError
from podidentity.resources import (
    ASSIGNED_IDENTITIES,
    BINDINGS,
    EXCEPTIONS,
    IDENTITIES,
    PODS,
    AzureAssignedIdentity,
    AzureIdentity,
    AzureIdentityBinding,
    AzurePodIdentityException,
    Pod,
)

log = logging.getLogger(__name__)

VALID_SECONDS: Final = 1.0
READ_SECONDS: Final = 2.0
"""A read of one object takes milliseconds. The request that waits for it also waits for a token."""
UNANSWERED_SECONDS: Final = 5.0

V = TypeVar("V")


class UnansweredError(Exception):
    """The API server did not respond in time, or not with a usable response; the cause is chained."""


class _SharedReads(Generic[V]):
    """One concurrent read per key. Its result serves all requests within VALID_SECONDS of its sending."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._reads: dict[Hashable, tuple[float, asyncio.Task[V]]] = {}

    async def get(self, key: Hashable, read: Callable[[], Coroutine[Any, Any, V]]) -> V:
        now = self._clock()
        sent, task = self._reads.get(key, (0.0, None))
        # Its age counts from the sending: the API server may have read the object immediately after that.
        if task is None or task.cancelled() or now - sent >= VALID_SECONDS:
            self._forget_old(now)
            task = asyncio.create_task(read(), name="verify a doubtful pod")
            task.add_done_callback(_seen)
            self._reads[key] = (now, task)
        # A client that disconnects must not cancel the read of the other requests.
        return await asyncio.shield(task)

    async def aclose(self) -> None:
        tasks = [task for _, task in self._reads.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._reads.clear()

    def _forget_old(self, now: float) -> None:
        for key, (sent, task) in list(self._reads.items()):
            if task.done() and now - sent >= VALID_SECONDS:
                del self._reads[key]


class VerificationReads:
    """The current state on the API server: of a pod, of its identities, of the exceptions of its namespace."""

    def __init__(self, client: Client, clock: Callable[[], float] = time.monotonic) -> None:
        self._client = client
        self._clock = clock
        self._pods: _SharedReads[Pod | None] = _SharedReads(clock)
        self._assigned: _SharedReads[Sequence[AzureAssignedIdentity]] = _SharedReads(clock)
        self._bindings: _SharedReads[Sequence[AzureIdentityBinding]] = _SharedReads(clock)
        self._identities: _SharedReads[Sequence[AzureIdentity]] = _SharedReads(clock)
        self._exceptions: _SharedReads[Sequence[AzurePodIdentityException]] = _SharedReads(clock)
        self._unanswered_until = float("-inf")
        self._slow_until: dict[str, float] = {}
        """By namespace: a tenant may have filled it with more objects than a read can list in time."""
        self.failed = 0
        """Reads without a response, or with an unusable one."""

    async def pod(self, namespace: str, name: str, generation_key: str) -> Pod | None:
        """Return the current pod of that name, or None if there is none. Raises UnansweredError.

        Shared by requests with the same *generation_key*: an earlier read proves nothing about a later pod of the same
        name, nor about later changes.
        """
        return await self._pods.get(
            (namespace, name, generation_key), lambda: self._limited(lambda: self._get_pod(namespace, name))
        )

    async def pod_now(self, namespace: str, name: str) -> Pod | None:
        """Return the same by a new read that is not shared. Raises UnansweredError."""
        return await self._limited(lambda: self._get_pod(namespace, name))

    async def assigned(self, label_selector: str) -> Sequence[AzureAssignedIdentity]:
        """Return the assigned identities that a watch with this selector delivers. Raises UnansweredError."""
        return await self._assigned.get(
            label_selector,
            lambda: self._limited(lambda: self._client.list(ASSIGNED_IDENTITIES, label_selector=label_selector)),
        )

    async def bindings(self, namespace: str) -> Sequence[AzureIdentityBinding]:
        """Return the current bindings of *namespace*. Raises UnansweredError."""
        return await self._bindings.get(
            namespace, lambda: self._limited(lambda: self._client.list(BINDINGS, namespace), namespace)
        )

    async def identities(self, namespace: str) -> Sequence[AzureIdentity]:
        """Return the current identities of *namespace*. Raises UnansweredError."""
        return await self._identities.get(
            namespace, lambda: self._limited(lambda: self._client.list(IDENTITIES, namespace), namespace)
        )

    async def exceptions(self, namespace: str) -> Sequence[AzurePodIdentityException]:
        """Return the current exceptions of *namespace*. Raises UnansweredError."""
        return await self._exceptions.get(
            namespace, lambda: self._limited(lambda: self._client.list(EXCEPTIONS, namespace), namespace)
        )

    async def at_address(self, address: str, node: str) -> Sequence[Pod]:
        """Return the pods of *node* that the API server lists at *address*. Not shared. Raises UnansweredError."""
        # Only pods of this node: the kubelet of another one may write any address into its pods' status.
        selector = f"status.podIP={address},spec.nodeName={node}"
        return await self._limited(lambda: self._client.list(PODS, field_selector=selector))

    async def aclose(self) -> None:
        for reads in (self._pods, self._assigned, self._bindings, self._identities, self._exceptions):
            await reads.aclose()

    async def _get_pod(self, namespace: str, name: str) -> Pod | None:
        try:
            return await self._client.get(PODS, namespace, name)
        except NotFound:
            return None

    async def _limited(self, read: Callable[[], Awaitable[V]], namespace: str = "") -> V:
        """Return the result of *read*. If a list of one *namespace* takes too long, other reads continue.

        It calls *read* itself: a coroutine of a task that is cancelled before its first step would never be awaited.
        """
        # Requests must not queue behind the time limit of a server that has just not responded.
        if self._clock() < max(self._unanswered_until, self._slow_until.get(namespace, 0.0)):
            raise UnansweredError("it did not respond to the previous read")
        try:
            async with asyncio.timeout(READ_SECONDS):
                return await read()
        except (ApiError, TimeoutError) as error:
            now = self._clock()
            # A tenant who fills a namespace must not stop the verification of pods in others, nor must an object that
            # cannot be decoded: the API server does respond.
            if namespace and isinstance(error, TimeoutError):
                self._slow_until = {name: until for name, until in self._slow_until.items() if until > now}
                self._slow_until[namespace] = now + UNANSWERED_SECONDS
            elif not (isinstance(error, ServerError) and error.reason == MALFORMED):
                self._unanswered_until = now + UNANSWERED_SECONDS
            self.failed += 1
            log.warning(
                "no response to a verification read; check the API server, and that NMI's role allows get and list",
                extra={"error": str(error) or type(error).__name__},
            )
            raise UnansweredError("the API server did not respond") from error


def _seen(task: "asyncio.Task[V]") -> None:
    """Mark the error as retrieved, since no request may wait for it any more."""
    if not task.cancelled():
        task.exception()


class PendingRead:
    """One read in flight."""

    def __init__(self) -> None:
        self._changed: set[Hashable] = set()

    def note(self, subject: Hashable) -> None:
        self._changed.add(subject)

    def is_outdated(self, *subjects: Hashable) -> bool:
        """Return whether one of *subjects* has changed since the read was sent."""
        return not self._changed.isdisjoint(subjects)


class PendingReads:
    """All reads in flight, and the changes that NMI has learned of since each of them was sent.

    The response to a read may be older than a watch event or a netlink report that arrived after the read was sent.
    Nothing about an address or a pod follows from a read during which either has changed. Subjects are addresses
    (strings) and keys of pods (pairs).
    """

    def __init__(self) -> None:
        self._reads: set[PendingRead] = set()

    @contextmanager
    def read(self) -> Iterator[PendingRead]:
        """Track a read from its sending to the use of its response."""
        read = PendingRead()
        self._reads.add(read)
        try:
            yield read
        finally:
            self._reads.discard(read)

    def changed(self, subject: Hashable) -> None:
        """Record a change of *subject* for every read in flight."""
        # Most changes come without a read in flight, so a change costs nothing without one.
        for read in self._reads:
            read.note(subject)
