"""A results file as Markdown that a terminal shows as well:

python -m benchmarks.report.table FILE
"""

import sys
from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from typing import Final

from benchmarks.paired import AGREEMENT, LEAST_ROUNDS, objections, reached
from benchmarks.results import OURS, Budget, Case, Control, Quartiles, Ratios, Results, Served, read

NOT: Final = "not measured"
FILE: Final = "table.md"
"""The name of the table in the folder of a results file."""


def table(results: Results) -> str:
    """Return all parts of *results* that have figures."""
    parts = (
        _run(results),
        verdict(results),
        budgets(results),
        _part("Control: the same server twice", _control(results)),
        _part("Closed loop: each connection asks again as soon as it is answered", _cases(results.cases)),
        _part("Open loop: latency from when each request was due, NMI and nginx at the same rate", _open_loop(results)),
        _part("NMI during disturbances", _background(results)),
        _part("NMI's resident memory", _memory(results)),
        _left_out(results),
    )
    return "\n\n".join(part for part in parts if part)


def store(file: Path, results: Results) -> Path:
    """Write the table to the folder of *file*. Return its path."""
    folder = file.with_suffix("")
    folder.mkdir(exist_ok=True)
    (folder / FILE).write_text(table(results) + "\n")
    return folder / FILE


def short(results: Results) -> str:
    """Return the summary: whether the run is accepted, the budgets, and the comparison of the servers."""
    parts = (_run(results), verdict(results), budgets(results), _compared(results.cases), _left_out(results))
    return "\n\n".join(part for part in parts if part)


def verdict(results: Results) -> str:
    """Return one line: whether the run is accepted, or the reasons against it."""
    against = objections(results)
    if against:
        return f"Not accepted: {'; '.join(against)}."
    if not results.full:
        return f"A quick run for an overview: only a full one, with at least {LEAST_ROUNDS} rounds, can be accepted."
    return (
        f"Accepted: the same server measured twice agrees within {AGREEMENT:.0%}, nothing disturbed a closed loop, no "
        "request failed."
    )


def budgets(results: Results) -> str:
    rows = [[budget.what, _bound(budget), _aim(budget), _got(budget), _met(budget)] for budget in results.budgets]
    return grid(["budget", "limit", "aim", "found", ""], rows, numbers=False)


def grid(head: Sequence[str], rows: Sequence[Sequence[str]], *, texts: int = 1, numbers: bool = True) -> str:
    """Return a Markdown table with aligned columns; empty without rows. *texts* columns are followed by *numbers*."""
    if not rows:
        return ""
    widths = [max(3, *(len(row[column]) for row in (head, *rows))) for column in range(len(head))]
    right = [numbers and column >= texts for column in range(len(head))]
    rule = [f"{'-' * (width - 1)}:" if end else "-" * width for width, end in zip(widths, right, strict=True)]
    return "\n".join(
        f"| {' | '.join(_padded(cell, width, end) for cell, width, end in zip(row, widths, right, strict=True))} |"
        for row in (head, rule, *rows)
    )


def _padded(cell: str, width: int, right: bool) -> str:
    return cell.rjust(width) if right else cell.ljust(width)


def _part(title: str, body: str) -> str:
    return f"**{title}**\n\n{body}" if body else ""


def _run(results: Results) -> str:
    machine = results.machine
    versions = ", ".join(f"{name} {version}" for name, version in machine.versions.items())
    kind = "virtual" if machine.virtual else "bare"
    speed = f", governor {machine.governor}" if machine.governor else ""
    if machine.turbo is not None:
        speed += f", turbo {'on' if machine.turbo else 'off'}"
    return (
        f"{results.date:%Y-%m-%d %H:%M} UTC, commit {results.commit}{' with changes' if results.changed else ''}, "
        f"{'full' if results.full else 'quick'} run of {results.seconds / 60:.1f} min.\n"
        f"{machine.cpu}, {machine.cores} cores ({kind}{speed}), {machine.memory_gib} GiB, Linux {machine.kernel}; "
        f"{versions}.\n"
        f"Load before: {machine.load:g}; a hypervisor took {results.stolen_seconds:.1f} s of the cores' time."
    )


def _bound(budget: Budget) -> str:
    return f"{'≤' if budget.direction == 'at most' else '≥'} {_measure(budget.limit, budget.unit)}"


def _aim(budget: Budget) -> str:
    return "" if budget.aim is None else _measure(budget.aim, budget.unit)


def _got(budget: Budget) -> str:
    return NOT if budget.got is None else _measure(budget.got, budget.unit)


def _met(budget: Budget) -> str:
    if budget.got is None:
        return "?"
    if not budget.met:
        return "MISSED"
    return "aim met" if budget.aim is not None and reached(budget.got, budget.aim, budget.direction) else "met"


def _measure(value: float, unit: str) -> str:
    return f"{value:.2f} x" if unit == "x" else f"{figure(value)} {unit}"


def figure(value: float) -> str:
    """Return three significant digits, or all digits of larger numbers."""
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"


def spread(ratio: Quartiles) -> str:
    """Return the median of a ratio and, in brackets, its quartiles."""
    return f"{ratio.median:.2f} [{ratio.low:.2f}-{ratio.high:.2f}]"


def _control(results: Results) -> str:
    return grid(
        ["case", "rounds", "redone", "requests/s", "CPU", "p50", "p99", "agrees"],
        [_agreement(results.control)] if results.control else [],
    )


