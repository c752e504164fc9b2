"""A kubelet's HTTPS server, from which a real API server fetches the logs of pods, and by which it runs commands.

The emulator reads the logs in process instead. The server listens on loopback, where every local user can connect, and
runs commands as the user of a container's program, mostly root. Therefore it authenticates and authorizes clients as a
kubelet does: by a client certificate of the cluster, as the API server presents one, and a SubjectAccessReview for
`nodes/proxy` (reference: kubernetes.io, "Kubelet authentication/authorization").

`kubectl exec` runs a command in the namespaces of a container's program. The API server connects to the kubelet with
SPDY/3.1, also if kubectl uses a WebSocket. This module implements the part that `exec` needs: the client opens the
streams in a fixed order, so their headers are not read, and the headers of the replies are empty. A terminal (`-t`) is
not supported.
"""

import asyncio
import json
import re
import ssl
import sys
import zlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final

from aiohttp import web
from typing_extensions import override

from podidentity.kube.client import Client
from podidentity.kube.errors import ApiError
from podidentity_sandbox.access_review import is_allowed
from podidentity_sandbox.certificates import Authority
from podidentity_sandbox.kubeapi.authorization import User
from podidentity_sandbox.kubelet import Kubelet
from podidentity_sandbox.launching import PROGRAMS
from podidentity_sandbox.processes import Program, python
from podidentity_sandbox.serving import HttpService

PROTOCOL: Final = "v4.channel.k8s.io"
STREAMS_SECONDS: Final = 10.0
CLOSE_SECONDS: Final = 2.0
"""Time for the client to close the connection after the last frame."""
FRAME_MAX: Final = 1 << 20
CHUNK_BYTES: Final = 32 << 10
NO_CERTIFICATE: Final = (
    "the sandbox's kubelets serve only clients with a certificate of this cluster; "
    "start the API server with --client-ca-file and --kubelet-client-certificate\n"
)
_SYN_STREAM, _SYN_REPLY, _PING = 1, 2, 6
_FIN: Final = 1
_EXEC: Final = re.compile(r"/exec/(?P<namespace>[^/]+)/(?P<pod>[^/]+)/(?P<container>[^/]+)")
_LOGS: Final = re.compile(r"/containerLogs/(?P<namespace>[^/]+)/(?P<pod>[^/]+)/(?P<container>[^/]+)")


class KubeletServer(HttpService):
    """Server of the logs of several kubelets' pods, and of commands in their containers.

    *client* may create SubjectAccessReviews. Start the server with the context of `server_context`.
    """

    def __init__(self, kubelets: Iterable[Kubelet], client: Client) -> None:
        super().__init__()
        self._kubelets = tuple(kubelets)
        self._client = client

    @override
    async def respond(self, request: web.BaseRequest) -> web.StreamResponse:
        """Return the log as text; with `follow` also later output, with `tailLines` from the end.

        Return 401 without a client certificate of the cluster, and 403 if its user may not use `nodes/proxy`.
        """
        command = _EXEC.fullmatch(request.path)
        # A command needs `create` with every method, as `get` is also given to programs that only read metrics.
        refusal = await self._refusal(request, "get" if command is None else "create")
        if refusal is not None:
            return refusal
        if command is not None:
            return await self._execute(request, command["namespace"], command["pod"], command["container"])
        match = _LOGS.fullmatch(request.path)
        if match is None or request.method != "GET":
            return web.Response(status=404, text="404 page not found\n")
        namespace, pod, container = match["namespace"], match["pod"], match["container"]
        kubelet = next((kubelet for kubelet in self._kubelets if kubelet.log_file(namespace, pod, container)), None)
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

    async def _refusal(self, request: web.BaseRequest, verb: str) -> web.Response | None:
        """Return the refusal of a client whose user is unknown or may not *verb* `nodes/proxy`."""
        user = _user_of(request)
        if user is None:
            return web.Response(status=401, text=NO_CERTIFICATE)
        try:
            attributes = {"verb": verb, "resource": "nodes", "subresource": "proxy"}
            allowed = await is_allowed(self._client, user, attributes)
        except ApiError as error:
            return web.Response(status=503, text=f"the API server does not authorize the request: {error}\n")
        if not allowed:
            return web.Response(status=403, text=f'user "{user.name[:253]}" may not {verb} nodes/proxy\n')
        return None

    async def _execute(self, request: web.BaseRequest, namespace: str, pod: str, container: str) -> web.Response:
        """Run the command of `kubectl exec`. The response is sent only if it cannot run."""
        programs = (kubelet.program(namespace, pod, container) for kubelet in self._kubelets)
        program = next((program for program in programs if program is not None), None)
        if program is None:
            text = (
                f'pod "{pod[:253]}" has no program that the sandbox runs; podidctl sandbox exec runs one in its network'
            )
            return web.Response(status=404, text=f"{text}\n")
        if request.headers.get("Upgrade", "").upper() != "SPDY/3.1":
            return web.Response(status=400, text="exec needs an upgrade to SPDY/3.1\n")
        await _execute_in(request, program)
        return web.Response()


