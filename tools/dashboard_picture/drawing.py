"""Drawing of the panels at their places in the grid of the dashboard."""

import hashlib
import itertools
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch
from matplotlib.ticker import FuncFormatter, MaxNLocator
from matplotlib.typing import RcKeyType

from tools.dashboard_picture.capture import Results, Series

PICTURE: Final = Path(__file__).parents[2] / "docs" / "dashboard.png"
ROWS: Final = ("At a glance", "Requests of pods", "Tokens: IMDS and Azure AD")
"""The rows that the picture shows; the others would make it too tall."""
COLUMNS: Final = 24
UNIT_INCHES: Final = (0.6, 0.34)
"""Width and height of one cell of the grid."""
DOTS_PER_INCH: Final = 100
BACKGROUND, CARD, EDGE, TEXT, QUIET = "#f4f5f5", "#ffffff", "#d8dade", "#24292e", "#6a7178"
GOOD, BAD = "#2f8f4e", "#d6304a"
# Okabe and Ito's colours, which colour-blind readers can distinguish.
COLOURS: Final = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#999999", "#f0e442")
STYLE: Final[dict[RcKeyType, Any]] = {
    "font.family": "DejaVu Sans",
    "font.size": 7.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
    "axes.edgecolor": EDGE,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#ececee",
    "xtick.color": QUIET,
    "ytick.color": QUIET,
    "text.color": TEXT,
    "legend.frameon": False,
}
WIDE_LEGEND: Final = 26
"""Characters from which two legends fill a line."""
PREFIXES: Final = ((1e9, "G"), (1e6, "M"), (1e3, "k"))
TIMES: Final = ((3600.0, "h"), (60.0, "min"), (1.0, "s"), (1e-3, "ms"), (1e-6, "µs"))


def shown(value: float, unit: str) -> str:
    """Return *value* as Grafana writes the units of the dashboard."""
    if unit == "percentunit":
        return f"{100 * value:.3g} %"
    if unit == "s" and value:
        factor, name = next(((f, n) for f, n in TIMES if abs(value) >= f), TIMES[-1])
        return f"{value / factor:.3g} {name}"
    ending = {"reqps": " req/s", "ops": " ops/s", "bytes": "B", "s": " s"}.get(unit, "")
    factor, prefix = next(((f, p) for f, p in PREFIXES if abs(value) >= f), (1.0, ""))
    return f"{value / factor:.3g}{prefix}{ending}"


