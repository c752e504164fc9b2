"""A read-only registry: the pull part of the OCI distribution specification 1.1, without ranges and referrers."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from aiohttp import web

from tests.realnode.oci import Image

_CHUNK: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class Sent:
    """A manifest or a blob that a client received completely."""

    digest: str
    size: int


class Registry:
    """The *images* by repository and tag, such as `team/app:1`. Use it in one event loop."""

    def __init__(self, images: Mapping[str, Image]) -> None:
        self._images = dict(images)
        self._runner: web.AppRunner | None = None
        self.sent: list[Sent] = []

    async def start(self, host: str, port: int) -> int:
        """Serve over HTTP at this address. Return the port, which the system selects if *port* is 0. Raise OSError."""
        application = web.Application()
        application.add_routes(
            [
                web.get("/v2/", self._version),
                web.get("/v2/{name:.+}/manifests/{reference}", self._manifest),
                web.get("/v2/{name:.+}/blobs/{digest}", self._blob),
            ]
        )
        self._runner = web.AppRunner(application, access_log=None)
        await self._runner.setup()
        await web.TCPSite(self._runner, host, port).start()
        return int(self._runner.addresses[0][1])

    async def stop(self) -> None:
        """Close all connections. Does nothing the second time."""
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    async def _version(self, request: web.Request) -> web.StreamResponse:
        return web.json_response({})

    async def _manifest(self, request: web.Request) -> web.StreamResponse:
        name, reference = request.match_info["name"], request.match_info["reference"]
        for image in self._of(name):
            if reference == image.digest or self._images.get(f"{name}:{reference}") is image:
                return await self._send(request, image, image.digest, image.media_type)
        return _missing("MANIFEST_UNKNOWN" if self._of(name) else "NAME_UNKNOWN", f"{name}:{reference}")

    async def _blob(self, request: web.Request) -> web.StreamResponse:
        name, digest = request.match_info["name"], request.match_info["digest"]
        for image in self._of(name):
            if digest in image.content:
                return await self._send(request, image, digest, "application/octet-stream")
        return _missing("BLOB_UNKNOWN" if self._of(name) else "NAME_UNKNOWN", f"{name}@{digest}")

    def _of(self, name: str) -> list[Image]:
        """Return the images of a repository."""
        return [image for key, image in self._images.items() if key.rpartition(":")[0] == name]

    async def _send(self, request: web.Request, image: Image, digest: str, media_type: str) -> web.StreamResponse:
        content = image.content[digest]
        response = web.StreamResponse(headers={"Docker-Content-Digest": digest, "Content-Type": media_type})
        response.content_length = len(content)
        await response.prepare(request)
        if request.method == "GET":
            for begin in range(0, len(content), _CHUNK):
                await response.write(content[begin : begin + _CHUNK])
            self.sent.append(Sent(digest, len(content)))
        await response.write_eof()
        return response


def _missing(code: str, what: str) -> web.Response:
    return web.json_response({"errors": [{"code": code, "message": f"this registry has no {what}"}]}, status=404)
