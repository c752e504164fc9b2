"""PNG plots of a results file, in a folder of the same name:

    python -m benchmarks.report.plots FILE

The same figures give the same bytes: no dates, no versions in the files.
"""

import math
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, NullFormatter, NullLocator
from matplotlib.typing import RcKeyType

from benchmarks.report.table import figure
from benchmarks.results import BASE, OURS, Case, Quartiles, Results, read

NAMES: Final = {OURS: "NMI", BASE: "nginx, a constant answer", "plain": "uvloop + httptools", "aiohttp": "aiohttp"}
# Okabe and Ito's colours, which colour-blind readers can distinguish; the shapes differ too.
LOOKS: Final = {OURS: ("#0072B2", "o"), BASE: ("#555555", "s"), "plain": ("#E69F00", "^"), "aiohttp": ("#CC79A7", "D")}
OTHER: Final = ("#009E73", "v")
QUIET: Final = "#666666"
STYLE: Final[dict[RcKeyType, Any]] = {
    "font.family": "DejaVu Sans",
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#999999",
    "axes.titlesize": 10,
    "axes.titlelocation": "left",
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e6e6e6",
    "xtick.color": "#444444",
    "ytick.color": "#444444",
    "legend.frameon": False,
    "savefig.dpi": 110,
}


@dataclass(frozen=True, slots=True)
class Plot:
    file: str
    title: str
    drawn: Callable[[Results, str], Figure]


def plots(found: Results) -> tuple[Plot, ...]:
    """Return the plots that *found* has figures for."""
    varied = _series(found, "connections")
    every = (
        (Plot("throughput.png", "Requests a second against connections", _throughput), varied),
        (Plot("latency.png", "Latency against connections", _latency), varied),
        (Plot("cpu.png", "CPU for each request against nginx", _cpu), _with_ratios(found)),
        (Plot("memory.png", "NMI's memory against the size of its index", _memory), found.memory),
        (Plot("controller.png", "What MIC costs against the size of the cluster", _controller), found.controller),
    )
    return tuple(plot for plot, rows in every if rows)


def draw(file: Path, found: Results) -> list[Path]:
    """Write the plots to the folder of *file*. Return their paths."""
    folder = file.with_suffix("")
    folder.mkdir(exist_ok=True)
    made = []
    for plot in plots(found):
        with mpl.rc_context(STYLE):
            picture = plot.drawn(found, plot.title)
            picture.savefig(folder / plot.file, metadata={"Software": None})
        made.append(folder / plot.file)
    return made


def _series(found: Results, name: Literal["connections", "pods"]) -> list[Case]:
    return sorted((case for case in found.cases if name in case.series), key=lambda case: case.connections)


def _with_ratios(found: Results) -> list[Case]:
    return [case for case in found.cases if any(each.against for each in case.servers.values())]


def _canvas(found: Results, title: str, reading: str, height: float = 4.4) -> Figure:
    """Create a figure with its title, a guide to reading it, and the machine."""
    canvas = Figure(figsize=(8.6, height), layout="constrained")
    top, foot = 0.62 / height, 0.34 / height
    engine = canvas.get_layout_engine()
    assert engine is not None
    engine.set(rect=(0.005, foot, 0.99, 1 - foot - top))  # type: ignore[call-arg]
    canvas.text(0.012, 1 - 0.08 / height, title, size=13, weight="bold", va="top")
    canvas.text(0.012, 1 - 0.36 / height, reading, size=9.5, color=QUIET, va="top")
    machine = found.machine
    where = f"{machine.cpu}{', virtual' if machine.virtual else ''}, {machine.cores} cores, Linux {machine.kernel}"
    source = f"{where}, Python {machine.versions.get('Python', '?')}; commit {found.commit}, {found.date:%Y-%m-%d}"
    canvas.text(0.012, 0.08 / height, source + ("" if found.full else "; quick run"), size=7.5, color=QUIET)
    return canvas


def _throughput(found: Results, title: str) -> Figure:
    cases = _series(found, "connections")
    canvas = _canvas(
        found,
        title,
        f"{_setting(cases)}; the server has one core. Higher is better. Bars: quartiles of the rounds.",
    )
    axes = canvas.add_subplot()
    ends: list[tuple[float, int, str]] = []
    for name in _servers(cases):
        at = [place for place, case in enumerate(cases) if name in case.servers]
        medians, bars = _bars([cases[place].servers[name].rps for place in at])
        colour, shape = LOOKS.get(name, OTHER)
        axes.errorbar(at, medians, bars, color=colour, marker=shape, capsize=3, linewidth=1.8, markersize=6)
        ends.append((medians[-1], at[-1], name))
    _names(axes, ends)
    _categories(axes, [f"{case.connections:,}" for case in cases], "connections at a time")
    axes.set_ylabel("requests a second")
    axes.set_ylim(bottom=0)
    axes.yaxis.set_major_formatter(FuncFormatter(_thousands))
    return canvas


