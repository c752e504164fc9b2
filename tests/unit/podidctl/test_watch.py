"""A watched report is printed again only when its first line or its next action has changed."""

import asyncio
import io
from datetime import UTC, datetime

import pytest
from rich.console import Console

from podidctl.commands.explain import WATCH_SECONDS, watch_report
from podidctl.report.documents import PodsExplanation
from podidentity.kube.errors import Forbidden


def report(summary: str, action: str = "") -> PodsExplanation:
    """A report with this first line."""
    return PodsExplanation(summary=summary, counts=summary, next=action, links=[], causes=[], served=[], pods=[])


MIDNIGHT = datetime(2026, 1, 1, 23, 59, 59, tzinfo=UTC)


class EndOfTestError(Exception):
    """The test has no further report."""


async def watched(*reports: PodsExplanation | Forbidden) -> tuple[list[str], float]:
    """Return the printed lines, and the seconds that passed."""
    remaining, to = iter(reports), io.StringIO()

    async def read() -> PodsExplanation:
        response = next(remaining, None)
        if response is None:
            raise EndOfTestError
        if isinstance(response, Forbidden):
            raise response
        return response

    loop = asyncio.get_running_loop()
    began = loop.time()
    with pytest.raises(EndOfTestError):
        await watch_report(read, Console(file=to), lambda: MIDNIGHT)
    return to.getvalue().splitlines(), loop.time() - began


async def test_only_changes_are_printed() -> None:
    broken, granted = report("broken: 2 of 7 pods", "set it"), report("granted: 7 pods")
    lines, seconds = await watched(broken, broken, report("broken: 2 of 7 pods", "create it"), granted, granted, broken)
    assert lines == [line for shown in (broken, broken, granted, broken) for line in ("23:59:59", shown.summary)]
    assert seconds == 6 * WATCH_SECONDS


async def test_a_later_time_or_duration_alone_is_no_change() -> None:
    lines, _ = await watched(
        report("refused at 12:00:01 UTC"),
        report("refused at 12:00:06 UTC"),
        report("Created for 5 s"),
        report("Created for 10 s"),
    )
    assert [line.rstrip(": ") for line in lines[1::2]] == ["refused at 12:00:01 UTC", "Created for 5 s"]


async def test_a_failed_read_is_printed_once_and_the_first_one_ends_the_command() -> None:
    failure, granted = Forbidden(403, "Forbidden", "no\x1b"), report("granted: 7 pods")
    lines, _ = await watched(granted, failure, failure, granted)
    assert lines == [
        *("23:59:59", granted.summary),
        "23:59:59 cannot read the cluster: 403 Forbidden: no ; trying again",
        *("23:59:59", granted.summary),
    ]
    with pytest.raises(Forbidden):
        await watched(failure)
