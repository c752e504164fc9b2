"""The output of callgrind and strace is parsed."""

from benchmarks.guard.callgrind import Dump, Function, read
from benchmarks.guard.counting import between_marks, least, per_request

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
    dump = read(DUMP.splitlines(keepends=True))

    turn, callee, send = Function("turn", "lane"), Function("own_callee", "lane"), Function("send", "libc")
    assert dump.name == "keep-alive"
    assert dump.own == {turn: 300, callee: 300, send: 400, Function("send'2", "libc"): 500}
    assert dump.calls == {send: 20, callee: 10}
    assert dump.with_callees == {send: 400, callee: 300}
    assert dump.total() == 1500


def test_recursion_counts_as_one_function_and_the_markers_are_left_out() -> None:
    dump = read(DUMP.splitlines(keepends=True))
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
