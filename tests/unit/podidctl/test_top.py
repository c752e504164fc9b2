"""Counters and rates of NMI's pages, their table and its keys, and the view that refreshes."""

import asyncio
import io
import os
import pty
import select
import termios
from datetime import UTC, datetime

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from rich.console import Console, RenderableType

from nmi.refusal import Reason
from nmi.server.metrics import ServerMetrics
from nmi.tokens.metrics import TokenMetrics
from podidctl.top.live import LiveView, keyboard
from podidctl.top.reader import Counters, Reading, UnreadableMetricsError, parse
from podidctl.top.sampling import NodeSample, Sample, Sampler, rates
from podidctl.top.view import COLUMNS, Key, View, keys, ordered, render
from podidentity.kube.errors import NoResponse


def page(*, requests: int = 0, refusals: dict[Reason, int] | None = None, imds: int = 0, sign_ins: int = 0) -> str:
    """Return the text of /metrics of an NMI that has counted these events."""
    registry = CollectorRegistry()
    server, tokens = ServerMetrics(registry), TokenMetrics(registry)
    for number in range(requests):
        server.series("/metadata/identity/oauth2/token", 200 if number % 2 else 400, "shop", "").observe(1_000_000)
    for reason, count in (refusals or {}).items():
        for _ in range(count):
            server.refused(reason)
    for _ in range(imds):
        tokens.observe_imds(True, 0.1, None)
    for _ in range(sign_ins):
        tokens.observe_aad(0.1, None)
    return generate_latest(registry).decode()


def reading(at: float, uid: str = "uid", **counters: float) -> Reading:
    return Reading("n0", "kube-system/nmi", uid, at, Counters(**counters))  # type: ignore[arg-type]


def test_the_counters_of_a_page_of_nmi() -> None:
    counters = parse(page(requests=5, refusals={Reason.POLICY: 2, Reason.OVERLOADED: 1}, imds=3, sign_ins=4))

    assert (counters.requests, counters.refused, counters.imds_calls) == (5.0, 3.0, 3.0)
    assert counters.refusals["policy"] == 2.0
    assert counters.tokens == 0.0
    assert counters.oldest_token_seconds == 0.0
    assert counters.next_expiry_seconds is None, "no token is in use"
    counters = parse("aadpodidentity_nmi_index_size 3\n")
    assert counters.pods == 3.0
    assert counters.requests is counters.refused is counters.imds_calls is counters.oldest_token_seconds is None


@pytest.mark.parametrize(
    "text",
    [
        "",
        "<html>not here</html>",
        "aadpodidentity_nmi_index_size three\n",
        'aadpodidentity_nmi_refusals_total{reason="policy 1\n',
        "aadpodidentity_nmi_index_size NaN\n",
        "aadpodidentity_nmi_index_size +Inf\n",
        "other_metric 1\n",
        f"aadpodidentity_nmi_index_size {'9' * 400}\n",
        f"aadpodidentity_nmi_index_size 1 {'9' * 400}\n",
        "aadpodidentity_nmi_index_size 1e308\n" * 2,
        "\n".join(f'aadpodidentity_nmi_operations_duration_seconds_count{{a="{n}"}} 1e308' for n in "12"),
    ],
)
def test_other_pages_are_unreadable(text: str) -> None:
    with pytest.raises(UnreadableMetricsError):
        parse(text)


def test_reasons_and_metrics_that_nmi_does_not_have_cannot_reach_the_output() -> None:
    counters = parse(
        'aadpodidentity_nmi_refusals_total{reason="\x1b[31m[red]"} 7\n'
        'aadpodidentity_nmi_refusals_total{reason="policy"} 1\n'
        'aadpodidentity_nmi_refusals_total{reason="later"} 2\n'
        "aadpodidentity_nmi_index_size_of_another 9\naadpodidentity_nmi_index_size 2\n" + "x" * 100_000
    )
    assert counters.refusals == {"other": 9.0, "policy": 1.0}
    assert counters.pods == 2.0


def test_rates_are_differences_over_the_time_between_the_reads() -> None:
    before = reading(10.0, requests=100.0, imds_calls=5.0)
    after = reading(14.0, requests=300.0, imds_calls=5.0)
    assert rates(before, after) == (50.0, None, 0.0)


@pytest.mark.parametrize(
    ("before", "cause"),
    [
        (None, "no former read"),
        (reading(10.0, uid="other", requests=1.0), "another pod"),
        (reading(13.9, requests=1.0), "a page that NMI rendered once"),
        (reading(10.0, requests=400.0), "a restarted NMI"),
        (reading(10.0, requests=1.0, imds_calls=9.0), "a restarted NMI whose requests are more than before"),
    ],
)
def test_reads_that_are_not_comparable_have_no_rate(before: Reading | None, cause: str) -> None:
    assert rates(before, reading(14.0, requests=300.0, imds_calls=5.0)) == (None, None, None), cause


