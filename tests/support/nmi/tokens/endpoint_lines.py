"""One attempt to sign in, and the log lines about its endpoint."""

import asyncio
from typing import Any, cast

import pytest
from prometheus_client import CollectorRegistry

from nmi.tokens.entra import new_session
from nmi.tokens.metrics import TokenMetrics
from nmi.tokens.sign_in import ATTEMPT_SECONDS, SignIn, no_proxy, proxy_by
from nmi.tokens.sign_ins import Attempts, SignIns
from podidentity.azure.clouds import Endpoint
from podidentity.azure.errors import Unreachable
from tests.support.memory_network import MemoryNetwork

MESSAGE = (
    "token endpoint fails; check that this node reaches it: DNS, firewall, proxy (HTTPS_PROXY), certificate authority "
    "(--ca-bundle)"
)
SECRET = "the-secret-of-the-application"


def lines(caplog: pytest.LogCaptureFixture) -> list[dict[str, Any]]:
    """Return the fields of the lines about endpoints."""
    return [record.__dict__ for record in caplog.records if record.getMessage() == MESSAGE]


async def sign_in(
    endpoint: Endpoint,
    *,
    within: float = 60.0,
    attempt: float = ATTEMPT_SECONDS,
    proxy: str = "",
    network: MemoryNetwork | None = None,
) -> TokenMetrics:
    """Try to sign in at *endpoint* once, in *network* or through sockets. Return the metrics."""
    metrics = TokenMetrics(CollectorRegistry())
    async with new_session("test", cast("Any", network.connector()) if network is not None else None) as session:
        sign_ins = SignIns(
            lambda: session,
            proxy_for=proxy_by(proxy, "") if proxy else no_proxy,
            attempt_seconds=attempt,
            retry_delays=(),
            observe=metrics.observe_aad,
        )
        await sign_ins.load()
        wanted = SignIn(endpoint, "tenant", "client", "https://vault.azure.net", secret=SECRET)
        with pytest.raises((Unreachable, TimeoutError)) as error:
            async with asyncio.timeout(within):
                await sign_ins.token(wanted, "team-a", Attempts(sign_ins.clock() + within))
    assert "password" not in str(error.value)
    return metrics
