"""Where a real API server fetches pods' logs: the one request of a kubelet's own HTTPS endpoint that is answered here.

The emulator does not need it: it reads the logs in process. Nobody is authenticated here, as on no real kubelet; it
listens on loopback, and a sandbox's logs hold no secrets.
"""

import re
from collections.abc import Iterable
from typing import Final

from aiohttp import web
from typing_extensions import override

from podidentity_sandbox.kubelet import Kubelet
from podidentity_sandbox.serving import HttpService

_LOGS: Final = re.compile(r"/containerLogs/(?P<namespace>[^/]+)/(?P<pod>[^/]+)/(?P<container>[^/]+)")


class KubeletLogs(HttpService):
    """Serves the logs of the pods of several kubelets."""

    def __init__(self, kubelets: Iterable[Kubelet]) -> None:
        super().__init__()
        self._kubelets = tuple(kubelets)

    @override
    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        """Answer as a kubelet does: the log as text, going on with `follow`, from its end with `tailLines`."""
        asked = _LOGS.fullmatch(request.path)
        if asked is None or request.method != "GET":
            return web.Response(status=404, text="404 page not found\n")
        namespace, pod, container = asked["namespace"], asked["pod"], asked["container"]
        kubelet = next((one for one in self._kubelets if one.log_file(namespace, pod, container)), None)
        if kubelet is None:
            return web.Response(status=404, text=f'pod "{pod[:253]}" is not running here\n')
        query = request.rel_url.query
        tail = int(query["tailLines"]) if query.get("tailLines", "").isdigit() else None
        response = web.StreamResponse(headers={"Content-Type": "text/plain"})
        await response.prepare(request)
        pieces = kubelet.read_log(namespace, pod, container, follow=query.get("follow") == "true", tail=tail)
        async for piece in pieces:
            await response.write(piece)
        await response.write_eof()
        return response
