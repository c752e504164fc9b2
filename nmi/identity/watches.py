"""The watches, each with the name that metrics and probes use, the detection of silent ones, and a handler."""

import asyncio
import random as random_module
import time
from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType
from typing import Any, Final, Generic, TypeVar

from podidentity.kube.client import Client
from podidentity.kube.informer import SILENCE_SECONDS, Informer
from podidentity.kube.object_store import Handler
from podidentity.object_limits import reduced
from podidentity.resources import Kind, Resource
from podidentity.telemetry.log_limit import LogLimit

T = TypeVar("T", bound=Resource)

GRACE_SECONDS: Final = 5.0
"""Added to a watch's own deadline on silence, so that a watch which reconnects in time suspends nothing."""

AffectedPods = tuple[str, str]
"""The pods whose identities or exemptions a change may affect: namespace and name. An empty name means every pod of the
namespace."""


class PodUpdates(Generic[T]):
    """The handler of a watch whose objects give pods identities or exemptions.

    It applies each change to these objects, and updates the affected pods before it returns, so that no decision uses
    the former state. An iterator may apply a part of a change after the update of the pods that it has yielded.
    """

    def __init__(
        self,
        upserted: Callable[[T | None, T], Iterable[AffectedPods]],
        deleted: Callable[[T], Iterable[AffectedPods]],
        update: Callable[[AffectedPods], None],
    ) -> None:
        """*upserted* and *deleted* apply a change and return the affected pods. *update* updates these."""
        self._upserted = upserted
        self._deleted = deleted
        self._update = update

    def upserted(self, old: T | None, new: T) -> None:
        for pods in self._upserted(old, new):
            self._update(pods)

    def deleted(self, old: T) -> None:
        for pods in self._deleted(old):
            self._update(pods)


class Watches:
    """Informers by name, all with the same client, clock and deadline. Add them first, then run them."""

    def __init__(
        self,
        client: Client,
        *,
        on_doubt: Callable[[], None] = lambda: None,
        silence_seconds: float = SILENCE_SECONDS,
        log_limit: LogLimit | None = None,
        clock: Callable[[], float] = time.monotonic,
        random: Callable[[], float] = random_module.random,
    ) -> None:
        """Store the settings.

        *on_doubt* is called when a watch becomes silent immediately because its handler has failed. *log_limit* bounds
        the lines about failures before the first lists are complete.
        """
        self._client = client
        self._on_doubt = on_doubt
        self._silence_seconds = silence_seconds
        self._log_limit = log_limit
        self._clock = clock
        self._random = random
        self._informers: dict[str, Informer[Any]] = {}
        self.by_name: Mapping[str, Informer[Any]] = MappingProxyType(self._informers)
        """A live view."""

    def add(
        self,
        name: str,
        kind: Kind[T],
        handler: Handler[T],
        *,
        field_selector: str = "",
        label_selector: str = "",
        keep: Callable[[T], T] = reduced,
    ) -> None:
        """Watch *kind*, in all namespaces, once `run` runs. *keep* returns the part of an object that is stored."""
        self._informers[name] = Informer(
            self._client,
            kind,
            handler,
            field_selector=field_selector,
            label_selector=label_selector,
            keep=keep,
            on_doubt=self._on_doubt,
            silence_seconds=self._silence_seconds,
            log_limit=self._log_limit,
            clock=self._clock,
            random=self._random,
        )

    async def run(self) -> None:
        """Run every watch until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            for name, informer in self._informers.items():
                tasks.create_task(informer.run(), name=f"watch {name.replace('_', ' ')}")

    async def synced(self) -> None:
        """Wait until every first list has been delivered."""
        for informer in self._informers.values():
            await informer.synced()

    def incomplete(self) -> dict[str, str]:
        """Return the watches whose first list is not complete, by name, each with the reason."""
        return {name: informer.problem for name, informer in self._informers.items() if informer.problem is not None}

    def silent(self) -> list[str]:
        """Return the names of the watches that are silent past their deadline, or have not delivered anything yet."""
        # A watch that has never delivered counts too: its staleness is infinite.
        limit = self._silence_seconds + GRACE_SECONDS
        return [name for name, informer in self._informers.items() if informer.staleness_seconds() > limit]

    def patience(self) -> float:
        """Return the seconds until the next watch may become silent; negative if one is."""
        oldest = max((informer.staleness_seconds() for informer in self._informers.values()), default=0.0)
        return self._silence_seconds + GRACE_SECONDS - oldest
