"""Private CA certificates that a program trusts for Azure's endpoints, in addition to the machine's.

The trust applies to the connections that use `CaBundle.context`: Entra ID, AD FS and Resource Manager. The API server
has its own CA, and IMDS has no TLS.
"""

import asyncio
import logging
import ssl
from pathlib import Path
from typing import Final, Never

log = logging.getLogger(__name__)

REREAD_SECONDS: Final = 10.0
"""Interval of reads of the file. Kubernetes itself takes a minute to update a mounted ConfigMap."""
SIZE_MAX: Final = 4 << 20
"""Bytes. The CA certificates of all browsers have a fifth of a mebibyte, and a ConfigMap holds at most one."""
_BEGIN: Final = "-----BEGIN CERTIFICATE-----"
_ADVICE: Final = f"write PEM certificates ({_BEGIN}) of the authorities to it"


class CaBundleError(Exception):
    """The bundle cannot be used. The message is one line with the next action, without the content of the file."""


class CaBundle:
    """The TLS context that trusts the machine's CA certificates and those in a file. The task `follow` reads it again.

    Certificates that are added to the file are trusted from the next read on, for new connections. A certificate that
    is removed from the file stays trusted until the program ends, because OpenSSL cannot remove it from a context.
    """

    def __init__(self, path: Path) -> None:
        """Raise CaBundleError. Blocking: reads the file and the machine's certificates."""
        self._path = path
        self._problem = ""
        self._loaded = _read(path)
        self.context = ssl.create_default_context()
        # From Python 3.13 on, certificates must conform to RFC 5280. Private CA certificates often lack key identifiers
        # but work with every other client. The chain is still verified.
        self.context.verify_flags &= ~ssl.VERIFY_X509_STRICT
        self.context.load_verify_locations(cadata=self._loaded)

    async def follow(self) -> Never:
        """Read the file periodically. If it has become unusable, log that once and keep the trusted certificates."""
        while True:
            await asyncio.sleep(REREAD_SECONDS)
            await self.reread()

    async def reread(self) -> bool:
        """Read the file. Return whether certificates were loaded from a changed file."""
        try:
            text = await asyncio.to_thread(_read, self._path)
        except CaBundleError as error:
            if str(error) != self._problem:
                self._problem = str(error)
                log.warning(
                    "the changed CA bundle cannot be used, the certificates from before remain trusted; correct the "
                    "file",
                    extra={"error": self._problem},
                )
            return False
        self._problem = ""
        if text == self._loaded:
            return False
        self._loaded = text
        self.context.load_verify_locations(cadata=text)
        log.info(
            "new CA bundle loaded; certificates that are no longer in it remain trusted until a restart",
            extra={"path": str(self._path), "count": text.count(_BEGIN)},
        )
        return True


def _read(path: Path) -> str:
    """Return the file's text, whose certificates OpenSSL accepts. Raise CaBundleError."""
    name = f"--ca-bundle {str(path)!r}"
    try:
        with path.open("rb") as file:
            # One byte more shows that the file is too large, without reading all of it.
            content = file.read(SIZE_MAX + 1)
    except OSError as error:
        raise CaBundleError(
            f"cannot read {name}: {error.strerror}; check the name and the key of its ConfigMap, Secret or host file"
        ) from error
    if len(content) > SIZE_MAX:
        raise CaBundleError(f"{name} has more than {SIZE_MAX} bytes; {_ADVICE}, and nothing else")
    # Comments between certificates may have any encoding; certificates are ASCII.
    text = content.decode("ascii", errors="replace").replace("\ufffd", "?")
    if "PRIVATE KEY-----" in text:
        raise CaBundleError(f"{name} contains a private key; remove it, replace the key, and {_ADVICE}")
    if _BEGIN not in text:
        raise CaBundleError(f"{name} contains no certificate; {_ADVICE}")
    try:
        # In a context of its own: after an error the certificates before the faulty one would remain.
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cadata=text)
    except (ssl.SSLError, ValueError) as error:
        raise CaBundleError(f"{name} contains a damaged certificate ({error}); {_ADVICE}") from error
    return text
