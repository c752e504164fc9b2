"""Azure Blob Storage: containers and block blobs of any account, in memory, for callers with a token of the sandbox.

It serves what command-line tools need for a listing, an upload, a download and a lease. Shared keys and SAS tokens are
refused, so that a call that succeeds shows which identity has made it. A caller reaches every account.
"""

import base64
import email.utils
import hashlib
import re
import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final
from xml.etree import ElementTree
from xml.sax.saxutils import escape

from aiohttp import web
from typing_extensions import override

from podidentity_sandbox.azure import AzureEmulator
from podidentity_sandbox.certificates import Authority
from podidentity_sandbox.directory import Directory
from podidentity_sandbox.network import Network
from podidentity_sandbox.sandbox import Sandbox
from podidentity_sandbox.serving import FaultyService
from podidentity_sandbox.tokens import InvalidTokenError, TokenMint

NAMES: Final = ("*.blob.core.windows.net", "*.dfs.core.windows.net")
ROLES: Final = ("Storage Blob Data Contributor", "Storage Blob Data Owner")
_AUDIENCE: Final = re.compile(r"https://(storage\.azure\.com|[a-z0-9]+\.blob\.core\.windows\.net)/?", re.IGNORECASE)
_BYTES: Final = re.compile(r"bytes=(\d{1,15})-(\d{0,15})", re.ASCII)


@dataclass(slots=True)
class StorageCall:
    """One request and its response."""

    method: str
    account: str
    path: str
    status: int = 0
    caller: str = ""
    """The object id in the caller's token."""


@dataclass(slots=True)
class _Blob:
    content: bytes
    modified: float
    headers: dict[str, str] = field(default_factory=dict)
    lease: str = ""
    etag: str = field(default_factory=lambda: f'"0x{uuid.uuid4().hex[:15].upper()}"')


@dataclass(slots=True)
class _Container:
    modified: float
    blobs: dict[str, _Blob] = field(default_factory=dict)
    blocks: dict[tuple[str, str], bytes] = field(default_factory=dict)
    """Uncommitted blocks, by the name of their blob and their id."""


