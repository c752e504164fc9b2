"""Brings in azure-identity late: it costs 18 MiB, which a node without service principals should not pay.

`nmi.tokens.entra`, which alone imports it, is loaded when the first service principal asks, and away from the loop.
"""

import asyncio
import importlib
from typing import TYPE_CHECKING, Final, cast

if TYPE_CHECKING:
    from nmi.tokens import entra

ENTRA: Final = "nmi.tokens.entra"


class Loader:
    """Brings in `nmi.tokens.entra` once it is needed."""

    def __init__(self) -> None:
        self._lock = asyncio.Lock()
        self._class: type[entra.Entra] | None = None

    async def load(self) -> "type[entra.Entra]":
        """Its class. The first call takes a fifth of a second, in a thread; who asks meanwhile waits for the same."""
        async with self._lock:
            if self._class is None:
                module = await asyncio.to_thread(importlib.import_module, ENTRA)
                self._class = cast("type[entra.Entra]", module.Entra)
        return self._class