def _agreement(control: Control) -> list[str]:
    ratios = control.ratios
    medians = [_fine(ratios.rps), _fine(ratios.cpu), _fine(ratios.p50), _fine(ratios.p99)]
    return [control.case, str(control.rounds), str(control.redone), *medians, "yes" if control.agrees else "NO"]


def _fine(ratio: Quartiles) -> str:
    return f"{ratio.median:.3f} [{ratio.low:.3f}-{ratio.high:.3f}]"


def _cases(cases: Sequence[Case]) -> str:
    head = [
        "case",
        "server",
        "requests/s",
        "x nginx",
        "CPU µs",
        "x nginx",
        "core",
        "user",
        "system",
        "p50 µs",
        "p99 µs",
    ]
    body = grid([*head, "p99.9 µs"], list(chain.from_iterable(_servers(case) for case in cases)), texts=2)
    notes = [
        f"* {case.title}: {case.description} {case.rounds} rounds, {case.redone} measurements redone"
        f"{f', {case.dirty} DISTURBED' if case.dirty else ''}.{_answers(case)}"
        for case in cases
    ]
    return "\n".join([body, "", *notes]) if cases else ""


def _servers(case: Case) -> list[list[str]]:
    titles = chain([case.title], [""] * len(case.servers))
    return [
        [title, *_figures(name, served)] for title, (name, served) in zip(titles, case.servers.items(), strict=False)
    ]


def _figures(name: str, served: Served) -> list[str]:
    against = served.against
    return [
        name,
        figure(served.rps.median),
        spread(against.rps) if against else "",
        figure(served.cpu_us.median),
        spread(against.cpu) if against else "",
        f"{served.rps.median * served.cpu_us.median / 1e6:.0%}",
        figure(served.user_us.median),
        figure(served.system_us.median),
        figure(served.p50_us.median),
        figure(served.p99_us.median),
        figure(served.p999_us.median),
    ]


def _answers(case: Case) -> str:
    """Return the statuses, unless all are 200."""
    failures = []
    for name, served in case.servers.items():
        odd = {**{str(status): times for status, times in served.statuses.items() if status != 200}, **served.errors}
        if odd:
            failures.append(f"{name} {', '.join(f'{times:,} x {what}' for what, times in odd.items())}")
    return f" Not 200: {'; '.join(failures)}." if failures else ""


def _compared(cases: Sequence[Case]) -> str:
    """Return NMI's figures of each case, and their ratios to nginx's."""
    rows = []
    for case in cases:
        ours = case.servers.get(OURS)
        if ours is None:
            continue
        against = ours.against
        ratios = [spread(against.rps), spread(against.cpu), *_medians(against)] if against else [""] * 4
        rows.append([case.title, figure(ours.rps.median), *ratios])
    head = ["case", "NMI requests/s", "x nginx", "CPU x nginx", "p50 x nginx", "p99 x nginx"]
    body = grid(head, rows)
    return f"{body}\n\nMedians [quartiles] of the ratios of paired rounds." if rows else ""


def _medians(ratios: Ratios) -> list[str]:
    return [f"{ratio.median:.2f}" for ratio in (ratios.p50, ratios.p99)]


def _open_loop(results: Results) -> str:
    rows = []
    for row in results.open_loop:
        rates = chain([f"{row.rate:,}"], [""] * len(row.servers))
        for rate, (name, timely) in zip(rates, row.servers.items(), strict=False):
            latency = [timely.p50_us, timely.p99_us, timely.p999_us, timely.max_us, timely.late_us]
            rows.append([rate, name, *(figure(value) for value in latency), str(timely.errors)])
    return grid(
        ["requests/s", "server", "p50 µs", "p99 µs", "p99.9 µs", "max µs", "generator late µs", "errors"], rows, texts=2
    )


def _background(results: Results) -> str:
    head = ["disturbance", "requests", "p50 µs", "p99 µs", "p99.9 µs", "max µs", "over 5 ms", "errors"]
    body = grid(
        head,
        [
            [
                row.title,
                f"{row.requests:,}",
                *(figure(value) for value in (row.p50_us, row.p99_us, row.p999_us, row.max_us)),
                f"{row.stalls:,}",
                f"{row.errors:,}",
            ]
            for row in results.background
        ],
    )
    notes = [f"* {row.title}: {row.meanwhile}" for row in results.background]
    return "\n".join([body, "", *notes]) if notes else ""


def _memory(results: Results) -> str:
    rows = [[f"{row.pods:,}", figure(row.idle_mib), figure(row.load_mib)] for row in results.memory]
    body = grid(["pods", "idle MiB", "at most MiB"], rows, texts=0)
    footprint = results.reference
    reference = (
        f"The Go implementation: {figure(footprint.rss_mib)} MiB after its start in {figure(footprint.seconds)} s with "
        f"{figure(footprint.cpu_seconds)} CPU s."
        if footprint
        else ""
    )
    return "\n\n".join(part for part in (body, reference) if part)


def _left_out(results: Results) -> str:
    return (
        "\n".join(["What this leaves out:", "", *(f"* {sentence}" for sentence in results.left_out)])
        if results.left_out
        else ""
    )


def main() -> None:
    sys.stdout.write(f"{table(read(Path(sys.argv[1])))}\n")


if __name__ == "__main__":
    main()
