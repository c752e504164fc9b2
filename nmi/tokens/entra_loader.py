"""The late import of azure-identity and aiohttp: they need 28 MiB, which a node without sign-ins should not use.

The loader imports `nmi.tokens.entra`, the only module that imports azure-identity, with the first sign-in and in a
thread. There it also loads the machine's CA certificates.
"""

import asyncio
import importlib
from ssl import SSLContext
from typing import TYPE_CHECKING, Final, cast

from podidentity.late_ca_certificates import import_aiohttp, load_ca_certificates

if TYPE_CHECKING:
    import aiohttp

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
                # The import would stop the event loop, and so the requests of all pods, for 0.2 s.
                self._class = await asyncio.to_thread(_load)
        return self._class


class SignInSession:
    """The session of all sign-ins, which is opened with the first one. Close it with `aclose()`."""

    def __init__(self, user_agent: str, *, trust: SSLContext | None = None) -> None:
        """*trust* replaces the CA certificates that the machine trusts."""
        self._user_agent = user_agent
        self._trust = trust
        self._session: aiohttp.ClientSession | None = None

    def open(self) -> "aiohttp.ClientSession":
        """Return the session. Call this after `Loader.load`, which has imported aiohttp in a thread."""
        if self._session is None:
            from nmi.tokens.entra import new_session  # noqa: PLC0415  imported by then, in a thread

            self._session = new_session(self._user_agent, trust=self._trust)
        return self._session

    async def aclose(self) -> None:
        """Close the session if it is open."""
        if self._session is not None:
            await self._session.close()


def _load() -> "type[entra.Entra]":
    import_aiohttp()
    load_ca_certificates()  # else the first connection would load them in the event loop
    return cast("type[entra.Entra]", importlib.import_module(ENTRA).Entra)
