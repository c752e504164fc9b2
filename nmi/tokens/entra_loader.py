"""The late import of azure-identity: it needs 18 MiB, which a node without service principals should not use.

The loader imports `nmi.tokens.entra`, the only module that imports azure-identity, with the first sign-in and in a
thread.
"""

import asyncio
import importlib
from typing import TYPE_CHECKING, Final, cast

if TYPE_CHECKING:
    from nmi.tokens import entra

ENTRA: Final = "nmi.tokens.entra"


class Loader:
    """Loader of `nmi.tokens.entra`."""

    def __init__(self) -> None:
        self._lock = asyncio.Lock()
        self._class: type[entra.Entra] | None = None

    async def load(self) -> "type[entra.Entra]":
        """Return the class Entra. The first call takes 0.2 s in a thread; concurrent calls wait for the same import."""
        async with self._lock:
            if self._class is None:
                module = await asyncio.to_thread(importlib.import_module, ENTRA)
                self._class = cast("type[entra.Entra]", module.Entra)
        return self._class
