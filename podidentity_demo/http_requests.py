"""The demo's two ways to ask: plain HTTP by the standard library, and a token by azure-identity, as applications do."""

import http.client
import json
import re
import ssl
from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import urlsplit

import requests
from azure.core.exceptions import AzureError
from azure.core.pipeline.transport import RequestsTransport
from azure.identity import ManagedIdentityCredential
from requests.adapters import HTTPAdapter
from typing_extensions import override

TRY_SECONDS: Final = 80.0
"""As the reference's demo; longer than NMI holds a request whose identity is still being assigned."""
BODY_MAX: Final = 1 << 20  # no answer that this program asks for is larger
TEXT_MAX: Final = 300
_TOKEN_LIKE: Final = re.compile(r"[\w-]{16,}\.[\w-]{16,}(?:\.[\w-]*)?")


class AskError(Exception):
    """What was asked for did not come. The text is one line and holds nothing secret."""

    def __init__(self, text: str, *, status: int = 0) -> None:
        super().__init__(presentable(text))
        self.status = status
        """The HTTP status of the answer; 0: there was none."""


def presentable(text: str) -> str:
    """*text* as one printable line of at most TEXT_MAX characters, with what looks like a token left out."""
    line = " ".join(_TOKEN_LIKE.sub("(left out)", text).split())
    return "".join(each if each.isprintable() else "?" for each in line)[:TEXT_MAX]


def get(server: str, path: str, headers: Mapping[str, str], *, source: str = "", proxy: str = "") -> dict[str, Any]:
    """The JSON object at *path* of *server* (a URL without path), by a connection of its own. Follows no redirect.

    *source* is the address to ask from, *proxy* the host and port of a proxy for https. Raises AskError.
    """
    connection = _connection(server, source, proxy)
    try:
        connection.request("GET", path, headers=dict(headers))
        response = connection.getresponse()
        body = response.read(BODY_MAX)
    except (OSError, http.client.HTTPException, ValueError) as failure:
        raise AskError(f"no answer from {server}: {type(failure).__name__}: {failure}") from failure
    finally:
        connection.close()
    if response.status != http.client.OK:
        raise AskError(f"{server} answers {response.status}: {_said(body)}", status=response.status)
    try:
        document = json.loads(body)
    except ValueError as failure:
        raise AskError(f"{server} answers with something that is no JSON", status=response.status) from failure
    if not isinstance(document, dict):
        raise AskError(f"{server} answers with JSON that is no object", status=response.status)
    return document


def _connection(server: str, source: str, proxy: str) -> http.client.HTTPConnection:
    where = urlsplit(server)
    from_address = (source, 0) if source else None
    if where.scheme != "https":
        return http.client.HTTPConnection(where.netloc, timeout=TRY_SECONDS, source_address=from_address)
    context = ssl.create_default_context()
    if not proxy:
        return http.client.HTTPSConnection(
            where.netloc, timeout=TRY_SECONDS, source_address=from_address, context=context
        )
    connection = http.client.HTTPSConnection(proxy, timeout=TRY_SECONDS, source_address=from_address, context=context)
    connection.set_tunnel(where.hostname or "", where.port or 443)
    return connection


def _said(body: bytes) -> str:
    """The words in an error's body, as IMDS, AAD and Azure Resource Manager put them; else its beginning."""
    text = body[: 4 * TEXT_MAX].decode(errors="replace")
    try:
        document = json.loads(body)
    except ValueError:
        return text
    if isinstance(document, dict):
        error = document.get("error")
        if isinstance(error, dict):
            return f"{error.get('code', '')}: {error.get('message', '')}"
        if isinstance(error, str):
            return f"{error}: {document.get('error_description', '')}"
    return text


def token_by_sdk(resource: str, *, source: str = "") -> str:
    """A token without naming an identity, by Azure's own library; it finds the metadata service by itself.

    Neither a retry nor a token of an earlier call is the library's to give: each call asks once. Raises AskError.
    """
    statuses = [0]  # the library's errors do not always tell it
    with requests.Session() as session:
        session.hooks["response"].append(lambda answer, **_: statuses.append(answer.status_code))
        if source:
            session.mount("http://", _FromAddress(source))
        transport = RequestsTransport(session=session, session_owner=False, read_timeout=TRY_SECONDS)
        with ManagedIdentityCredential(transport=transport, retry_total=0, retry_status=0) as credential:
            try:
                token: str = credential.get_token(f"{resource}/.default").token
            except AzureError as failure:
                raise AskError(f"azure-identity: {failure.message}", status=statuses[-1]) from failure
    return token


class _FromAddress(HTTPAdapter):
    """Connects from one address of several."""

    def __init__(self, address: str) -> None:
        self._address = address
        super().__init__()

    @override
    def init_poolmanager(self, *args: Any, **options: Any) -> None:
        super().init_poolmanager(*args, **options, source_address=(self._address, 0))
