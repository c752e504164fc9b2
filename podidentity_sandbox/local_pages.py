"""Pages of programs on the loopback of this machine, or of the node whose network the caller has."""

from http.client import HTTPConnection, HTTPException
from typing import Final

PAGE_SECONDS: Final = 5.0
PAGE_MAX: Final = 8 << 20
"""Bytes: more than a page of metrics has."""


def read_local_page(port: int, path: str) -> tuple[int, str, bytes]:
    """Return status, content type and body of a page, cut to PAGE_MAX bytes. Block at most PAGE_SECONDS for each read.
    Raise OSError.
    """
    connection = HTTPConnection("127.0.0.1", port, timeout=PAGE_SECONDS)
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        return response.status, response.headers.get("Content-Type", "text/plain"), response.read(PAGE_MAX)
    except (HTTPException, ValueError) as error:
        raise OSError(f"no HTTP response: {error}") from error
    finally:
        connection.close()
