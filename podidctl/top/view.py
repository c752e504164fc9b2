"""The table of one sample, and the effect of keys on it: sort column, direction, first row. Pure."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from typing import Any, Final

from rich.box import SIMPLE
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from podidctl.top.sampling import NodeSample, Sample
from podidentity.report import plain

UNKNOWN: Final = "-"
NAME_COLUMNS: Final = 2
"""The first columns have the names, which are also known of a node without metrics."""
Value = float | str | None


@dataclass(frozen=True, slots=True)
class Column:
    """A column. *value* is the sort key; None is sorted to the end in both directions."""

    title: str
    value: Callable[[NodeSample], Value]
    text: Callable[[Any], str] = str
    """The text of a value other than None."""
    descends: bool = True
    """Whether the first selection sorts the largest value to the top."""

    def cell(self, node: NodeSample) -> str:
        value = self.value(node)
        return UNKNOWN if value is None else self.text(value)


def _duration(seconds: float) -> str:
    """Return a duration in its two largest units."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02}s"
    return f"{whole // 3600}h{whole % 3600 // 60:02}m"


def _refused(node: NodeSample) -> int | None:
    return sum(node.refusals.values()) if not node.problem else None


def _reason(node: NodeSample) -> str:
    """Return the most frequent reason."""
    return max(node.refusals, key=lambda reason: (node.refusals[reason], reason), default="")


_COUNT: Final = "{:,.0f}".format
_PER_SECOND: Final = "{:,.1f}".format
COLUMNS: Final[Sequence[Column]] = (
    Column("NODE", lambda node: node.node, descends=False),
    Column("NMI", lambda node: node.pod, descends=False),
    Column("PODS", lambda node: node.pods, _COUNT),
    Column("REQ/S", lambda node: node.requests_per_second, _PER_SECOND),
    Column("REFUSED/S", lambda node: node.refusals_per_second, _PER_SECOND),
    Column("REFUSED", _refused, _COUNT),
    Column("MOSTLY", _reason, descends=False),
    Column("IMDS/S", lambda node: node.imds_calls_per_second, _PER_SECOND),
    Column("TOKENS", lambda node: node.tokens, _COUNT),
    Column("OLDEST", lambda node: node.oldest_token_seconds, _duration),
    Column("EXPIRES", lambda node: node.next_expiry_seconds, _duration),
)


class Key(Enum):
    """A key that the view knows."""

    LEFT = "left"
    RIGHT = "right"
    UP = "up"
    DOWN = "down"
    PAGE_UP = "page up"
    PAGE_DOWN = "page down"
    REVERSE = "reverse"
    QUIT = "quit"


_KEYS: Final = {
    b"\x1b[D": Key.LEFT,
    b"\x1bOD": Key.LEFT,
    b"<": Key.LEFT,
    b"\x1b[C": Key.RIGHT,
    b"\x1bOC": Key.RIGHT,
    b">": Key.RIGHT,
    b"\x1b[A": Key.UP,
    b"\x1bOA": Key.UP,
    b"k": Key.UP,
    b"\x1b[B": Key.DOWN,
    b"\x1bOB": Key.DOWN,
    b"j": Key.DOWN,
    b"\x1b[5~": Key.PAGE_UP,
    b"\x1b[6~": Key.PAGE_DOWN,
    b"r": Key.REVERSE,
    b"q": Key.QUIT,
    b"Q": Key.QUIT,
    b"\x03": Key.QUIT,
}
PAGE_ROWS: Final = 10


def keys(typed: bytes) -> list[Key]:
    """Return the known keys in the bytes of one read from the terminal. Unknown ones are ignored."""
    pressed: list[Key] = []
    while typed:
        size = next((size for size in (4, 3, 1) if typed[:size] in _KEYS), 0)
        if size:
            pressed.append(_KEYS[typed[:size]])
        typed = typed[size or 1 :]
    return pressed