def server_context(client_ca_certificates: str) -> ssl.SSLContext:
    """Return the context of a server that requests a certificate of *client_ca_certificates* (PEM) from clients.

    A certificate of another CA fails the handshake. If *client_ca_certificates* is empty, no client has one.
    """
    context = Authority("podidctl kubelets").server_context()
    if client_ca_certificates:
        # A bundle may have comments in any language, and ssl takes ASCII only.
        context.load_verify_locations(cadata=client_ca_certificates.encode("ascii", "ignore").decode())
        context.verify_mode = ssl.CERT_OPTIONAL
    return context


def _user_of(request: web.BaseRequest) -> User | None:
    """Return the user of the verified client certificate: its last common name, and its organizations as groups.

    With several names the API server also uses the last one.
    """
    certificate = request.transport.get_extra_info("peercert") if request.transport is not None else None
    fields = [field for part in (certificate or {}).get("subject", ()) for field in part]
    name = next((value for key, value in reversed(fields) if key == "commonName"), "")
    groups = (value for key, value in fields if key == "organizationName")
    return User(name, (*groups, "system:authenticated")) if name else None


async def _execute_in(request: web.BaseRequest, program: Program) -> None:
    """Run the command of *request* next to *program* over the request's connection, then close it."""
    transport = request.transport
    if transport is None:
        return
    query = request.rel_url.query
    names = ["error", *(name for name in ("input", "output", "error") if query.get(name) in {"1", "true"})]
    connection = _SpdyConnection(transport, len(names))
    transport.set_protocol(connection)
    transport.write(
        b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: SPDY/3.1\r\n"
        b"X-Stream-Protocol-Version: " + PROTOCOL.encode() + b"\r\n\r\n"
    )
    try:
        async with asyncio.timeout(STREAMS_SECONDS):
            await connection.opened.wait()
        streams = dict(zip(("status", *names[1:]), connection.streams, strict=False))
        code = await _run(connection, streams, _command(program.pid, query.getall("command", [])), program.pid)
        connection.send(streams["status"], _status(code), last=True)
        async with asyncio.timeout(CLOSE_SECONDS):
            await connection.closed.wait()
    except TimeoutError:
        pass
    finally:
        transport.close()


async def _run(connection: "_SpdyConnection", streams: dict[str, int], command: Sequence[str], pid: int) -> int:
    """Run *command* with its output in the streams and return its exit code. The end of the connection kills it."""
    process = await asyncio.create_subprocess_exec(
        *command,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env=_environment(pid),
    )
    if process.stdin is not None:
        connection.read_into(streams.get("input", 0), process.stdin)
    copies = [
        asyncio.create_task(_copy(connection, streams.get(name, 0), source))
        for name, source in (("output", process.stdout), ("error", process.stderr))
        if source is not None
    ]
    closing = asyncio.create_task(connection.closed.wait())
    ending = asyncio.create_task(process.wait())
    await asyncio.wait({closing, ending}, return_when=asyncio.FIRST_COMPLETED)
    closing.cancel()
    if not ending.done():
        process.kill()
    await asyncio.gather(*copies)
    return await ending


async def _copy(connection: "_SpdyConnection", stream: int, source: asyncio.StreamReader) -> None:
    while piece := await source.read(CHUNK_BYTES):
        if stream:
            connection.send(stream, piece)
    if stream:
        connection.send(stream, b"", last=True)