TITLES = [column.title for column in COLUMNS]
BUSY = NodeSample(
    node="b",
    pod="kube-system/nmi-b",
    pods=12,
    requests_per_second=1234.5,
    refusals_per_second=0.5,
    refusals={"policy": 3, "still_assigning": 40},
    imds_calls_per_second=0.1,
    imds_calls=7,
    tokens=4,
    oldest_token_seconds=3725.0,
    next_expiry_seconds=125.0,
)
IDLE = NodeSample(node="a", pod="kube-system/nmi-a", pods=0, requests_per_second=0.0)
LOST = NodeSample(node="c", pod="kube-system/nmi-c", problem="no response within 5 s")


def sample(*nodes: NodeSample) -> Sample:
    return Sample(time="2026-11-27T12:00:00Z", interval_seconds=2.0, nodes=list(nodes))


def text(shown: Sample, view: View = View(), **options: object) -> str:  # noqa: B008 - it is immutable
    stream = io.StringIO()
    console = Console(file=stream, width=200, force_terminal=False, color_system=None)
    console.print(render(shown, view, **options))  # type: ignore[arg-type]
    return stream.getvalue()


def rows(shown: str, node: str) -> list[list[str]]:
    return [cells for line in shown.splitlines() if (cells := line.split())[:1] == [node]]


def sorted_by(title: str, *, descending: bool = True) -> View:
    return View(column=TITLES.index(title), descending=descending)


def names(view: View) -> list[str]:
    return [node_sample.node for node_sample in ordered([BUSY, LOST, IDLE], view)]


def test_the_table_has_all_numbers_and_totals() -> None:
    shown = text(sample(BUSY, IDLE, LOST))

    (row,) = rows(shown, "b")
    assert " ".join(row) == "b kube-system/nmi-b 12 1,234.5 0.5 43 still_assigning 0.1 4 1h02m 2m05s"
    assert "2 nodes, 1 unknown  1,234.5 requests/s  0.5 refusals/s  0.1 IMDS calls/s" in shown
    shown = text(sample(BUSY, LOST))
    assert rows(shown, "c") == [["c", "kube-system/nmi-c", "unknown"]]
    assert "c: no response within 5 s" in shown


def test_unknown_values_are_last_in_both_directions() -> None:
    assert names(sorted_by("REQ/S")) == ["b", "a", "c"]
    assert names(sorted_by("REQ/S", descending=False)) == ["a", "b", "c"]
    assert names(sorted_by("NODE", descending=False)) == ["a", "b", "c"]
    assert names(sorted_by("NODE")) == ["c", "b", "a"]
    assert names(sorted_by("TOKENS", descending=False)) == ["b", "c", "a"], "no value is known of a and c"


@pytest.mark.parametrize("title", TITLES)
def test_every_column_can_be_sorted(title: str) -> None:
    assert sorted(names(sorted_by(title))) == ["a", "b", "c"]


def test_arrow_keys_select_the_column_and_r_reverses() -> None:
    view = View()
    for _ in range(TITLES.index("REQ/S")):
        view = view.press(Key.RIGHT, 3)
    assert (TITLES[view.column], view.descending) == ("REQ/S", True)
    assert "REQ/S ▼" in text(sample(BUSY), view, interactive=True)
    assert "REQ/S ▲" in text(sample(BUSY), view.press(Key.REVERSE, 3), interactive=True)
    assert TITLES[View().press(Key.LEFT, 3).column] == TITLES[-1]


def test_scrolling_stops_at_the_first_and_the_last_node() -> None:
    many = sample(*(NodeSample(node=f"node-{number:02}", pod="kube-system/nmi") for number in range(30)))
    view = View()
    assert view.press(Key.UP, 30) == view
    view = view.press(Key.PAGE_DOWN, 30).press(Key.DOWN, 30)
    shown = text(many, view, rows=5, interactive=True)
    assert "node-11" in shown
    assert "node-10" not in shown
    assert "nodes 12 to 16 of 30" in shown
    for _ in range(10):
        view = view.press(Key.PAGE_DOWN, 30)
    assert view.first_row == 29
    assert "nodes 2 to 2 of 2" in text(sample(BUSY, IDLE), view, rows=5), "nodes have been removed since"


@pytest.mark.parametrize(
    ("typed", "expected"),
    [
        (b"q", [Key.QUIT]),
        (b"\x03", [Key.QUIT]),
        (b"\x1b[C\x1b[C\x1b[Dr", [Key.RIGHT, Key.RIGHT, Key.LEFT, Key.REVERSE]),
        (b"\x1bOA\x1b[B\x1b[5~\x1b[6~", [Key.UP, Key.DOWN, Key.PAGE_UP, Key.PAGE_DOWN]),
        (b"\x1b[15~\x1b[Z\xff\x00xyz", []),
        (b"\x1b", []),
        (b"", []),
    ],
)
def test_bytes_of_the_terminal_are_keys(typed: bytes, expected: list[Key]) -> None:
    assert keys(typed) == expected


