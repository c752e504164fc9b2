"""The rows of the micro benchmarks: each function and its comparisons, alternating, first asserted and then timed."""

import socket
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Final

from _native.answers import ReadyAnswer, TokenAnswer, Usage
from _native.histogram import Histogram
from _native.index import Index, PodRecord
from benchmarks.compiled import loaded
from benchmarks.micro import comparisons
from benchmarks.paired import quartiles
from benchmarks.results import Micro
from nmi.server.metrics import BUCKETS_SECONDS
from tests.support.corpus.corpus import ACCEPTED, EVERY

LOOPS: Final = Path(__file__).with_name("loops.pyx")
ROUNDS: Final = 41
SLICE_NS: Final = 4_000_000
"""The duration of a measurement: long compared with the clock's resolution, short compared with disturbances."""
TOKEN: Final = "t" * 1700
HOUR_NS: Final = 3600 * 10**9

Loop = Callable[[int], tuple[int, int]]
"""Processes its texts this number of times. Returns the nanoseconds and the number of calls with a result."""


@dataclass(frozen=True, slots=True)
class Case:
    """The input of a row. The names of the loops are columns: `native`, `oracle`, `httptools`."""

    function: str
    corpus: str
    calls: int
    """The calls in one pass of a loop."""
    results: int
    """The number of calls with a result in the native loop."""
    loops: Mapping[str, Loop]


def rows() -> list[Micro]:
    """Measure all rows within seconds. Raises AssertionError if a function does not return the expected results."""
    return [measured(case) for case in cases()]


def measured(case: Case, rounds: int = ROUNDS, slice_ns: int = SLICE_NS) -> Micro:
    """Measure one row. The loops alternate, so that a disturbance affects all of them."""
    for name, loop in case.loops.items():
        _, taken = loop(1)
        expected = case.results if name == "native" else taken
        assert taken == expected > 0, f"{case.function} on {case.corpus}, {name}: {taken} results, not {expected}"
    times = {name: fitting(loop, slice_ns) for name, loop in case.loops.items()}
    found: dict[str, list[float]] = {name: [] for name in case.loops}
    for _ in range(rounds):
        for name, loop in case.loops.items():
            spent, _ = loop(times[name])
            found[name].append(spent / times[name] / case.calls)
    spreads = {name: quartiles(values) for name, values in found.items()}
    return Micro(case.function, case.corpus, spreads["native"], spreads.get("oracle"), spreads.get("httptools"))


def fitting(loop: Loop, slice_ns: int) -> int:
    """Return the number of passes of *loop* that take about *slice_ns*; at least one."""
    times = 1
    while True:
        spent, _ = loop(times)
        if spent * 2 >= slice_ns or times > 1 << 24:
            return max(1, int(times * slice_ns / max(spent, 1)))
        times *= 4


def cases() -> Iterator[Case]:
    """Return the cases in the order in which a request passes the functions. This compiles the loops."""
    loops = loaded(LOOPS)
    fast = [case.data for case in ACCEPTED if case.fast]
    sdks = [head for head in fast if b"user-agent: azsdk-" in head.lower()]
    every = [case.data for case in EVERY]
    queries = {"accepted": [query_of(head) for head in fast], "SDKs": [query_of(head) for head in sdks]}
    kept = [head for head in fast if b"connection: close" not in head.lower()]
    for corpus, heads in (("accepted", kept), ("SDKs", sdks)):
        for how, parse in (
            ("httptools silent", comparisons.httptools_parses),
            ("httptools tells Python", comparisons.httptools_tells),
        ):
            yield Case(
                f"scan_head ({how})",
                corpus,
                len(heads),
                len(heads),
                {"native": bound(loops.scan, heads), "httptools": bound(parse, heads)},
            )
    for corpus, texts in queries.items():
        targets = [b"/metadata/identity/oauth2/token?" + text for text in texts]
        yield Case(
            "read_query",
            corpus,
            len(texts),
            len(texts),
            {
                "native": bound(loops.read, texts),
                "oracle": bound(comparisons.oracle_judges, [target.decode() for target in targets]),
                "httptools": bound(comparisons.httptools_splits, targets),
            },
        )
    for corpus, heads, results in (("accepted", fast, len(fast)), ("all, refused ones too", every, len(fast))):
        native, oracle = bound(loops.scan_and_read, heads), bound(comparisons.oracle_reads, heads)
        yield Case("scan_head, read_query", corpus, len(heads), results, {"native": native, "oracle": oracle})
    yield from index_cases(loops, queries["SDKs"])
    yield from answer_cases(loops)


def query_of(head: bytes) -> bytes:
    """Return the query of a head's target."""
    return head.partition(b"?")[2].partition(b" ")[0]


def bound(loop: Callable[..., tuple[int, int]], *arguments: object) -> Loop:
    """Bind *loop* to its texts."""
    return lambda times: loop(*arguments, times)


def index_cases(loops: ModuleType, queries: list[bytes]) -> Iterator[Case]:
    """Return the cases of the index and of ready answers."""
    for pods in (1, 250, 10_000):
        index, keys = Index(), []
        for number in range(pods):
            address = f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}"
            index.put(address, PodRecord("pod"))
            keys.append(int.from_bytes(socket.inet_aton(address), "little"))
        yield Case("Index.of", f"{pods:,} pods", pods, pods, {"native": bound(loops.find_pod, index, keys)})
    for ready in (1, 16):
        pod = PodRecord("pod")
        for number in range(ready):
            resource = b"https://management.azure.com/" if number == ready - 1 else b"https://other-%d/" % number
            pod.admit(0, resource=resource, selector_kind=0, selector_value=b"", xms_cc=b"", answer=answer())
        texts = [text for text in queries if b"_id=" not in text][:1]
        find = bound(loops.find_answer, pod, texts, time.monotonic_ns())
        yield Case("PodRecord.asked", f"the last of {ready}, asked before", 1, 1, {"native": find})


def answer_cases(loops: ModuleType) -> Iterator[Case]:
    """Return the cases of responses and of their records."""
    now = time.monotonic_ns()
    for corpus, step in (("within a second", 0), ("a second later each time", 10**9)):
        native = bound(loops.write, answer(), now, step)
        oracle = bound(comparisons.json_writes, TOKEN, 3600)
        yield Case("ReadyAnswer.written (json.dumps)", corpus, 1, 1, {"native": native, "oracle": oracle})
    series = Histogram(BUCKETS_SECONDS).series(("200",))
    for corpus, spent in (("in the first bucket", 10_000), ("beyond the last", 100 * 10**9)):
        yield Case("Series.record", corpus, 1, 1, {"native": bound(loops.record, series, spent)})


def answer() -> ReadyAnswer:
    """Return a token of the size of Azure's that is valid for a thousand years."""
    now = time.monotonic_ns()
    return TokenAnswer(
        before=b'{"access_token":"' + TOKEN.encode() + b'","expires_in":"',
        after=b'","token_type":"Bearer"}',
        expires_ns=now + 2_000_000 * HOUR_NS,
        fresh_until_ns=now + 2_000_000 * HOUR_NS,
        series=Histogram([1.0]).series(("200",)),
        usage=Usage(),
    )
