"""A kubelet's HTTPS server, from which a real API server fetches the logs of pods, and by which it runs commands.

The emulator reads the logs in process instead. There is no authentication: the server listens on loopback, and a
sandbox's logs contain no secrets.
"""

import re
from collections.abc import Iterable
from typing import Final

from aiohttp import web
from typing_extensions import override

from podidentity_sandbox import kubelet_exec
from podidentity_sandbox.kubelet import Kubelet
from podidentity_sandbox.serving import HttpService

_EXEC: Final = re.compile(r"/exec/(?P<namespace>[^/]+)/(?P<pod>[^/]+)/(?P<container>[^/]+)")
_LOGS: Final = re.compile(r"/containerLogs/(?P<namespace>[^/]+)/(?P<pod>[^/]+)/(?P<container>[^/]+)")


class KubeletLogs(HttpService):
    """Server of the logs of several kubelets' pods."""

    def __init__(self, kubelets: Iterable[Kubelet]) -> None:
        super().__init__()
        self._kubelets = tuple(kubelets)

    @override
    async def respond(self, request: web.BaseRequest) -> web.StreamResponse:
        """Return the log as text; with `follow` also later output, with `tailLines` from the end."""
        if (command := _EXEC.fullmatch(request.path)) is not None:
            return await self._execute(request, command["namespace"], command["pod"], command["container"])
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

    async def _execute(self, request: web.BaseRequest, namespace: str, pod: str, container: str) -> web.Response:
        """Run the command of `kubectl exec`. The response is sent only if it cannot run."""
        programs = (each.program(namespace, pod, container) for each in self._kubelets)
        program = next((each for each in programs if each is not None), None)
        if program is None:
            text = (
                f'pod "{pod[:253]}" has no program that the sandbox runs; podidctl sandbox exec runs one in its network'
            )
            return web.Response(status=404, text=f"{text}\n")
        if not kubelet_exec.is_upgrade(request):
            return web.Response(status=400, text="exec needs an upgrade to SPDY/3.1\n")
        await kubelet_exec.execute(request, program)
        return web.Response()
