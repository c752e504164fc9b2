"""How many may do something at once, in all and of one group, so that no group takes every place from the others."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class Places:
    """Whoever finds no place waits for one, in order of arrival within a group. Knows only groups that are here."""

    def __init__(self, at_once: int, of_one_group: int) -> None:
        self._places = asyncio.Semaphore(at_once)
        self._of_one_group = of_one_group
        self._groups: dict[str, tuple[asyncio.Semaphore, list[None]]] = {}

    @asynccontextmanager
    async def one(self, group: str) -> AsyncIterator[None]:
        """A place for *group*. The group's own limit first: whoever waits for that holds no place of the others."""
        semaphore, members = self._groups.setdefault(group, (asyncio.Semaphore(self._of_one_group), []))
        members.append(None)
        try:
            async with semaphore, self._places:
                yield
        finally:
            members.pop()
            if not members:
                del self._groups[group]

    def __len__(self) -> int:
        """How many are in or waiting."""
        return sum(len(members) for _, members in self._groups.values())