def _command(pid: int, words: Sequence[str]) -> list[str]:
    """Return the command that runs *words* in the namespaces of the process *pid*, as its user.

    There is no PID namespace, but a container's programs expect their first process as number 1.
    """
    name, *arguments = words or ["true"]
    argv = python(PROGRAMS[name], *arguments) if name in PROGRAMS else [*words]
    if name == "python3":
        argv = [sys.executable, *arguments]
    first = 'mount --bind "$0" /proc/1/cmdline; exec "$@"'
    return [
        *("nsenter", f"--target={pid}", "--mount", "--net", "--root", "--wd", "--"),
        *("unshare", "--mount", "--propagation=private", "sh", "-ec", first, f"/proc/{pid}/cmdline"),
        *("setpriv", "--pdeathsig=KILL", "--no-new-privs", *_user(pid), "--", *argv),
    ]


def _environment(pid: int) -> dict[str, str]:
    variables = Path(f"/proc/{pid}/environ").read_text(errors="replace").split("\0")
    return {name: value for name, _, value in (variable.partition("=") for variable in variables) if name}


def _user(pid: int) -> list[str]:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    uid = next(line.split()[1] for line in lines if line.startswith("Uid:"))
    return [] if uid == "0" else [f"--reuid={uid}", "--clear-groups"]


def _status(code: int) -> bytes:
    """Return the Status that kubectl reads for the exit code."""
    if code == 0:
        return json.dumps({"metadata": {}, "status": "Success"}).encode()
    causes = [{"reason": "ExitCode", "message": str(code if code > 0 else 128 - code)}]
    return json.dumps(
        {
            "metadata": {},
            "status": "Failure",
            "reason": "NonZeroExitCode",
            "message": f"command terminated with exit code {code}",
            "details": {"causes": causes},
        }
    ).encode()


class _SpdyConnection(asyncio.Protocol):
    """A connection with SPDY frames, on the kubelet's side."""

    def __init__(self, transport: asyncio.Transport, expected: int) -> None:
        """*expected*: the number of streams that the client opens."""
        self.opened = asyncio.Event()
        self.closed = asyncio.Event()
        self.streams: list[int] = []
        self._transport = transport
        self._expected = expected
        self._buffer = bytearray()
        self._headers = zlib.compressobj()
        self._input: tuple[int, asyncio.StreamWriter] | None = None
        self._early: list[tuple[bytes, bool]] = []

    def send(self, stream: int, data: bytes, *, last: bool = False) -> None:
        """Send a data frame; *last* ends the stream."""
        if not self._transport.is_closing():
            size = len(data) | (_FIN << 24 if last else 0)
            self._transport.write(stream.to_bytes(4, "big") + size.to_bytes(4, "big") + data)

    def read_into(self, stream: int, writer: asyncio.StreamWriter) -> None:
        """Write the data of *stream* to *writer*; 0: there is no such stream."""
        if not stream:
            writer.close()
            return
        self._input = (stream, writer)
        for data, last in self._early:
            self._take(writer, data, last=last)

    @override
    def data_received(self, data: bytes) -> None:
        """Handle complete frames."""
        self._buffer += data
        while len(self._buffer) >= 8:
            size = int.from_bytes(self._buffer[5:8], "big")
            if size > FRAME_MAX:
                self._transport.abort()
                return
            if len(self._buffer) < 8 + size:
                return
            head, body = bytes(self._buffer[:8]), bytes(self._buffer[8 : 8 + size])
            del self._buffer[: 8 + size]
            self._frame(head, body)

    @override
    def connection_lost(self, error: Exception | None) -> None:
        """Note the end of the connection."""
        self.closed.set()

    def _frame(self, head: bytes, body: bytes) -> None:
        if not head[0] & 0x80:
            data, last = body, bool(head[4] & _FIN)
            if self._input is None:
                self._early.append((data, last))
            elif int.from_bytes(head[:4], "big") == self._input[0]:
                self._take(self._input[1], data, last=last)
            return
        kind = int.from_bytes(head[2:4], "big")
        if kind == _PING:
            self._transport.write(head + body)
        elif kind == _SYN_STREAM and len(body) >= 4:
            block = self._headers.compress(bytes(4)) + self._headers.flush(zlib.Z_SYNC_FLUSH)
            reply = body[:4] + block
            self._transport.write(b"\x80\x03" + _SYN_REPLY.to_bytes(2, "big") + len(reply).to_bytes(4, "big") + reply)
            self.streams.append(int.from_bytes(body[:4], "big") & 0x7FFFFFFF)
            if len(self.streams) == self._expected:
                self.opened.set()

    @staticmethod
    def _take(writer: asyncio.StreamWriter, data: bytes, *, last: bool) -> None:
        if data:
            writer.write(data)
        if last:
            writer.close()
