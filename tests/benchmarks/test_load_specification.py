"""The load generator rejects invalid groups."""

import pytest

from benchmarks.load import generator
from benchmarks.load.generator import Group, Request
from benchmarks.load.requests import curl

TEXT = b"GET / HTTP/1.1\r\nHost: h\r\nId: 0123456789abcdef\r\n\r\n"


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
    with pytest.raises(ValueError, match=why):
        generator.run("127.0.0.1", 9, [refused], 0.01)


def test_two_groups_of_one_name_are_rejected() -> None:
    one = Group("one", 1, "127.0.0.1", 1, (curl(),))
    with pytest.raises(ValueError, match="a name of its own, not one, one"):
        generator.run("127.0.0.1", 9, [one, one], 0.01)
