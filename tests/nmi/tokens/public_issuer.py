"""A web server with an issuer's two documents, as public storage serves them."""

from aiohttp import web
from typing_extensions import override

from podidentity_sandbox.serving import HttpService


class PublicIssuer(HttpService):
    """A server of static files, without access to an API server."""

    def __init__(self) -> None:
        super().__init__()
        self.files: dict[str, bytes] = {}
        self.requested: list[str] = []

    @override
    async def respond(self, request: web.BaseRequest) -> web.StreamResponse:
        self.requested.append(request.path)
        if request.path not in self.files:
            return web.Response(status=404)
        return web.Response(body=self.files[request.path], content_type="application/json")