def _bars(found: Sequence[Quartiles]) -> tuple[list[float], tuple[list[float], list[float]]]:
    """Return medians, and the distances of the quartiles."""
    medians = [each.median for each in found]
    return medians, ([each.median - each.low for each in found], [each.high - each.median for each in found])


def _names(axes: Axes, ends: Sequence[tuple[float, int, str]]) -> None:
    """Write each server's name at the end of its curve, without overlaps."""
    apart = max(median for median, _, _ in ends) * 0.06
    lowest = -math.inf
    for median, place, name in sorted(ends):
        lowest = max(median, lowest + apart)
        label, colour = f"{NAMES.get(name, name)}: {figure(median)}", LOOKS.get(name, OTHER)[0]
        axes.annotate(label, (place, lowest), (9, 0), textcoords="offset points", va="center", color=colour)


def _categories(axes: Axes, labels: Sequence[str], title: str) -> None:
    """Set steps of equal width: connections and pods grow by factors."""
    axes.set_xticks(range(len(labels)), labels)
    axes.set_xlim(-0.25, len(labels) - 0.75)
    axes.grid(visible=False, axis="x")
    axes.set_xlabel(title)


def _latency(found: Results, title: str) -> Figure:
    cases = _series(found, "connections")
    servers = _servers(cases)
    canvas = _canvas(
        found,
        title,
        f"{_setting(cases)}, in a closed loop. Median (shape), p99 (bar), p99.9 (end). Further left is better.",
        height=1.5 + len(cases) * (0.45 + 0.24 * len(servers)),
    )
    panels = canvas.subplots(len(cases), 1, sharex=True, squeeze=False)[:, 0]
    for axes, case in zip(panels, cases, strict=True):
        axes.set_title(f"{case.connections:,} connection{'s' if case.connections > 1 else ''}")
        for place, name in enumerate(servers):
            if name in case.servers:
                each = case.servers[name]
                _range(axes, place, name, (each.p50_us.median, each.p99_us.median, each.p999_us.median))
        _rows(axes, servers)
    _factors(panels[-1], (1, 3), _duration)
    panels[-1].set_xlabel("from request to answer (logarithmic)")
    return canvas


def _range(axes: Axes, place: int, name: str, at: tuple[float, float, float]) -> None:
    colour, shape = LOOKS.get(name, OTHER)
    p50, p99, p999 = at
    axes.plot([p50, p999], [place, place], color=colour, linewidth=1.8)
    axes.plot([p50], [place], color=colour, marker=shape, markersize=7)
    axes.plot([p99], [place], color=colour, marker="|", markersize=11, markeredgewidth=2)
    label = f"{_duration(p50)} / {_duration(p99)} / {_duration(p999)}"
    axes.annotate(label, (p999, place), (8, 0), textcoords="offset points", va="center", size=8, color=QUIET)


def _rows(axes: Axes, servers: Sequence[str]) -> None:
    axes.set_yticks(range(len(servers)), [NAMES.get(name, name) for name in servers])
    axes.set_ylim(len(servers) - 0.4, -0.6)
    axes.grid(visible=False, axis="y")
    axes.tick_params(axis="y", length=0)


def _cpu(found: Results, title: str) -> Figure:
    cases = _with_ratios(found)
    canvas = _canvas(
        found,
        title,
        "CPU time divided by nginx's in the same round. Bars: quartiles of the rounds. Further left is better.",
        height=1.7 + 0.36 * len(cases),
    )
    axes = canvas.add_subplot()
    for name in (name for name in _servers(cases) if name != BASE):
        colour, shape = LOOKS.get(name, OTHER)
        compared = {place: case.servers[name].against for place, case in enumerate(cases) if name in case.servers}
        at = {place: against.cpu for place, against in compared.items() if against}
        medians, bars = _bars(list(at.values()))
        label = NAMES.get(name, name)
        axes.errorbar(medians, list(at), xerr=bars, color=colour, marker=shape, linestyle="", capsize=3, label=label)
        for place, each in at.items():
            _above(axes, f"{each.median:.2f}", (each.median, place), colour)
    axes.axvline(1, color=LOOKS[BASE][0], linewidth=1.5)
    axes.annotate(
        "nginx",
        (1, 1),
        (0, 3),
        xycoords=("data", "axes fraction"),
        textcoords="offset points",
        ha="center",
        color=QUIET,
    )
    axes.set_yticks(range(len(cases)), [case.title for case in cases])
    axes.set_ylim(len(cases) - 0.4, -0.6)
    axes.tick_params(axis="y", length=0)
    _factors(axes, (1, 2, 5), lambda value: f"{value:g} x")
    left, right = axes.get_xlim()
    axes.set_xlim(min(left, 0.5), max(right, 2))  # so that small values look small
    axes.legend(loc="lower right", bbox_to_anchor=(1, 1), ncols=3, borderaxespad=0.2, columnspacing=1.2)
    return canvas


