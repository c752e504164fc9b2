"""The documentation's table, generated from a results file:

    python -m benchmarks.controller.table RESULTS

writes it between two marks in docs/performance.md, and the times of first tokens between two others. A file with some
parts replaces only these. Figures of the Go implementation were measured on a real API server; the table states where
there are none.
"""

import json
import sys
from pathlib import Path
from typing import Any, Final

from benchmarks.report.marks import put

DOCUMENT: Final = Path(__file__).parents[2] / "docs" / "performance.md"
MAKER: Final = "benchmarks.controller.table"
TOKENS: Final = "benchmarks.controller.table tokens"
"""The name in the marks around the second table."""
NOT: Final = "not measured"
LONG_SECONDS: Final = 40.0
STREAM_AIMS: Final = {10_000: ("3 CPU s", "300 MiB"), 100_000: ("8 CPU s", "500 MiB")}
"""By the number of pods."""

ControllerResults = dict[str, Any]
ControllerRow = dict[str, Any]


def table(results: ControllerResults) -> str:
    """Return the lines for *results*, without lines of parts that were not measured."""
    return _blocks(_compared(results), _budgets(results), _streams(results), _made_on(results))


def tokens_table(results: ControllerResults) -> str:
    """Return the lines for first tokens, or an empty text if *results* has none."""
    rows = _tokens(results)
    return _blocks(rows, _made_on(results)) if rows else ""


def _blocks(*parts: list[str]) -> str:
    return "\n\n".join("\n".join(part) for part in parts if part)


