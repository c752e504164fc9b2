"""The guard of request costs: it parses callgrind's and strace's output and compares the counts with the baseline."""

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from benchmarks.guard import callgrind
from benchmarks.guard.baseline import (
    BASELINE,
    Baseline,
    Counts,
    Environment,
    deviations,
    nearest,
    read,
    write,
)
from benchmarks.guard.callgrind import Dump, Function
from benchmarks.guard.counting import between_marks, least, per_request

HERE = Environment("x86_64", "gcc 12", "3.3", "3.11", "3.11.7 GCC 12.2.0, glibc 2.36, uvloop 0.23.0")
OTHER_BUILD = replace(HERE, build="3.11.9 GCC 13.1.0, glibc 2.36, uvloop 0.23.0")
OTHER_PYTHON = replace(OTHER_BUILD, python="3.12")
ELSEWHERE = Environment("aarch64", "clang 17", "3.2", "3.13", "3.13.0 Clang 17, glibc 2.39, uvloop 0.23.0")
COUNTS = Counts(
    instructions=5600.0,
    native=4800.0,
    allocations=0.5,
    system_calls={"recvfrom": 1.0, "sendto": 1.0, "epoll_wait": 0.031},
    functions={"scan:scan_head": 3000.0, "query:read_query": 1200.0, "libc:memcmp": 200.0},
)
BASE = Baseline(HERE, {"keep-alive": COUNTS})


def deviations_of(environment: Environment = HERE, **now: Any) -> list[str]:
    return deviations(BASE, environment, {"keep-alive": replace(COUNTS, **now)})


CALLS = COUNTS.system_calls
FEWER_CALLS = {"recvfrom": 1.0, "sendto": 1.0}


@pytest.mark.parametrize(
    ("environment", "now"),
    [
        (HERE, {}),
        (HERE, {"instructions": 5600 * 1.029, "native": 4800 * 1.029}),
        (HERE, {"instructions": 5600 * 0.971, "native": 4800 * 0.971}),
        (OTHER_BUILD, {"instructions": 5600 * 1.2}),
        (OTHER_PYTHON, {"native": 4800 * 1.2}),
        (OTHER_PYTHON, {"allocations": 0.1, "system_calls": FEWER_CALLS}),
    ],
    ids=["equal", "3% more", "3% fewer", "Python's code in another build", "another Python", "less in another Python"],
)
def test_a_change_within_the_limit_is_accepted(environment: Environment, now: dict[str, Any]) -> None:
    assert deviations_of(environment, **now) == []


@pytest.mark.parametrize(
    ("environment", "now", "expected"),
    [
        (HERE, {"instructions": 5600 * 1.031}, r"(?!.*in _native).*\+3\.1%.*at most 3%"),
        (HERE, {"instructions": 5600 * 0.969}, r"(?!.*in _native).*-3\.1%.*at most 3%"),
        (HERE, {"native": 4800 * 1.031}, r".*\+3\.1%.*in _native.*at most 3%"),
        (HERE, {"native": 4800 * 0.969}, r".*-3\.1%.*in _native.*at most 3%"),
        (HERE, {"system_calls": {**CALLS, "sendto": 2.0}}, r".*1\.00 -> 2\.00 \(\+100\.0%\) calls of sendto"),
        (HERE, {"system_calls": FEWER_CALLS}, r".*0\.03 -> 0\.00 \(-100\.0%\) calls of epoll_wait"),
        (HERE, {"system_calls": {**CALLS, "futex": 0.01}}, r".*0\.00 -> 0\.01 calls of futex"),
        (HERE, {"allocations": 0.53}, ".*allocations a request"),
        (HERE, {"allocations": 0.47}, ".*allocations a request"),
        (OTHER_BUILD, {"native": 4800 * 1.031}, ".*at most 3%"),
        (OTHER_PYTHON, {"native": 4800 * 1.26}, ".*at most 25%"),
        (OTHER_PYTHON, {"allocations": 0.7}, ".*allocations a request"),
        (OTHER_PYTHON, {"system_calls": {**CALLS, "epoll_ctl": 1.0}}, ".*calls of epoll_ctl"),
    ],
)
def test_a_change_beyond_the_limit_is_reported(environment: Environment, now: dict[str, Any], expected: str) -> None:
    (line,) = deviations_of(environment, **now)
    assert re.match(expected, line)


def test_a_batch_that_only_one_side_has_is_reported() -> None:
    found = {"keep-alive": COUNTS, "new": COUNTS}
    assert deviations(BASE, HERE, found) == ["new: only counted."]
    assert deviations(Baseline(HERE, found), HERE, {"keep-alive": COUNTS}) == ["new: only in the baseline."]