def _above(axes: Axes, said: str, where: tuple[float, float], colour: str) -> None:
    clear = {"facecolor": "white", "edgecolor": "none", "pad": 0.4}
    axes.annotate(
        said, where, (0, 8), textcoords="offset points", ha="center", size=8, color=colour, bbox=clear, zorder=4
    )


def _memory(found: Results, title: str) -> Figure:
    rows = sorted(found.memory, key=lambda row: row.pods)
    canvas = _canvas(
        found,
        title,
        "Resident memory of the process. Lower is better.",
        height=3.8,
    )
    axes = canvas.add_subplot()
    for offset, colour, label, sizes in (
        (-0.19, "#9CC9E3", "idle", [row.idle_mib for row in rows]),
        (0.19, LOOKS[OURS][0], "under load", [row.load_mib for row in rows]),
    ):
        bars = axes.bar([place + offset for place in range(len(rows))], sizes, 0.36, color=colour, label=label)
        axes.bar_label(bars, [figure(size) for size in sizes], padding=2)
    _categories(axes, [f"{row.pods:,}" for row in rows], "pods in the index")
    axes.set_xlim(-0.6, len(rows) - 0.4)
    axes.set_ylabel("MiB")
    axes.legend(loc="upper left")
    axes.margins(y=0.12)
    return canvas


def _controller(found: Results, title: str) -> Figure:
    rows = sorted(found.controller, key=lambda row: row.pods)
    sizes = [row.pods for row in rows]
    canvas = _canvas(
        found,
        title,
        "All pods assigned already. Logarithmic: a level line is independent of the cluster. Lower is better.",
        height=3.9,
    )
    panels: list[tuple[str, list[float | None]]] = [
        ("reading it all, CPU s", [row.cold_cpu_s for row in rows]),
        ("one event, µs", [row.event_us for row in rows]),
        ("memory, MiB", [row.memory_mib for row in rows]),
        ("GETs to Azure an interval", [row.arm_calls for row in rows]),
    ]
    measured = [panel for panel in panels if any(value is not None for value in panel[1])]
    for axes, (cost, values) in zip(canvas.subplots(1, len(measured), squeeze=False)[0], measured, strict=True):
        points = [(size, value) for size, value in zip(sizes, values, strict=True) if value is not None]
        _growth(axes, cost, points)
        axes.set_xlim(min(sizes) / 8, max(sizes) * 2)
        axes.xaxis.set_major_locator(FixedLocator(sizes))
        axes.set_xlabel("pods")
    return canvas


def _growth(axes: Axes, title: str, points: Sequence[tuple[int, float]]) -> None:
    axes.set_title(title)
    axes.set_xscale("log")
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda pods, _: f"{pods / 1000:g}k" if pods >= 1000 else f"{pods:g}"))
    colour, shape = LOOKS[OURS]
    axes.plot([size for size, _ in points], [value for _, value in points], color=colour, marker=shape, linewidth=1.8)
    for size, value in points:
        label = f"{value:,}" if isinstance(value, int) else figure(value)
        axes.annotate(label, (size, value), (-3, 6), textcoords="offset points", ha="right", size=9)
    if min(value for _, value in points) > 0:
        axes.set_yscale("log")
        # At least two decades, so that level lines look level.
        lowest, highest = min(value for _, value in points), max(value for _, value in points)
        spare = max(0.0, 2 - math.log10(highest / lowest)) / 2 + 0.25
        axes.set_ylim(lowest / 10**spare, highest * 10**spare)
        axes.yaxis.set_major_formatter(FuncFormatter(_thousands))
        axes.yaxis.set_minor_formatter(NullFormatter())
        axes.yaxis.set_minor_locator(NullLocator())


def _factors(axes: Axes, steps: Sequence[float], text: Callable[[float], str]) -> None:
    """Set a logarithmic horizontal scale with labels at *steps* of each decade."""
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=steps))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: text(value)))
    axes.xaxis.set_minor_locator(NullLocator())


def _duration(us: float) -> str:
    return f"{us / 1000:.3g} ms" if us >= 1000 else f"{us:.3g} µs"


def _thousands(value: float, _: object) -> str:
    return f"{value:,.6g}"


def _setting(cases: Sequence[Case]) -> str:
    """Return the common properties of a curve's cases."""
    modes = " and ".join(
        dict.fromkeys("kept alive" if case.mode == "keep-alive" else "a connection per request" for case in cases)
    )
    pods = " to ".join(f"{pods:,}" for pods in sorted({case.pods for case in cases}))
    return f"Connections {modes}, {pods} pods" if "alive" in modes else f"{modes.capitalize()}, {pods} pods"


def _servers(cases: Iterable[Case]) -> list[str]:
    """Sort in the order of NAMES; others follow."""
    present = {name for case in cases for name in case.servers}
    return [*(name for name in NAMES if name in present), *sorted(present - set(NAMES))]


def main() -> None:
    file = Path(sys.argv[1])
    for picture in draw(file, read(file)):
        sys.stdout.write(f"{picture}\n")


if __name__ == "__main__":
    main()
