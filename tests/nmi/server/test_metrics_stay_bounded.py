"""For any requests of pods, /metrics keeps its number of series: through a whole server, over sockets."""

import asyncio
import random
import socket
import string

from prometheus_client import CollectorRegistry, generate_latest

from _native.index import Index
from _native.lane import Limits
from nmi.refusal import Reason, Refusal
from nmi.server.metrics import ServerMetrics
from nmi.server.policy import ServerPolicy
from nmi.server.server import Server
from nmi.server.target import ProxiedPaths
from tests.nmi.server.fakes import TOKEN_PATH, FakeIssuer, FakeProxy, Issued, grant, pod_entry, replies, request_bytes

INVENTED = 500
WARM_UP = [
    f"{TOKEN_PATH}?resource=api://x",
    f"{TOKEN_PATH}?resource=https://vault.azure.net",
    TOKEN_PATH,
    f"{TOKEN_PATH}?resource=refuse",
    "/metadata/identity/x",
    "/metadata/identity/oauth2/token/x",
    "/metadata/instance",
    "/metadata/x",
    "/metadata/y",
    "/x",
    "/%",
    "/host/token",
]


async def asked(listener: socket.socket, targets: list[str]) -> None:
    """Send requests for all *targets*, one after the other."""
    for target in targets:
        reader, writer = await asyncio.open_connection(*listener.getsockname())
        writer.write(request_bytes(target, headers=("Metadata: true", "Connection: close")))
        assert len(replies(await reader.read())) == 1
        writer.close()
        await writer.wait_closed()


async def test_five_hundred_paths_and_audiences_make_no_series() -> None:
    chosen = random.Random(20)
    registry, index, entry = CollectorRegistry(), Index(), pod_entry()

    def issued(request: object) -> Issued:
        refuse = "refuse" in str(request)
        return Refusal(Reason.STILL_ASSIGNING, "No.") if refuse else grant(entry.record)

    def word() -> str:
        return "".join(chosen.choices(string.ascii_letters + string.digits + "-_.%2F;~", k=chosen.randint(1, 12)))

    server = Server(
        limits=Limits(),
        policy=ServerPolicy(proxied_paths=ProxiedPaths(("/metadata/x",))),
        index=index,
        issuer=FakeIssuer(issued),
        proxy=FakeProxy(),
        measures=ServerMetrics(registry),
    )
    with socket.create_server(("127.0.0.1", 0), backlog=64) as listener:
        listener.setblocking(False)
        await server.start(listener)
        try:
            for known in (True, False):
                if known:
                    index.put("127.0.0.1", entry.record)
                else:
                    index.remove("127.0.0.1", entry.record)
                await asked(listener, WARM_UP)
            before = series(registry)
            for known in (True, False):
                if known:
                    index.put("127.0.0.1", entry.record)
                else:
                    index.remove("127.0.0.1", entry.record)
                await asked(
                    listener, [f"{chosen.choice(('', '/metadata', '/metadata/x'))}/{word()}" for _ in range(INVENTED)]
                )
                await asked(
                    listener,
                    [
                        f"{TOKEN_PATH}?resource={chosen.choice(('api://', 'https://', 'refuse'))}{word()}"
                        for _ in range(INVENTED)
                    ],
                )
            after = series(registry)
        finally:
            await server.aclose()

    assert after == before
    assert len(before) > 100


def series(registry: CollectorRegistry) -> set[str]:
    lines = generate_latest(registry).decode().splitlines()
    return {line.rpartition(" ")[0] for line in lines if not line.startswith("#")}