@dataclass(frozen=True, slots=True)
class View:
    """The operator's selection."""

    column: int = 0
    descending: bool = False
    first_row: int = 0
    quit: bool = False

    def press(self, key: Key, rows: int) -> "View":
        """Return the view after *key*; *rows* is the number of nodes."""
        match key:
            case Key.QUIT:
                return replace(self, quit=True)
            case Key.REVERSE:
                return replace(self, descending=not self.descending)
            case Key.LEFT | Key.RIGHT:
                column = (self.column + (1 if key is Key.RIGHT else -1)) % len(COLUMNS)
                return replace(self, column=column, descending=COLUMNS[column].descends)
            case Key.UP | Key.DOWN | Key.PAGE_UP | Key.PAGE_DOWN:
                step = {Key.UP: -1, Key.DOWN: 1, Key.PAGE_UP: -PAGE_ROWS, Key.PAGE_DOWN: PAGE_ROWS}[key]
                return replace(self, first_row=max(0, min(self.first_row + step, rows - 1)))


def ordered(nodes: Sequence[NodeSample], view: View) -> list[NodeSample]:
    """Return the nodes in the order of *view*, unknown values last."""
    value = COLUMNS[view.column].value
    known: list[NodeSample] = []
    unknown: list[NodeSample] = []
    for node in nodes:
        is_known = value(node) is not None and (not node.problem or view.column < NAME_COLUMNS)
        (known if is_known else unknown).append(node)
    # Equal values keep the order of the names, in both directions.
    return sorted(known, key=lambda node: _key(value(node)), reverse=view.descending) + unknown


def _key(value: Value) -> tuple[float, str]:
    return (0.0, value) if isinstance(value, str) else (value or 0.0, "")


def render(
    sample: Sample, view: View, *, rows: int | None = None, interactive: bool = False, failure: str = ""
) -> RenderableType:
    """Return the table of at most *rows* nodes, with totals. Names are untrusted: no markup, no control characters.

    *failure* is a line about the last refresh.
    """
    nodes = ordered(sample.nodes, view)
    first = min(view.first_row, max(len(nodes) - 1, 0))
    visible = nodes[first:] if rows is None else nodes[first : first + max(rows, 1)]
    table = Table(box=SIMPLE, pad_edge=False)
    for at, column in enumerate(COLUMNS):
        arrow = (" ▼" if view.descending else " ▲") if interactive and at == view.column else ""
        numeric = at not in {0, 1, 6}
        table.add_column(Text(column.title + arrow), justify="right" if numeric else "left", overflow="fold")
    for node in visible:
        table.add_row(*_cells(node))
    parts: list[RenderableType] = [Text(_headline(sample)), table]
    parts += [Text(f"{plain(node.node)}: {plain(node.problem)}", style="yellow") for node in visible if node.problem]
    if failure:
        parts.append(Text(failure, style="red"))
    if len(visible) < len(nodes):
        parts.append(Text(f"nodes {first + 1} to {first + len(visible)} of {len(nodes)}"))
    if interactive:
        parts.append(Text("← → sort column   r reverse   ↑ ↓ scroll   q quit", style="dim"))
    return Group(*parts)


def _cells(node: NodeSample) -> list[Text]:
    if node.problem:
        return [Text(plain(node.node)), Text(plain(node.pod)), Text("unknown", style="yellow")]
    return [Text(plain(column.cell(node))) for column in COLUMNS]


def _headline(sample: Sample) -> str:
    """Return the totals of the nodes that could be read."""
    read = [node for node in sample.nodes if not node.problem]
    unread = len(sample.nodes) - len(read)
    requests = sum(node.requests_per_second or 0.0 for node in read)
    refusals = sum(node.refusals_per_second or 0.0 for node in read)
    calls = sum(node.imds_calls_per_second or 0.0 for node in read)
    unknown = f", {unread} unknown" if unread else ""
    return (
        f"{sample.time}  {len(read)} nodes{unknown}  {requests:,.1f} requests/s  {refusals:,.1f} refusals/s  "
        f"{calls:,.1f} IMDS calls/s"
    )
