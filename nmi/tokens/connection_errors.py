"""The cause of a request without a complete response, in words for an operator. Pure.

The texts of the libraries may contain parts of a request, and of a proxy's URL. These words contain neither.
"""

import ssl
from collections.abc import Callable, Iterator
from typing import Any, Final

import aiohttp

DEPTH_MAX: Final = 8


def cause_of(error: BaseException) -> str:
    """Return the cause: the first known exception among *error* and the exceptions that it wraps."""
    for each in _wrapped(error):
        for kind, words in _WORDS:
            if isinstance(each, kind):
                return words if isinstance(words, str) else words(each)
    return type(error).__name__


def _wrapped(error: BaseException) -> Iterator[BaseException]:
    """Yield *error* and what it wraps; azure-core names it `inner_exception`."""
    seen: BaseException | None = error
    for _ in range(DEPTH_MAX):
        if seen is None:
            return
        yield seen
        inner = getattr(seen, "inner_exception", None)
        seen = inner if isinstance(inner, BaseException) and inner is not seen else seen.__cause__ or seen.__context__


def _certificate(error: aiohttp.ClientConnectorCertificateError) -> str:
    cause = error.certificate_error
    reason = f" ({cause.verify_message})" if isinstance(cause, ssl.SSLCertVerificationError) else ""
    return f"its certificate is not trusted{reason}"


def _connection(error: aiohttp.ClientConnectorError) -> str:
    return f"cannot connect ({error.os_error.strerror or type(error.os_error).__name__})"


_WORDS: Final[tuple[tuple[type[BaseException], str | Callable[[Any], str]], ...]] = (
    (aiohttp.ClientConnectorCertificateError, _certificate),
    (aiohttp.ClientConnectorSSLError, "the TLS handshake failed"),
    (aiohttp.ClientHttpProxyError, lambda error: f"the proxy answered {error.status}"),
    (aiohttp.ClientProxyConnectionError, "cannot connect to the proxy"),
    (aiohttp.ClientConnectorDNSError, "its name cannot be resolved"),
    (aiohttp.ClientConnectorError, _connection),
    (aiohttp.ConnectionTimeoutError, "no connection in time"),
    (TimeoutError, "no response in time"),
    (aiohttp.ServerDisconnectedError, "the connection was closed before the response"),
    (aiohttp.ClientPayloadError, "the response is incomplete or too long"),
)
"""The first row whose class an exception has applies; subclasses come before their base class."""
