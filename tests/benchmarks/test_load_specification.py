"""The load generator reads its specification strictly: each invalid one has a valid neighbour."""

import subprocess

import pytest

from benchmarks.load import generator
from benchmarks.load.generator import Group, Request
from benchmarks.load.requests import curl

TEXT = b"GET / HTTP/1.1\r\nHost: h\r\nId: 0123456789abcdef\r\n\r\n"
GOOD = (
    b"server 127.0.0.1 9\ncore -1\nmicroseconds 0 1000\ngroups 1\ngroup 1 127.0.0.1 1 keep closed 1\n"
    b"request %d 1 29\n%s\nend\n" % (len(TEXT), TEXT)
)
"""Load of a millisecond on a port without a server: the errors are part of the result."""
REFUSED_AND_PASSING: dict[str, tuple[tuple[bytes, bytes], tuple[bytes, bytes]]] = {
    "no IPv4 address": ((b"server 127.0.0.1", b"server localhost"), (b"server 127.0.0.1", b"server 127.0.0.2")),
    "two spaces": ((b"server 127", b"server  127"), (b"server 127", b"server 127")),
    "port 0": ((b".1 9\n", b".1 0\n"), (b".1 9\n", b".1 1\n")),
    "port 65536": ((b".1 9\n", b".1 65536\n"), (b".1 9\n", b".1 65535\n")),
    "a port with letters": ((b".1 9\n", b".1 9x\n"), (b".1 9\n", b".1 09\n")),
    "core -2": ((b"core -1", b"core -2"), (b"core -1", b"core 0")),
    "no core": ((b"core -1", b"core "), (b"core -1", b"core -1")),
    "no time": ((b"0 1000\n", b"0 0\n"), (b"0 1000\n", b"0 1\n")),
    "over a minute": ((b" 0 1000\n", b" 59999000 1001\n"), (b" 0 1000\n", b" 2000 1000\n")),
    "a negative time": ((b" 0 1000\n", b" -1 1000\n"), (b" 0 1000\n", b" 1 1000\n")),
    "no groups": ((b"groups 1", b"groups 0"), (b"groups 1", b"groups 1")),
    "too many groups": ((b"groups 1", b"groups 17"), (b"groups 1", b"groups 1")),
    "fewer groups than it says": ((b"groups 1", b"groups 2"), (b"groups 1", b"groups 1")),
    "no connections": ((b"group 1 ", b"group 0 "), (b"group 1 ", b"group 2 ")),
    "20,001 connections": ((b"group 1 ", b"group 20001 "), (b"group 1 ", b"group 200 ")),
    "no sources": ((b".1 1 keep", b".1 0 keep"), (b".1 1 keep", b".1 2 keep")),
    "sources beyond the last address": (
        (b"127.0.0.1 1 keep", b"255.255.255.255 2 keep"),
        (b"127.0.0.1 1 keep", b"127.255.255.254 2 keep"),
    ),
    "another word than keep or close": ((b"keep", b"kept"), (b"keep", b"close")),
    "a rate of 0": ((b"keep closed", b"keep 0"), (b"keep closed", b"keep 1")),
    "over a million a second": ((b"keep closed", b"keep 1000000001"), (b"keep closed", b"keep 1000000000")),
    "no requests": ((b"closed 1", b"closed 0"), (b"closed 1", b"closed 1")),
    "five ids": ((b" 1 29\n", b" 5 29 29 29 29 29\n"), (b" 1 29\n", b" 4 29 29 29 29\n")),
    "an offset too many": ((b" 1 29\n", b" 0 29\n"), (b" 1 29\n", b" 0\n")),
    "an offset where there are no digits": ((b" 1 29\n", b" 1 28\n"), (b" 1 29\n", b" 1 29\n")),
    "too few digits": ((b" 1 29\n", b" 1 30\n"), (b" 1 29\n", b" 1 29\n")),
    "an offset outside": ((b" 1 29\n", b" 1 9999\n"), (b" 1 29\n", b" 1 29\n")),
    "a length too short": ((b"request %d" % len(TEXT), b"request %d" % (len(TEXT) - 1)), (b"end", b"end")),
    "a length too long": ((b"request %d" % len(TEXT), b"request 8000"), (b"end", b"end")),
    "no empty line at the request's end": ((b"\r\n\r\n\n", b"\r\n\n\r\n"), (b"end", b"end")),
    "no end": ((b"end\n", b""), (b"end", b"end")),
    "more after the end": ((b"end\n", b"end\n\n"), (b"end", b"end")),
}


