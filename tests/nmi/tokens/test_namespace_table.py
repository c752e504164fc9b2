"""The bounded table whose entries belong to namespaces: which entry goes beyond the limit, and what that costs."""

import random
from typing import Final

import pytest

from nmi.tokens.namespace_table import NamespaceTable

LIMIT: Final = 500


class Uses:
    """Times of the last use, as of values that are used without the table. Counts how often the table reads one."""

    def __init__(self) -> None:
        self.times: dict[int, float] = {}
        self.reads = 0

    def last_used(self, value: int) -> float:
        self.reads += 1
        return self.times.get(value, 0.0)


def test_the_cost_of_a_new_value_at_the_limit_does_not_grow_with_the_limit() -> None:
    uses, chosen = Uses(), random.Random(29)
    table: NamespaceTable[int, int] = NamespaceTable(LIMIT, last_used=uses.last_used)
    for number in range(10 * LIMIT):
        table.put(number, number, "evil")
        uses.times[chosen.randrange(max(0, number - LIMIT), number + 1)] = float(number)
        table.trim()
    assert len(table) == LIMIT
    assert uses.reads <= 4 * 10 * LIMIT


def test_one_call_looks_at_few_values_although_all_were_used_without_the_table() -> None:
    uses = Uses()
    table: NamespaceTable[int, int] = NamespaceTable(LIMIT, last_used=uses.last_used)
    for number in range(LIMIT + 1):
        table.put(number, number, "evil")
        uses.times[number] = 1.0
    before = uses.reads
    assert table.surplus() is not None
    assert uses.reads - before <= LIMIT // 3


def test_a_value_that_is_used_without_the_table_stays() -> None:
    uses = Uses()
    table: NamespaceTable[int, int] = NamespaceTable(4, last_used=uses.last_used)
    for number in range(50):
        table.put(number, number, "shop")
        uses.times[0] = number
        table.trim()
    assert set(table.view) == {0, 47, 48, 49}


def fill(table: NamespaceTable[int, int], *namespaces: str) -> None:
    for number in range(1_000, 1_100):
        for namespace in namespaces:
            table.put(number, number, namespace)
            table.trim()


@pytest.mark.parametrize("others", [("evil",), ("evil", "bad")], ids=["one", "two"])
@pytest.mark.parametrize("first", [0, 3])
def test_a_value_of_another_namespace_stays_although_greedy_ones_use_it(first: int, others: tuple[str, ...]) -> None:
    table: NamespaceTable[int, int] = NamespaceTable(20)
    for number in range(100, 100 + first):
        table.put(number, number, "evil")
    for number in range(3):
        table.put(number, number, "shop")
    for namespace in others:
        table.use(0, namespace)
    fill(table, *others)
    assert {0, 1, 2} <= set(table.view)


def test_a_new_version_of_a_value_remains_with_those_who_use_it() -> None:
    table: NamespaceTable[int, int] = NamespaceTable(20)
    for number in range(3):
        table.put(number, number, "evil")
    table.use(0, "shop")
    table.put(0, 0, "evil")
    fill(table, "evil")
    assert 0 in table.view
    assert 1 not in table.view


def test_a_value_goes_to_the_namespace_with_the_fewest_of_those_that_use_it() -> None:
    table: NamespaceTable[int, int] = NamespaceTable(20)
    table.put(0, 0, "evil")
    for number in range(1, 9):
        table.put(number, number, "shop")
    for namespace in ("shop", "small"):
        table.use(0, namespace)
    fill(table, "evil")
    for number in range(11, 50):
        table.put(number, number, "shop")
        table.trim()
    assert 0 in table.view