def test_the_baseline_of_the_same_environment_or_else_of_the_same_machine_and_python_is_used() -> None:
    every = [Baseline(each, {}) for each in (ELSEWHERE, OTHER_PYTHON, OTHER_BUILD, HERE)]
    assert nearest(every, HERE).environment == HERE
    assert nearest(every[:3], HERE).environment == OTHER_BUILD
    assert nearest(every[:2], HERE).environment == OTHER_PYTHON
    assert nearest(every[:1], HERE).environment == ELSEWHERE


def test_a_written_baseline_can_be_read(tmp_path: Path) -> None:
    write([BASE], tmp_path / "baseline.json")
    assert read(tmp_path / "baseline.json") == [BASE]


def test_the_committed_baseline_lists_the_system_calls_of_the_hot_path() -> None:
    """The numbers of the design: a response takes one recv and one send, independently of other clients."""
    for base in read(BASELINE):
        calls = base.batches["keep-alive on 32 connections"].system_calls
        assert {name: calls[name] for name in ("recvfrom", "sendto")} == {"recvfrom": 1.0, "sendto": 1.0}
        assert sum(calls.values()) < 2.1
        assert base.batches["keep-alive on 32 connections"].allocations < 0.1


DUMP = """# callgrind format
version: 1
cmd:  python -m benchmarks.guard.batches

desc: Timerange: Basic block 1 - 2
desc: Trigger: Client Request: keep-alive

positions: line
events: Ir
summary: 1500

ob=/site/_native/lane.cpython-311-x86_64-linux-gnu.so
fl=/site/_native/lane.c
fn=turn
10 100
cob=/lib/x86_64-linux-gnu/libc.so.6
cfi=???
cfn=send
calls=20 0
11 400
fi=/include/object.h
12 200
cfn=own_callee
calls=10 0
13 300

fn=own_callee
20 300

ob=/lib/x86_64-linux-gnu/libc.so.6
fl=???
fn=send
0 400

fn=send'2
0 500
"""


def test_own_cost_and_calls_are_separated() -> None:
    dump = callgrind.read(DUMP.splitlines(keepends=True))

    turn, callee, send = Function("turn", "lane"), Function("own_callee", "lane"), Function("send", "libc")
    assert dump.name == "keep-alive"
    assert dump.own == {turn: 300, callee: 300, send: 400, Function("send'2", "libc"): 500}
    assert dump.calls == {send: 20, callee: 10}
    assert dump.with_callees == {send: 400, callee: 300}
    assert dump.total() == 1500


def test_recursion_counts_as_one_function_and_the_markers_are_left_out() -> None:
    dump = callgrind.read(DUMP.splitlines(keepends=True))
    dump.own[Function("begin", "marks")] = 700
    dump.own[Function("clock_gettime", "steady")] = 700

    assert per_request(dump, 100) == {"lane:turn": 3.0, "lane:own_callee": 3.0, "libc:send": 9.0}


def test_of_repeated_dumps_the_one_with_the_fewest_instructions_counts() -> None:
    every = [Dump("a"), Dump("a"), Dump("b")]
    for dump, count in zip(every, (5, 3, 9), strict=True):
        dump.own[Function("f", "o")] = count

    assert least(every) == {"a": every[1], "b": every[2]}


TRACE = """7 epoll_wait(3, [], 64, 0) = 0
7 write(-1, "begin", 5) = -1 EBADF (Bad file descriptor)
7 recvfrom(9, "GET /"..., 16384, MSG_DONTWAIT, NULL, NULL) = 217
8 futex(0x7f, FUTEX_WAIT_PRIVATE, 0, NULL <unfinished ...>
7 sendto(9, "HTTP/1.1"..., 1900, MSG_DONTWAIT|MSG_NOSIGNAL, NULL, 0) = 1900
8 <... futex resumed>) = 0
7 write(1, "begin", 5) = 5
7 write(-1, "end", 3) = -1 EBADF (Bad file descriptor)
7 close(9) = 0
7 write(-1, "keep-alive", 10) = -1 EBADF (Bad file descriptor)
7 write(-1, "begin", 5) = -1 EBADF (Bad file descriptor)
7 close(9) = 0
7 write(-1, "end", 3) = -1 EBADF (Bad file descriptor)
7 write(-1, "connection per request", 22) = -1 EBADF (Bad file descriptor)
"""


def test_only_system_calls_between_the_markers_count_for_each_batch() -> None:
    assert between_marks(TRACE.splitlines()) == [
        ("keep-alive", {"recvfrom": 1, "futex": 1, "sendto": 1, "write": 1}),
        ("connection per request", {"close": 1}),
    ]