def test_hostile_names_have_neither_markup_nor_control_characters() -> None:
    hostile = "evil\x1b[2J\n[red]x[/red]\u202e"
    shown = text(
        sample(
            NodeSample(node=hostile, pod=hostile, pods=1, refusals={hostile: 1}),
            NodeSample(node=hostile, pod=hostile, problem=hostile),
        ),
        failure="[bold]failed[/bold]",
    )
    assert "\x1b" not in shown
    assert "\u202e" not in shown
    assert "[red]x[/red]" in shown
    assert "[bold]failed[/bold]" in shown


NOW = datetime(2026, 11, 27, 12, tzinfo=UTC)


class Nodes:
    """Two nodes: the requests of the first grow by 20 a second, the second one cannot be read."""

    def __init__(self) -> None:
        self.reads: list[float] = []
        self.failing = False

    async def read(self) -> list[Reading]:
        now = asyncio.get_running_loop().time()
        self.reads.append(now)
        if self.failing:
            raise NoResponse("no response within 30 s")
        counted = Counters(requests=20.0 * now, refusals={"policy": now}, imds_calls=0.0)
        return [
            Reading("n0", "kube-system/nmi-0", "uid-0", now, counted),
            Reading("n1", "kube-system/nmi-1", problem="not allowed"),
        ]


class Running:
    """A live view with an interval of two seconds."""

    def __init__(self) -> None:
        self.nodes = Nodes()
        self.frames: list[str] = []
        self.typed: asyncio.Queue[bytes] = asyncio.Queue()
        sampler = Sampler(self.nodes.read, now=lambda: NOW)
        self.live = LiveView(sampler, self.draw, interval_seconds=2.0, height=lambda: 30)
        self.task = asyncio.create_task(self.live.run(self.typed))

    def draw(self, shown: RenderableType) -> None:
        stream = io.StringIO()
        Console(file=stream, width=160, color_system=None).print(shown)
        self.frames.append(stream.getvalue())

    async def type(self, data: bytes) -> None:
        self.typed.put_nowait(data)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        await asyncio.sleep(0)


async def test_the_view_is_refreshed_at_the_interval() -> None:
    running = Running()
    await asyncio.sleep(5.0)
    await running.type(b"q")
    await running.task

    first, second = running.nodes.reads[:2]
    assert (len(running.nodes.reads), second - first) == (3, 2.0)
    assert "0.0 requests/s" in running.frames[0], "the first read has no rate"
    assert "20.0 requests/s  1.0 refusals/s  0.0 IMDS calls/s" in running.frames[1]
    assert "n1: not allowed" in running.frames[1]


async def test_a_key_redraws_immediately_and_q_quits() -> None:
    running = Running()
    await asyncio.sleep(0.1)
    await running.type(b"\x1b[C\x1b[C")
    assert COLUMNS[running.live.view.column].title == "PODS"
    assert "PODS ▼" in running.frames[-1]
    await running.type(b"r")
    assert "PODS ▲" in running.frames[-1]
    assert len(running.nodes.reads) == 1
    await running.type(b"q")
    await asyncio.wait_for(running.task, 0.1)


async def test_a_failed_refresh_is_shown_and_repeated() -> None:
    running = Running()
    await asyncio.sleep(0.1)
    running.nodes.failing = True
    await asyncio.sleep(2.0)
    assert "cannot list the pods of NMI: no response within 30 s; trying again" in running.frames[-1]
    assert "n0" in running.frames[-1], "the last sample remains"
    running.nodes.failing = False
    await asyncio.sleep(2.0)
    assert "cannot list" not in running.frames[-1]
    await running.type(b"q")
    await running.task


async def test_a_failed_first_read_ends_the_command() -> None:
    running = Running()
    running.nodes.failing = True
    with pytest.raises(NoResponse):
        await running.task


async def test_the_terminal_gets_its_mode_back() -> None:
    controller, terminal = pty.openpty()
    before = termios.tcgetattr(terminal)
    with keyboard(terminal) as typed:
        assert not termios.tcgetattr(terminal)[3] & termios.ICANON
        os.write(controller, b"\x1b[C")
        select.select([terminal], [], [], 60)  # the kernel delivers it later
        assert await asyncio.wait_for(typed.get(), 5) == b"\x1b[C"
    assert termios.tcgetattr(terminal) == before
    os.close(terminal)
    os.close(controller)


async def test_a_closed_terminal_quits() -> None:
    controller, terminal = pty.openpty()
    with keyboard(terminal) as typed:
        os.close(controller)
        select.select([terminal], [], [], 60)
        assert await asyncio.wait_for(typed.get(), 5) == b"q"
        assert not asyncio.get_running_loop().remove_reader(terminal), "it is not read again"
    os.close(terminal)