def asked(specification: bytes) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run([generator.built()], input=specification, capture_output=True, check=False, timeout=50)


@pytest.mark.parametrize("case", REFUSED_AND_PASSING)
def test_an_invalid_specification_is_rejected_with_one_sentence_and_a_similar_valid_one_is_not(case: str) -> None:
    refused, passing = (GOOD.replace(old, new, 1) for old, new in REFUSED_AND_PASSING[case])
    assert refused != GOOD
    done = asked(refused)
    assert (done.returncode, done.stdout) == (2, b"")
    assert done.stderr.startswith(b"specification, line ")
    assert done.stderr.count(b"\n") == 1
    done = asked(passing)
    assert (done.returncode, done.stderr) == (0, b"")


def test_twenty_thousand_connections_are_accepted() -> None:
    done = asked(GOOD.replace(b"group 1 ", b"group 20000 ", 1))
    assert done.returncode == 0 or b"20000 connections need as many open files" in done.stderr


def test_every_prefix_of_a_specification_is_rejected() -> None:
    for end in range(0, len(GOOD), 7):
        assert asked(GOOD[:end]).returncode == 2


def test_an_endless_specification_is_cut_off() -> None:
    assert asked(GOOD + b" " * (4 << 20)).stderr.startswith(b"specification: it is longer than")


def test_an_error_of_the_machine_has_its_own_type() -> None:
    done = asked(GOOD.replace(b"127.0.0.1 1 keep", b"192.0.2.1 1 keep"))
    assert done.returncode == 1
    assert b"192.0.2.1 is no address to send from" in done.stderr
    done = asked(GOOD.replace(b"core -1", b"core 1023"))
    assert done.returncode == 1
    assert done.stderr.startswith(b"core 1023: ")


@pytest.mark.parametrize(
    ("refused", "why"),
    [
        (Group("one", 0, "127.0.0.1", 1, (curl(),)), "line 5: CONNECTIONS has to be a number from 1 to 20000"),
        (Group("one", 1, "localhost", 1, (curl(),)), "line 5: FIRST_SOURCE is no IPv4 address"),
        (Group("one", 1, "127.0.0.1", 1, ()), "line 5: REQUESTS"),
        (Group("one", 1, "127.0.0.1", 1, (curl(),), rate=0), "line 5: MILLIHERTZ"),
        (Group("one", 1, "127.0.0.1", 1, (Request(TEXT, (3,)),)), "OFFSET is not where 16 hexadecimal digits begin"),
    ],
)
def test_a_rejection_raises_a_value_error_for_the_caller(refused: Group, why: str) -> None:
    good = Group("one", 1, "127.0.0.1", 1, (Request(TEXT, (29,)),))
    with pytest.raises(ValueError, match=why):
        generator.run("127.0.0.1", 9, [refused], 0.01)
    assert generator.run("127.0.0.1", 9, [good], 0.01, warm_seconds=0).groups["one"].errors


def test_two_groups_of_one_name_are_rejected() -> None:
    one, two = (Group(name, 1, "127.0.0.1", 1, (curl(),)) for name in ("one", "two"))
    with pytest.raises(ValueError, match="a name of its own, not one, one"):
        generator.run("127.0.0.1", 9, [one, one], 0.01)
    assert generator.run("127.0.0.1", 9, [one, two], 0.01, warm_seconds=0).groups.keys() == {"one", "two"}
