"""The bounded table whose entries belong to namespaces: which entry goes beyond the limit, and what that costs."""

import random
from typing import Final

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


def test_a_value_that_is_used_without_the_table_stays() -> None:
    uses = Uses()
    table: NamespaceTable[int, int] = NamespaceTable(4, last_used=uses.last_used)
    for number in range(50):
        table.put(number, number, "shop")
        uses.times[0] = number
        table.trim()
    assert set(table.view) == {0, 47, 48, 49}
