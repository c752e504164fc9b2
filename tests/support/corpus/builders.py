"""Builders of the requests: each test case states only what differs from a usual request."""

from typing import Final

TOKEN: Final = "/metadata/identity/oauth2/token"
INSTANCE: Final = "/metadata/instance"
METADATA: Final = "Metadata: true"
RESOURCE: Final = "resource=https%3A%2F%2Fmanagement.azure.com%2F"
QUERY: Final = f"api-version=2018-02-01&{RESOURCE}"


def request(target: str = INSTANCE, *fields: str, method: str = "GET", body: bytes = b"") -> bytes:
    """Return a request with these fields and a Host."""
    return "\r\n".join([f"{method} {target} HTTP/1.1", "Host: a", *fields, "", ""]).encode("latin-1") + body


def events(*fields: str, body: bytes = b"") -> bytes:
    """Return a POST to a path that NMI does not forward."""
    return request("/metadata/scheduledevents", *fields, method="POST", body=body)


def plain(
    *fields: str,
    method: str = "GET",
    path: str = TOKEN,
    query: str | None = QUERY,
    version: str = "HTTP/1.1",
    host: str | None = "Host: 169.254.169.254",
    metadata: str | None = METADATA,
    body: bytes = b"",
) -> bytes:
    """Return a token request with *fields* at its end. Without other arguments, NMI answers it with a token."""
    target = path if query is None else f"{path}?{query}"
    head = [f"{method} {target} {version}", host, metadata, *fields, "", ""]
    return "\r\n".join(line for line in head if line is not None).encode("latin-1") + body
