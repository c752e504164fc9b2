"""An HTTP server on loopback with responses that a test chooses, for cases that a real API server does not produce on
demand.
"""

import asyncio
import json
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from podidentity.kube.access import ClusterAccess
from podidentity.kube.client import Client
from podidentity_sandbox.serving import restartable_listener
from tests.support.memory_network import MemoryNetwork
from tests.support.waiting import LIMIT_SECONDS

URL = "http://kubernetes"


@dataclass
class Request:
    method: str
    path: str
    params: dict[str, str]
    headers: dict[str, str]
    body: bytes

    @property
    def document(self) -> dict[str, Any]:
        return dict(json.loads(self.body))


@dataclass
class Reply:
    body: bytes | Mapping[str, Any]
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)

    def encoded(self) -> bytes:
        body = self.body if isinstance(self.body, bytes) else json.dumps(self.body).encode()
        extra = "".join(f"{name}: {value}\r\n" for name, value in self.headers.items())
        return f"HTTP/1.1 {self.status} x\r\nContent-Length: {len(body)}\r\n{extra}\r\n".encode() + body


def status(code: int, reason: str, message: str = "", **more: object) -> Reply:
    """An error response as the API server writes it."""
    return Reply({"kind": "Status", "code": code, "reason": reason, "message": message, **more}, code)


class Watch:
    """A watch that the client has opened; the test chooses its events."""

    def __init__(self, request: Request, writer: asyncio.StreamWriter) -> None:
        self.request = request
        self._writer = writer
        self.ended = asyncio.Event()

    def send(self, kind: str, document: Mapping[str, Any]) -> None:
        self.send_raw(json.dumps({"type": kind, "object": document}).encode() + b"\n")

    def bookmark(self, version: str) -> None:
        self.send("BOOKMARK", {"metadata": {"resourceVersion": version}})

    def send_raw(self, data: bytes) -> None:
        self._writer.write(b"%x\r\n%s\r\n" % (len(data), data))

    def end(self) -> None:
        """As the server does at timeoutSeconds: a complete response."""
        self._writer.write(b"0\r\n\r\n")
        self.ended.set()

    def break_off(self) -> None:
        self.ended.set()


class ScriptedServer:
    """Lists are answered from `lists`, watches from `watch_replies` or else opened and handed to the test."""

    def __init__(self) -> None:
        self.requests: list[Request] = []
        self.lists: deque[Reply] = deque()
        self.watch_replies: deque[Reply] = deque()
        self.others: deque[Reply | None] = deque()
        """Responses to other requests; None: read the request and never respond."""
        self._watches: asyncio.Queue[Watch] = asyncio.Queue()
        self._tasks: dict[asyncio.Task[None], asyncio.StreamWriter] = {}
        self._server: asyncio.Server | None = None
        self.network = MemoryNetwork()
        self.url = URL

    async def start(self, *, loopback: bool = False) -> None:
        """Serve in memory, where the sessions of `network` find it; or with *loopback* on a socket."""
        if loopback:
            self._server = await asyncio.start_server(self._accept, sock=restartable_listener("127.0.0.1"))
            self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        else:
            self.network.serve(self.url, lambda: asyncio.StreamReaderProtocol(asyncio.StreamReader(), self._accept))

    async def stop(self) -> None:
        self.network.cut(self.url)
        if self._server is not None:
            self._server.close()
        for task, writer in self._tasks.items():
            task.cancel()
            writer.close()  # a task that is cancelled before its first step does not close it
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._server is not None:
            await self._server.wait_closed()

    def client(self, user_agent: str, **options: Any) -> Client:
        """Return a client in memory with *options* of Client. The caller closes it."""
        return Client(
            ClusterAccess(self.url), user_agent=user_agent, open_session=self.network.open_aiohttp_session, **options
        )

    async def watch(self) -> Watch:
        """The next watch that a client opens, or has opened."""
        async with asyncio.timeout(LIMIT_SECONDS):
            return await self._watches.get()

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(self._serve(reader, writer))
        self._tasks[task] = writer
        task.add_done_callback(self._tasks.pop)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while request := await _read(reader):
                self.requests.append(request)
                reply = self._reply(request)
                if reply is None and "watch" not in request.params:
                    await asyncio.Event().wait()
                elif reply is None:
                    writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
                    watch = Watch(request, writer)
                    self._watches.put_nowait(watch)
                    await watch.ended.wait()
                    return
                else:
                    writer.write(reply.encoded())
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    def _reply(self, request: Request) -> Reply | None:
        if "watch" in request.params:
            return self.watch_replies.popleft() if self.watch_replies else None
        if request.method == "GET" and self.lists:
            return self.lists.popleft()
        return self.others.popleft() if self.others else status(404, "NotFound", "not in the script")


async def _read(reader: asyncio.StreamReader) -> Request | None:
    try:
        head = await reader.readuntil(b"\r\n\r\n")
    except asyncio.IncompleteReadError:
        return None
    first, *lines = head.decode().split("\r\n")[:-2]
    method, target, _ = first.split(" ")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    body = await reader.readexactly(int(headers.get("content-length", "0")))
    parts = urlsplit(target)
    return Request(method, parts.path, dict(parse_qsl(parts.query)), headers, body)


def pod(name: str, version: str, *, uid: str = "", namespace: str = "ns", **more: object) -> dict[str, Any]:
    """A pod's document."""
    metadata = {"name": name, "namespace": namespace, "uid": uid or f"uid-{name}", "resourceVersion": version}
    return {"metadata": metadata, **more}


def page(*items: Mapping[str, Any], version: str, token: str = "") -> Reply:
    """One page of a list."""
    metadata = {"resourceVersion": version, **({"continue": token} if token else {})}
    return Reply({"kind": "PodList", "metadata": metadata, "items": list(items)})
