"""The table of functions contains instructions per request, in descending order."""

from benchmarks.guard.callgrind import Dump, Function
from benchmarks.guard.functions import table


def test_the_most_expensive_function_is_first_and_a_missing_one_is_a_dash() -> None:
    dump = Dump("keep-alive")
    dump.own.update({Function("send", "libc"): 1000, Function("scan_head", "scan"): 250_000})
    dump.with_callees[Function("scan_head", "scan")] = 300_000
    dump.calls[Function("scan_head", "scan")] = 100

    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in table(dump, 100).splitlines()]

    assert rows[2:] == [["scan: scan_head", "2,500.0", "3,000.0", "1.00"], ["libc: send", "10.0", "-", "-"]]
