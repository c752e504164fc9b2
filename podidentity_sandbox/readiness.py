"""A container's readiness probe as a kubelet runs it: an HTTP GET at the pod's address."""

import http.client
from http import HTTPStatus
from typing import Final

from podidentity_sandbox.network import ExecutionContext, Network
from podidentity_sandbox.pod_projection import Container, HttpGet, NodePod

TIMEOUT_SECONDS: Final = 1.0


def probe_of(container: Container) -> HttpGet | None:
    """Return the container's HTTP probe, if it has one."""
    return container.readiness_probe.http_get if container.readiness_probe is not None else None


def is_ready(network: Network, node: str, pod: NodePod, context: ExecutionContext) -> bool:
    """Return whether every probe of the pod's containers succeeds. Block for more than a second."""

    def answers(container: Container, probe: HttpGet) -> bool:
        named = {port.name: port.container_port for port in container.ports}
        port = probe.port if isinstance(probe.port, int) else named.get(probe.port, 0)
        return _ok(context.address, port, probe.path)

    def all_answer() -> bool:
        probed = [(container, probe) for container in pod.spec.containers if (probe := probe_of(container)) is not None]
        return all(answers(container, probe) for container, probe in probed)

    if pod.spec.host_network:
        return network.call_on_node(node, all_answer)
    return network.call_in_pod(pod.metadata.uid, all_answer)


def _ok(host: str, port: int, path: str) -> bool:
    connection = http.client.HTTPConnection(host, port, timeout=TIMEOUT_SECONDS)
    try:
        connection.request("GET", path)
        return HTTPStatus.OK <= connection.getresponse().status < HTTPStatus.BAD_REQUEST
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()