def chosen(panels: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Return the rows of ROWS with their panels."""
    kept, row = [], ""
    for panel in panels:
        row = panel["title"] if panel["type"] == "row" else row
        if row in ROWS:
            kept.append(panel)
    return kept


def digest(panels: Sequence[Mapping[str, Any]]) -> str:
    """Return a digest of the panels that the picture shows. The picture contains it, so a test finds an old one."""
    return hashlib.sha256(json.dumps(chosen(panels), sort_keys=True).encode()).hexdigest()


def draw(panels: Sequence[Mapping[str, Any]], results: Results, picture: Path) -> None:
    """Write the picture of *panels*, parts of the dashboard's file, with the lines in *results*."""
    kept = chosen(panels)
    height = max(each["gridPos"]["y"] + each["gridPos"]["h"] for each in kept)
    size = (COLUMNS * UNIT_INCHES[0], height * UNIT_INCHES[1])
    with mpl.rc_context(STYLE):
        page = Figure(figsize=size, facecolor=BACKGROUND)
        for panel in kept:
            _draw_panel(page, panel, results.get(panel["title"], []), height)
        page.savefig(picture, dpi=DOTS_PER_INCH, metadata={"Software": None, "Source": digest(panels)})


def _draw_panel(page: Figure, panel: Mapping[str, Any], lines: Sequence[Series], height: int) -> None:
    place = panel["gridPos"]
    left, bottom = place["x"] / COLUMNS, 1 - (place["y"] + place["h"]) / height
    wide, high = place["w"] / COLUMNS, place["h"] / height
    gap, inch = 0.004, 1 / (height * UNIT_INCHES[1])
    if panel["type"] == "row":
        page.text(left + gap, bottom + high * 0.3, panel["title"], fontsize=10, fontweight="bold")
        return
    card = FancyBboxPatch(
        (left + gap, bottom + 0.06 * inch),
        wide - 2 * gap,
        high - 0.12 * inch,
        boxstyle="square,pad=0",
        facecolor=CARD,
        edgecolor=EDGE,
        linewidth=0.8,
        transform=page.transFigure,
        zorder=-1,
    )
    page.add_artist(card)
    page.text(left + 0.009, bottom + high - 0.27 * inch, panel["title"], fontsize=8.5, fontweight="bold")
    if panel["type"] == "stat":
        axes = page.add_axes((left + 0.006, bottom + 0.08 * inch, wide - 0.012, 0.35 * inch))
        _draw_number(page, axes, panel, lines, (left + wide / 2, bottom + 0.62 * inch))
    else:
        axes = page.add_axes((left + 0.045, bottom + 0.72 * inch, wide - 0.057, high - 1.15 * inch))
        _draw_graph(axes, panel, lines)


def _draw_number(
    page: Figure, axes: Axes, panel: Mapping[str, Any], lines: Sequence[Series], middle: tuple[float, float]
) -> None:
    axes.set_axis_off()
    values = lines[0].values if lines else []
    last = values[-1][1] if values else math.nan
    defaults = panel["fieldConfig"]["defaults"]
    colour = GOOD
    for step in defaults["thresholds"]["steps"]:
        if step["value"] is None or last >= step["value"]:
            colour = BAD if step["color"] == "red" else GOOD
    text = shown(last, defaults["unit"]) if values else "No data"
    page.text(*middle, text, fontsize=15, color=colour, ha="center", va="center")
    if values:
        times, heights = zip(*values, strict=True)
        axes.plot(times, heights, color=colour, linewidth=1)
        axes.fill_between(times, heights, color=colour, alpha=0.15)
        axes.set_ylim(0, max(*heights, 1e-9) * 1.1)


def _draw_graph(axes: Axes, panel: Mapping[str, Any], lines: Sequence[Series]) -> None:
    unit = panel["fieldConfig"]["defaults"]["unit"]
    drawn = [each for each in lines if each.values]
    if not drawn:
        axes.set_axis_off()
        axes.text(0.5, 0.5, "No data", ha="center", va="center", color=QUIET, fontsize=10, transform=axes.transAxes)
        return
    stacked = panel["fieldConfig"]["defaults"]["custom"]["stacking"]["mode"] == "normal"
    below: dict[float, float] = {}
    for line, colour in zip(drawn, itertools.cycle(COLOURS), strict=False):
        times = [at for at, _ in line.values]
        floor = [below.get(at, 0.0) if stacked else 0.0 for at in times]
        top = [value + least for (_, value), least in zip(line.values, floor, strict=True)]
        axes.plot(times, top, color=colour, linewidth=1.1, label=line.legend)
        axes.fill_between(times, floor, top, color=colour, alpha=0.4 if stacked else 0.1, linewidth=0)
        below.update(zip(times, top, strict=True))
    axes.set_ylim(0, axes.get_ylim()[1] if any(value > 0 for line in drawn for _, value in line.values) else 1)
    axes.set_xlim(left=0)
    axes.yaxis.set_major_locator(MaxNLocator(4))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: shown(value, unit)))
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda at, _: f"{int(at) // 60}:{int(at) % 60:02}"))
    axes.tick_params(length=0)
    columns = 3 if max(len(each.legend) for each in drawn) < WIDE_LEGEND else 2
    axes.legend(
        loc="upper left", bbox_to_anchor=(-0.14, -0.14), ncols=columns, handlelength=1, columnspacing=1, borderpad=0
    )
