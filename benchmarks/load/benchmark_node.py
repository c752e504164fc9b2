"""A node with its pods, and the running servers that are measured on it. One server has load at any time."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

from benchmarks.load.addresses import FIRST_POD
from benchmarks.load.generator import Group, Load, start
from benchmarks.load.nginx import nginx
from benchmarks.load.node import Node, node
from benchmarks.load.node_servers import NodeServers, node_servers
from benchmarks.load.reference import reference
from benchmarks.load.servers import Server, check
from benchmarks.load.wire import FIRST_POD as FIRST_BEHIND_A_WIRE
from benchmarks.load.wire import led_to, wire
from benchmarks.results import BASE, OURS, REFERENCE
from nmi.choices import RedirectTarget

SDK_PATH: Final = "/metadata/identity/oauth2/token?api-version=2018-02-01&resource=https%3A%2F%2Fmanagement.azure.com"
"""SDKs send the resource without the slash at the end. The two forms are different tokens."""
GENERATOR_CORE: Final = 1
"""The servers' is 0."""
WARM_PODS: Final = 256
"""More pods than send requests in any case."""


@dataclass(frozen=True, slots=True)
class BenchmarkNode:
    """The node and its servers. `on_loopback` and `behind_the_rule` create it."""

    node_servers: NodeServers
    node: Node
    servers: dict[str, Server]
    pods: int
    first_pod: str
    emulators: tuple[int, ...] = ()
    """The processes of other servers' emulators."""

    @property
    def sending_pods(self) -> int:
        """The number of pods that send requests, from the first on. Each has a ready response."""
        return min(self.pods, WARM_PODS)

    def load(self, server: Server, groups: Sequence[Group], seconds: float, *, warm_seconds: float) -> Load:
        """Start the generator on the side of *server*'s pods."""
        begin = partial(start, server.address, server.port, groups, seconds)
        return server.pods.call(lambda: begin(core=GENERATOR_CORE, warm_seconds=warm_seconds))

    @property
    def helper_pids(self) -> tuple[int, ...]:
        """Other processes of the measurement, apart from server and generator."""
        return (self.node_servers.pid, *self.emulators)


@contextmanager
def on_loopback(pods: int, *, go: Path | None = None) -> Iterator[BenchmarkNode]:
    """Start NMI and nginx, and compare nginx's response with NMI's. Raises ProgramError.

    *go* is the Go implementation's binary, which is started too.
    """
    with ExitStack() as stack:
        around = stack.enter_context(node_servers())
        addresses = around.add_pods(pods)
        ours = stack.enter_context(node(around))
        response = ours.token_response(addresses[0])
        servers: dict[str, Server] = {BASE: stack.enter_context(nginx(response)), OURS: ours}
        for server in servers.values():
            check(server, response)
        others = _with_reference(stack, servers, go, pods, behind=False)
        made = BenchmarkNode(around, ours, servers, pods, FIRST_POD, others)
        ours.warm(addresses[: made.sending_pods])
        ours.warm(addresses[: made.sending_pods], SDK_PATH)
        yield made


@contextmanager
def behind_the_rule(
    pods: int, target: RedirectTarget = RedirectTarget.LOOPBACK, *, go: Path | None = None
) -> Iterator[BenchmarkNode]:
    """Start NMI and nginx, each in separate namespaces behind a nat rule. Raises ProgramError.

    NMI's rule leads to *target*, those of nginx and of the Go implementation's binary *go* to loopback.
    """
    with ExitStack() as stack:
        ours_on, theirs_on = stack.enter_context(wire(pods)), stack.enter_context(wire(pods))
        around = stack.enter_context(node_servers(side=ours_on.node, first_pod=FIRST_BEHIND_A_WIRE, imds=ours_on.imds))
        addresses = around.add_pods(pods)
        ours = stack.enter_context(node(around, behind=ours_on, target=target))
        response = ours.token_response(addresses[0])
        theirs = led_to(stack.enter_context(nginx(response, side=theirs_on.node)), theirs_on)
        servers: dict[str, Server] = {BASE: theirs, OURS: ours}
        for server in servers.values():
            check(server, response, source=FIRST_BEHIND_A_WIRE)
        others = _with_reference(stack, servers, go, pods, behind=True)
        made = BenchmarkNode(around, ours, servers, pods, FIRST_BEHIND_A_WIRE, others)
        ours.warm(addresses[: made.sending_pods])
        yield made


def _with_reference(
    stack: ExitStack, servers: dict[str, Server], go: Path | None, pods: int, *, behind: bool
) -> tuple[int, ...]:
    """Start the Go implementation, if there is one, and add it to *servers*. Return its emulators' process."""
    if go is None:
        return ()
    go_node = stack.enter_context(reference(go, pods, behind=behind))
    servers[REFERENCE] = go_node.node
    return (go_node.emulators,)
