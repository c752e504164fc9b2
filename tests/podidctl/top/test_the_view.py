"""The table of a sample, and keys: order, direction, scrolling. Names and metrics are untrusted."""

import io

import pytest
from rich.console import Console

from podidctl.top.schema import NodeSample, Sample
from podidctl.top.view import COLUMNS, Key, View, keys, ordered, render

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
    return [each.node for each in ordered([BUSY, LOST, IDLE], view)]


def test_the_table_has_all_numbers_and_totals() -> None:
    shown = text(sample(BUSY, IDLE, LOST))

    (row,) = rows(shown, "b")
    assert " ".join(row) == "b kube-system/nmi-b 12 1,234.5 0.5 43 still_assigning 0.1 4 1h02m 2m05s"
    assert "2 nodes, 1 unknown  1,234.5 requests/s  0.5 refusals/s  0.1 IMDS calls/s" in shown


def test_an_unreadable_node_is_unknown_with_the_reason() -> None:
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
