"""The connections of sign-ins. `nmi.tokens.entra_loader` imports this module with the first sign-in."""

import ssl
import sys
from typing import Final

import aiohttp

from nmi.tokens.sign_in import CONNECTIONS

if sys.version_info >= (3, 12):
    from typing import override
else:
    from typing_extensions import override

ANSWER_MAX: Final = 64 * 1024
"""Bytes. A token with every optional claim and group stays under 16 KiB."""


class BoundedResponse(aiohttp.ClientResponse):
    """A response whose body is read up to ANSWER_MAX only."""

    @override
    async def read(self) -> bytes:
        """Return the whole body. Raise ClientPayloadError if it is too long."""
        body = bytearray()
        async for chunk in self.content.iter_any():
            body += chunk
            if len(body) > ANSWER_MAX:
                self.close()
                raise aiohttp.ClientPayloadError(f"a response of more than {ANSWER_MAX} bytes")
        return bytes(body)


def new_session(
    user_agent: str, connector: aiohttp.TCPConnector | None = None, *, trust: ssl.SSLContext | None = None
) -> aiohttp.ClientSession:
    """Return a session for sign-ins only. The caller closes it. It ignores the environment.

    *trust* replaces the authorities that the machine trusts. *connector* is for tests; the session owns it.
    """
    return aiohttp.ClientSession(
        connector=connector or aiohttp.TCPConnector(limit=CONNECTIONS, ssl=trust or True),
        response_class=BoundedResponse,
        cookie_jar=aiohttp.DummyCookieJar(),
        headers={"User-Agent": user_agent, "Accept": "application/json", "Accept-Encoding": "identity"},
        trust_env=False,
    )