def _compared(results: ControllerResults) -> list[str]:
    head = ("case, operation 5 s", "until Assigned", "aim", "ARM calls", "reference: until Assigned", "its ARM calls")
    lines = [
        f"| {' | '.join(head)} |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    if row := _row(results, "one pod", 5.0):
        lines.append(f"| 1 pod | {row['median_s']:.2f} s | 5.5 s | {_calls(row)} | 10.0 s | {NOT} |")
    if row := _row(results, "40 pods on 3 VMs", 5.0):
        lines.append(f"| 40 pods at once on 3 nodes | {row['all_s']:.2f} s | 6 s | {_calls(row)} | 29 s | {NOT} |")
    for rate, theirs in (("default", "808 s, half after 605 s"), ("raised", "48 s")):
        if row := _row(results, f"2,000 pods on one set, {rate} rate", 5.0):
            lines.append(
                f"| 2,000 pods, 20 identities, 30 nodes of one scale set, {rate} rate | {row['all_s']:.1f} s, half "
                f"within {row['median_s']:.1f} s (the pods took {row['pods_bound_s']:.1f} s to come) | 15 s | "
                f"{_calls(row)} | {theirs} | 1 PATCH |"
            )
    if row := _row(results, "rolling restart of 500 pods", 5.0):
        lines.append(
            f"| rolling restart of 500 pods | {row['all_s']:.1f} s, the last pod bound after "
            f"{row['last_pod_bound_s']:.1f} s; a pod waits {row['median_s']:.2f} s | | {_calls(row)} | {NOT} | {NOT} |"
        )
    return lines


def _budgets(results: ControllerResults) -> list[str]:
    lines = ["| case | MIC | aim | reference |", "| --- | --- | --- | --- |"]
    for operation in (0.0, 0.2, 40.0):
        if row := _row(results, "one pod", operation):
            theirs = "5.0 s" if operation == 0.2 else NOT
            lines.append(
                f"| 1 pod, operation {operation:g} s | {row['median_s']:.2f} s | {_aim(operation):g} s | {theirs} |"
            )
    for operation in (0.0, 40.0):
        if row := _row(results, "40 pods on 3 VMs", operation):
            lines.append(
                f"| 40 pods on 3 VMs, operation {operation:g} s | {row['all_s']:.2f} s | {operation + 1:g} s | {NOT} |"
            )
        if row := _row(results, "2,000 pods on one set, raised rate", operation):
            lines.append(
                f"| 2,000 pods on one set, raised rate, operation {operation:g} s | {row['all_s']:.1f} s "
                f"({row['pods_bound_s']:.1f} s to come) | {operation + 10:g} s | {NOT} |"
            )
    for operation in (0.0, 5.0, 40.0):
        if row := _row(results, "2,000 pods deleted, raised rate", operation):
            aim = f"{operation + 15:g} s"
            theirs = "ARM clean after 28 to 42 s, objects gone after 64 s" if operation == 5.0 else NOT
            lines.append(
                f"| 2,000 pods deleted, raised rate, operation {operation:g} s | ARM clean after "
                f"{row['arm_clean_s']:.1f} s, objects gone after {row['all_s']:.1f} s "
                f"(deleting took {row['pods_deleted_s']:.1f} s) | {aim} | "
                f"{theirs} |"
            )
    if row := _row(results, "a fast VM and a set that takes 40 s"):
        lines.append(f"| a VM of 5 s next to a set of 40 s | {row['fast_s']:.2f} s | 5.5 s | 45 s |")
    if row := _row(results, "one bad identity of 20"):
        lines.append(
            f"| one bad identity among 20 | others after {row['others_assigned_s']:.2f} s; {row['patches_in_8_s']:g} "
            f"PATCHes in 8 s, {row['patches_from_8_to_40_s']:g} in the next 32 s | distinguished immediately, back-off "
            "from 30 s | 76 PATCHes in 8 s, then 1 PATCH and 2 GETs for each event |"
        )
    lines += _at_the_design_point(results)
    for how, aim, theirs in (("a clean stop", "2 s", NOT), ("kill -9", "15 s, the lease's", "19 to 20 s")):
        if row := _row(results, f"another leads after {how}"):
            lines.append(f"| another leads after {how} | {row['seconds']:.1f} s | {aim} | {theirs} |")
    return lines


def _at_the_design_point(results: ControllerResults) -> list[str]:
    lines = []
    size = "10,000 pods, 1,000 nodes, 500 bindings"
    if (row := _row(results, "start, all assigned")) and (empty := _row(results, "start, nothing in the cluster")):
        lines.append(
            f"| {size}: start, all assigned | {_quiet(row)}, {row['cpu_s']:.1f} CPU s (of a start "
            f"on nothing: {empty['cpu_s']:.1f}), {row['peak_mib']:.0f} MiB at most, no PATCH, {row['gets']:g} GETs | "
            "10 s, 5 CPU s (3 for reading), 300 MiB, one GET a host | not quiet after 245 s, 334 CPU s, 460 MiB |"
        )
    if row := _row(results, "one unrelated pod event"):
        lines.append(f"| {size}: one unrelated pod event | {row['cpu_ms_each']:.2f} ms CPU | 1 ms | 1.45 CPU s |")
    if row := _row(results, "one pod at that size"):
        lines.append(f"| {size}: one pod, operation 5 s | {row['median_s']:.2f} s | 5.5 s | {NOT} |")
    if row := _row(results, "idle, one interval"):
        lines.append(
            f"| {size}: idle, one interval ({row['interval_s']:g} s here) | {row['gets']:g} GETs for {row['hosts']:g} "
            f"hosts, at most {row['most_gets_in_a_second']:g} in a second{_idle_share(row)} | one GET a host, spread | "
            "1,020 GETs in 3 min, without any assignment |"
        )
    return lines


def _quiet(row: ControllerRow) -> str:
    if row.get("quiet", True):
        return f"quiet after {row['quiet_s']:.1f} s"
    return f"not quiet after {row['quiet_s']:.0f} s ({row['idle_share']:.1%} of a core)"


def _idle_share(row: ControllerRow) -> str:
    if "idle_share" not in row:
        return ""
    return f"; {row['idle_share']:.1%} of a core, {row['wake_ups_a_second']:.0f} wake-ups a second"


def _tokens(results: ControllerResults) -> list[str]:
    lines = ["| a pod's first token, from Running | time | aim |", "| --- | --- | --- |"]
    if row := _row(results, "first token, type 3"):
        aim = "0.15 s of a warm node with AAD at 50 ms"
        lines.append(f"| federated identity (type 3), AAD 50 ms | {row['median_s']:.2f} s | {aim} |")
    lines += [
        f"| user-assigned identity (type 0), operation {operation:g} s | {row['median_s']:.2f} s | "
        f"{_aim(operation):g} s |"
        for operation in (5.0, 40.0)
        if (row := _row(results, "first token, type 0", operation))
    ]
    return lines if len(lines) > 2 else []


def _streams(results: ControllerResults) -> list[str]:
    rows = [row for row in results["rows"] if row["case"].startswith("watch stream")]
    lines = [
        "| watch stream | reading it all | aim | heartbeat | a new pod | own write | memory | aim |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
        *(
            f"| {row['pods']:,.0f} pods | {row['sync_cpu_seconds']:.2f} CPU s | {cpu_aim} | "
            f"{row['unrelated_event_us']:.0f} µs | "
            f"{row['new_pod_us']:.0f} µs | {row['own_write_us']:.0f} µs | {row['rss_mib']:.0f} MiB | "
            f"{memory_aim} |"
            for row in rows
            for cpu_aim, memory_aim in [STREAM_AIMS.get(int(row["pods"]), ("", ""))]
        ),
    ]
    return lines if rows else []


def _aim(operation: float) -> float:
    """Return the aim for one pod, in seconds: MIC notices the end of a long operation later."""
    return operation + (0.5 if operation < LONG_SECONDS else 1.0)


def _made_on(results: ControllerResults) -> list[str]:
    machine, load = results["machine"], results["load"].values()
    note = (
        f"Measured {results['date']} at commit {results['commit']} on {machine['cores']} cores ({machine['cpu']}), "
        f"kernel {machine['kernel']}, Python {machine['python']}; API server, emulators and the creator of the pods "
        f"share them. Load before the parts: {min(load):g} to {max(load):g}."
    )
    return [note]


def _row(results: ControllerResults, case: str, operation: float | None = None) -> ControllerRow | None:
    for row in results["rows"]:
        if row["case"] == case and (operation is None or row["operation_seconds"] == operation):
            return dict(row)
    return None


def _calls(row: ControllerRow) -> str:
    return f"{row['patches']:g} PATCH, {row['gets']:g} GET"


def main() -> None:
    results = json.loads(Path(sys.argv[1]).read_text())
    if _row(results, "one pod", 5.0):
        put(DOCUMENT, MAKER, table(results))
    if made := tokens_table(results):
        put(DOCUMENT, TOKENS, made)


if __name__ == "__main__":
    main()
