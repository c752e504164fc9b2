"""The sandbox's kubelet needs only the status of a readiness probe's response."""

import contextlib
import socket
import threading
from collections.abc import Callable

from podidentity.resources import PodMeta
from podidentity_sandbox.network import ExecutionContext, Network
from podidentity_sandbox.pod_projection import Container, HttpGet, NodePod, NodePodSpec, Probe
from podidentity_sandbox.probes import is_ready
from podidentity_sandbox.serving import listening

BUFFER_BYTES = 1 << 16
PAGE_BYTES = 1 << 23


def sent_while(listener: socket.socket, status: str, call: Callable[[], object]) -> int:
    """Serve one page during *call*. Return the number of its bytes that were sent before the client closed."""
    sent = 0

    def serve() -> None:
        nonlocal sent
        connection, _ = listener.accept()
        with connection, contextlib.suppress(ConnectionError):
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, BUFFER_BYTES)
            connection.recv(BUFFER_BYTES)
            connection.sendall(
                f"HTTP/1.1 {status}\r\nConnection: close\r\nContent-Length: {PAGE_BYTES}\r\n\r\n".encode()
            )
            while sent < PAGE_BYTES:
                sent += connection.send(bytes(BUFFER_BYTES))

    thread = threading.Thread(target=serve)
    thread.start()
    call()
    thread.join()
    return sent


def test_a_readiness_probe_does_not_read_the_page() -> None:
    results: list[bool] = []
    with listening() as listener:
        listener.setblocking(True)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, BUFFER_BYTES)
        probe = Probe(http_get=HttpGet(port=listener.getsockname()[1]))
        spec = NodePodSpec(containers=[Container(name="main", readiness_probe=probe)])
        pod = NodePod(metadata=PodMeta(uid="u"), spec=spec)
        context = ExecutionContext("127.0.0.1")

        def read() -> None:
            results.append(is_ready(Network(), "node", pod, context))

        sent = sent_while(listener, "200 OK", read)
        assert sent < PAGE_BYTES
        assert sent_while(listener, "500 Internal Server Error", read) < PAGE_BYTES
    assert results == [True, False]
