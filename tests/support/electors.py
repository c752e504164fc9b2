"""Candidates of leader elections, this project's and the Go implementation's, for one lock."""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any, Final

import pytest

from podidentity.kube.client import Client
from podidentity.kube.lease import Elector
from tests.support.go_implementation_lock import ReferenceElector, record_of, stored

SECONDS: Final = 4.0
LONG_SECONDS: Final = 40.0
"""Of a lock that no test waits to expire."""


class Electors:
    """Starts candidates for the lock `mic` of the namespace. They end with the test."""

    def __init__(self, client: Client, mics: Client, namespace: str, clock: Callable[[], float]) -> None:
        self.client = client
        self.mics = mics
        """MIC's own, by its name."""
        self.namespace = namespace
        self.clock = clock
        self._tasks: list[asyncio.Task[None]] = []

    def ours(
        self, identity: str = "ours", seconds: float = SECONDS, *, with_go_implementation: bool = True, **options: Any
    ) -> tuple[Elector, "asyncio.Task[None]"]:
        """Start one of this project's, with *options* of Elector."""
        elector = Elector(
            self.mics,
            namespace=self.namespace,
            name="mic",
            identity=identity,
            duration_seconds=seconds,
            with_go_implementation=with_go_implementation,
            **{"clock": self.clock, **options},
        )
        return elector, self._run(elector.run())

    def alone(self, identity: str) -> tuple[Elector, "asyncio.Task[None]"]:
        """Start one of this project's that knows of no Go implementation."""
        return self.ours(identity, with_go_implementation=False)

    def reference(self, seconds: float = SECONDS) -> tuple[ReferenceElector, "asyncio.Task[None]"]:
        elector = ReferenceElector(self.client, self.namespace, "mic", seconds=seconds, clock=self.clock)
        return elector, self._run(elector.run())

    async def record(self) -> dict[str, Any]:
        return record_of(await stored(self.client, self.namespace, "mic"))

    def _run(self, work: Coroutine[Any, Any, None]) -> "asyncio.Task[None]":
        self._tasks.append(asyncio.create_task(work))
        return self._tasks[-1]

    async def aclose(self) -> None:
        for task in self._tasks:
            await ended(task)


async def ended(task: "asyncio.Task[Any]") -> None:
    """End the task, as a kill would."""
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


@pytest.fixture
async def electors(client: Client, mics: Client, namespace: str, clock: Callable[[], float]) -> AsyncIterator[Electors]:
    made = Electors(client, mics, namespace, clock)
    yield made
    await made.aclose()