class _RefusalError(Exception):
    def __init__(self, status: int, code: str, message: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.headers = dict(headers or {})


class Storage(FaultyService):
    """The emulator. *clock* gives Unix seconds."""

    def __init__(self, directory: Directory, mint: TokenMint, *, clock: Callable[[], float] = time.time) -> None:
        super().__init__()
        self.calls: list[StorageCall] = []
        self._directory = directory
        self._mint = mint
        self._clock = clock
        self._containers: dict[tuple[str, str], _Container] = {}

    def add_container(self, account: str, name: str) -> None:
        """Create the container in the account. An existing one stays."""
        self._containers.setdefault((account, name), _Container(self._clock()))

    @override
    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        """Answer one request of an account, which is the first label of the host."""
        account = request.host.partition(".")[0].lower()
        call = StorageCall(request.method, account, request.path)
        self.calls.append(call)
        try:
            call.caller = self._authorized(request)
            response = await self._respond(request, account)
        except _RefusalError as refusal:
            text = f"<Error><Code>{refusal.code}</Code><Message>{escape(str(refusal))}</Message></Error>"
            response = _xml(text, status=refusal.status, headers={"x-ms-error-code": refusal.code, **refusal.headers})
        call.status = response.status
        response.headers["x-ms-request-id"] = str(uuid.uuid4())
        response.headers["x-ms-version"] = request.headers.get("x-ms-version", "2023-11-03")
        return response

    def _authorized(self, request: web.BaseRequest) -> str:
        """Return the caller's object id. Raise _RefusalError."""
        challenge = {
            "WWW-Authenticate": "Bearer authorization_uri=https://login.microsoftonline.com/"
            f"{self._directory.tenant_id}/oauth2/authorize resource_id=https://storage.azure.com"
        }
        try:
            claims = self._mint.bearer_claims(request.headers.get("Authorization", ""))
        except InvalidTokenError as wrong:
            raise _RefusalError(401, "InvalidAuthenticationInfo", f"{wrong}", challenge) from wrong
        if claims is None:
            raise _RefusalError(401, "NoAuthenticationInformation", "The sandbox accepts only tokens.", challenge)
        if not _AUDIENCE.fullmatch(str(claims["aud"])):
            raise _RefusalError(401, "InvalidAuthenticationInfo", "Audience validation failed.", challenge)
        if not self._directory.may(str(claims["oid"]), ROLES):
            raise _RefusalError(
                403, "AuthorizationPermissionMismatch", f"The identity {claims['oid']} has none of the roles {ROLES}."
            )
        return str(claims["oid"])

    async def _respond(self, request: web.BaseRequest, account: str) -> web.Response:
        query = request.rel_url.query
        container, _, blob = request.path.strip("/").partition("/")
        if not container:
            if request.method == "GET" and query.get("comp") == "list":
                return self._listed_containers(account)
            if query.get("restype") == "account":
                return web.Response(headers={"x-ms-account-kind": "StorageV2", "x-ms-sku-name": "Standard_LRS"})
            raise _RefusalError(400, "UnsupportedRequest", "The sandbox serves lists, containers and blobs.")
        body = await request.read()
        if not blob:
            return self._container(request, (account, container))
        container_ = self._containers.get((account, container))
        if container_ is None:
            raise _RefusalError(404, "ContainerNotFound", f"There is no container {container[:100]}.")
        return self._blob(request, container_, blob, body)

    def _listed_containers(self, account: str) -> web.Response:
        names = sorted(name for owner, name in self._containers if owner == account)
        listed = "".join(f"<Container><Name>{escape(name)}</Name></Container>" for name in names)
        return _xml(f"<EnumerationResults><Containers>{listed}</Containers><NextMarker/></EnumerationResults>")

    def _container(self, request: web.BaseRequest, key: tuple[str, str]) -> web.Response:
        existing = self._containers.get(key)
        if request.method == "PUT":
            if existing is not None:
                raise _RefusalError(409, "ContainerAlreadyExists", "The container exists.")
            self._containers[key] = _Container(self._clock())
            return web.Response(status=201)
        if existing is None:
            raise _RefusalError(404, "ContainerNotFound", f"There is no container {key[1][:100]}.")
        if request.method == "DELETE":
            del self._containers[key]
            return web.Response(status=202)
        if request.rel_url.query.get("comp") == "list":
            return _xml(_listed_blobs(existing, key[1], request.rel_url.query))
        return web.Response(headers={"Last-Modified": _date(existing.modified), "ETag": '"0x1"'})

    def _blob(self, request: web.BaseRequest, container: _Container, name: str, body: bytes) -> web.Response:
        part = request.rel_url.query.get("comp", "")
        if request.method == "PUT" and part in {"", "block", "blocklist"}:
            return self._put(request, container, name, body)
        stored = container.blobs.get(name)
        if stored is None:
            raise _RefusalError(404, "BlobNotFound", f"There is no blob {name[:100]}.")
        if request.method == "PUT" and part == "lease":
            return _leased(stored, request.headers)
        _check_lease(stored, request)
        if request.method == "PUT" and part in {"metadata", "properties"}:
            stored.headers = _kept(request.headers)
            return _of(stored, web.Response())
        if request.method == "DELETE":
            del container.blobs[name]
            return web.Response(status=202)
        if request.method not in {"GET", "HEAD"}:
            raise _RefusalError(405, "UnsupportedHttpVerb", f"{request.method} is not served here.")
        return _of(stored, _content(stored, request))

    def _put(self, request: web.BaseRequest, container: _Container, name: str, body: bytes) -> web.Response:
        query, former = request.rel_url.query, container.blobs.get(name)
        if query.get("comp") == "block":
            container.blocks[name, query.get("blockid", "")] = body
            return web.Response(status=201)
        if former is not None:
            _check_lease(former, request)
            if request.headers.get("If-None-Match") == "*":
                raise _RefusalError(409, "BlobAlreadyExists", "The blob exists.")
        if query.get("comp") == "blocklist":
            body = b"".join(container.blocks.pop((name, block_id), b"") for block_id in _block_ids(body))
        written = _Blob(body, self._clock(), _kept(request.headers), former.lease if former is not None else "")
        container.blobs[name] = written
        return _of(written, web.Response(status=201))


class AzureWithStorage(AzureEmulator):
    """The sandbox's Azure, with Blob Storage at its public names."""

    def __init__(self, mint: TokenMint, authority: Authority, network: Network) -> None:
        super().__init__(mint, authority, network)
        self.storage = Storage(self.directory, mint)
        self.names.add(NAMES, self.storage)


class SandboxWithStorage(Sandbox):
    """A sandbox with Blob Storage."""

    azure_type = AzureWithStorage


def _listed_blobs(container: _Container, name: str, query: Mapping[str, str]) -> str:
    prefix, delimiter = query.get("prefix", ""), query.get("delimiter", "")
    entries, folders = [], set()
    for key, blob in sorted(container.blobs.items()):
        if not key.startswith(prefix):
            continue
        folder, separator, _ = key.removeprefix(prefix).partition(delimiter) if delimiter else ("", "", "")
        if separator:
            folders.add(prefix + folder + delimiter)
            continue
        entries.append(
            f"<Blob><Name>{escape(key)}</Name><Properties><Last-Modified>{_date(blob.modified)}</Last-Modified>"
            f"<Etag>{blob.etag.strip(chr(34))}</Etag><Content-Length>{len(blob.content)}</Content-Length>"
            f"<Content-Type>application/octet-stream</Content-Type><Content-MD5>{_md5(blob)}</Content-MD5>"
            "<BlobType>BlockBlob</BlobType></Properties></Blob>"
        )
    entries += [f"<BlobPrefix><Name>{escape(folder)}</Name></BlobPrefix>" for folder in sorted(folders)]
    return (
        f'<EnumerationResults ContainerName="{escape(name)}"><Blobs>{"".join(entries)}</Blobs><NextMarker/>'
        "</EnumerationResults>"
    )


def _block_ids(body: bytes) -> list[str]:
    """Return the block ids of a block list. Raise _RefusalError."""
    if b"<!" in body:
        raise _RefusalError(400, "InvalidXmlDocument", "The block list has a document type.")
    try:
        return [element.text or "" for element in ElementTree.fromstring(body)]  # noqa: S314 - no document type
    except ElementTree.ParseError as error:
        raise _RefusalError(400, "InvalidXmlDocument", f"{error}") from error


def _leased(blob: _Blob, headers: Mapping[str, str]) -> web.Response:
    """Acquire, renew or end the lease, which does not expire here."""
    action = headers.get("x-ms-lease-action", "").lower()
    given = headers.get("x-ms-lease-id", "")
    if action == "acquire":
        proposed = headers.get("x-ms-proposed-lease-id") or str(uuid.uuid4())
        if blob.lease not in {"", proposed}:
            raise _RefusalError(409, "LeaseAlreadyPresent", "There is already a lease.")
        blob.lease = proposed
        return _of(blob, web.Response(status=201, headers={"x-ms-lease-id": proposed}))
    if action == "break":
        blob.lease = ""
        return _of(blob, web.Response(status=202, headers={"x-ms-lease-time": "0"}))
    if not blob.lease or given != blob.lease:
        raise _RefusalError(409, "LeaseIdMismatchWithLeaseOperation", "The lease id is not that of the blob.")
    if action == "release":
        blob.lease = ""
    return _of(blob, web.Response(headers={"x-ms-lease-id": given}))


def _check_lease(blob: _Blob, request: web.BaseRequest) -> None:
    if request.method not in {"GET", "HEAD"} and blob.lease and request.headers.get("x-ms-lease-id") != blob.lease:
        raise _RefusalError(412, "LeaseIdMissing", "The blob has a lease, whose id the request lacks.")


def _content(blob: _Blob, request: web.BaseRequest) -> web.Response:
    byte_range = _BYTES.fullmatch(str(request.headers.get("x-ms-range") or request.headers.get("Range", "")))
    if byte_range is None or not blob.content:
        return web.Response(body=blob.content)
    first, last = int(byte_range[1]), min(int(byte_range[2] or len(blob.content)), len(blob.content) - 1)
    if first > last:
        raise _RefusalError(416, "InvalidRange", "The range is not in the blob.")
    headers = {"Content-Range": f"bytes {first}-{last}/{len(blob.content)}"}
    return web.Response(body=blob.content[first : last + 1], status=206, headers=headers)


def _of(blob: _Blob, response: web.Response) -> web.Response:
    """Return the response with the blob's properties."""
    response.headers.update(blob.headers)
    response.headers.update({"ETag": blob.etag, "Last-Modified": _date(blob.modified), "x-ms-blob-type": "BlockBlob"})
    if blob.lease:
        response.headers.update({"x-ms-lease-status": "locked", "x-ms-lease-state": "leased"})
    else:
        response.headers.update({"x-ms-lease-status": "unlocked", "x-ms-lease-state": "available"})
    if response.status == 200:
        response.headers["Content-MD5"] = _md5(blob)
    return response


def _kept(headers: Mapping[str, str]) -> dict[str, str]:
    """Return the metadata of a request, which its blob keeps."""
    return {name: value for name, value in headers.items() if name.lower().startswith("x-ms-meta-")}


def _md5(blob: _Blob) -> str:
    return base64.b64encode(hashlib.md5(blob.content, usedforsecurity=False).digest()).decode()


def _date(moment: float) -> str:
    return email.utils.formatdate(moment, usegmt=True)


def _xml(text: str, *, status: int = 200, headers: Mapping[str, str] | None = None) -> web.Response:
    body = f'<?xml version="1.0" encoding="utf-8"?>{text}'
    return web.Response(text=body, status=status, headers=headers, content_type="application/xml")
