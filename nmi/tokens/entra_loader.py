"""The late import of azure-identity: it needs 18 MiB, which a node without service principals should not use.

The loader imports `nmi.tokens.entra`, the only module that imports azure-identity, with the first sign-in and in a
thread. There it also loads the machine's certificate authorities.
"""

import asyncio
import importlib
from typing import TYPE_CHECKING, Final, cast

from podidentity.late_authorities import load_authorities

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
                self._class = await asyncio.to_thread(_load)
        return self._class


def _load() -> "type[entra.Entra]":
    load_authorities()  # else the first connection would load them in the event loop
    return cast("type[entra.Entra]", importlib.import_module(ENTRA).Entra)
