"""Late loading of the machine's CA certificates.

When aiohttp is imported it creates two TLS contexts, and each reads the machine's CA certificates, about 140: 40 % of
the CPU time of MIC's imports. A connection to the API server trusts the cluster's own CA only. A program calls
`import_aiohttp` before any other module imports aiohttp.
"""

import ssl
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

if sys.version_info >= (3, 12):
    from typing import override
else:
    from typing_extensions import override


class LateCaCertificates(ssl.SSLContext):
    """A client's TLS context that loads the machine's CA certificates with its first connection."""

    _loaded = False

    def load(self) -> None:
        """Load the CA certificates unless they are loaded. Blocking: reads files, for 30 ms. Safe in every thread."""
        if not self._loaded:
            self.load_default_certs()
            self._loaded = True

    @override
    def wrap_bio(self, *args: Any, **options: Any) -> ssl.SSLObject:
        self.load()
        return super().wrap_bio(*args, **options)

    @override
    def wrap_socket(self, *args: Any, **options: Any) -> ssl.SSLSocket:
        self.load()
        return super().wrap_socket(*args, **options)


def import_aiohttp() -> None:
    """Import aiohttp without loading CA certificates. No effect after another import of aiohttp.

    aiohttp's own context for verified connections then loads them with its first connection. Contexts that other
    threads create during the import have their CA certificates.
    """
    if "aiohttp.connector" in sys.modules:
        return
    with _no_ca_certificates():
        from aiohttp import connector  # noqa: PLC0415  the function exists for this import
    context = connector._SSL_CONTEXT_VERIFIED  # noqa: SLF001  aiohttp has no other way to replace it
    context.__class__ = LateCaCertificates


@contextmanager
def _no_ca_certificates() -> Iterator[None]:
    importing = threading.get_ident()

    def keep_empty(self: ssl.SSLContext) -> None:
        if threading.get_ident() != importing:
            super(ssl.SSLContext, self).set_default_verify_paths()

    ssl.SSLContext.set_default_verify_paths = keep_empty  # type: ignore[method-assign]
    try:
        yield
    finally:
        del ssl.SSLContext.set_default_verify_paths  # the base class has the real one


def load_ca_certificates() -> None:
    """Load the CA certificates of aiohttp's context now. Blocking: reads files, for 30 ms."""
    from aiohttp import connector  # noqa: PLC0415  this module is imported before aiohttp

    context = connector._SSL_CONTEXT_VERIFIED  # noqa: SLF001  see import_aiohttp
    if isinstance(context, LateCaCertificates):
        context.load()
