"""The pages of all NMIs are in the order of the pods, and those that do not come in time are unread."""

import asyncio
from typing import Any, cast

import msgspec
import pytest

from podidctl.diagnosis import metrics_pages
from podidctl.diagnosis.daemons import Daemon
from podidctl.diagnosis.metrics_pages import MetricsPage, Unread, read_pages
from podidentity.kube.client import Client


class Pods:
    """An API server with a pod of NMI for each name."""

    def __init__(self, *names: str) -> None:
        self._names = names

    async def list(self, *_: Any, **__: Any) -> list[Daemon]:
        return msgspec.convert([{"metadata": {"name": name}} for name in self._names], list[Daemon])


@pytest.fixture(autouse=True)
def pages(monkeypatch: pytest.MonkeyPatch) -> None:
    """The pods whose name starts with `slow` take a minute to respond, the others a second."""

    async def read_page(_: Any, daemon: Daemon) -> MetricsPage:
        await asyncio.sleep(60 if daemon.metadata.name.startswith("slow") else 1)
        return MetricsPage("page", 9090)

    monkeypatch.setattr(metrics_pages, "read_page", read_page)


async def read(within_seconds: float | None, *names: str) -> list[tuple[str, str]]:
    def use(daemon: Daemon, page: MetricsPage | Unread) -> tuple[str, str]:
        return daemon.metadata.name, page.text if isinstance(page, MetricsPage) else page.problem

    return await read_pages(cast("Client", Pods(*names)), use, within_seconds)


async def test_a_page_that_does_not_come_in_time_is_unread_and_the_others_are_not() -> None:
    expected = [("a", "page"), ("slow", "no response within 30 s"), ("z", "page")]
    assert await read(30.0, "a", "slow", "z") == expected


async def test_without_a_limit_every_page_is_awaited() -> None:
    names = [f"slow-{number:02}" for number in range(metrics_pages.CONCURRENT_MAX + 1)]
    assert await read(None, *names) == [(name, "page") for name in names]


async def test_a_cluster_without_nmi_has_no_pages() -> None:
    assert await read(30.0) == []
