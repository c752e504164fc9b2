"""Pages of metrics, made by NMI's own collectors."""

from prometheus_client import CollectorRegistry, generate_latest

from nmi.refusal import Reason
from nmi.server.metrics import ServerMetrics
from nmi.tokens.metrics import TokenMetrics


def page(*, requests: int = 0, refusals: dict[Reason, int] | None = None, imds: int = 0, sign_ins: int = 0) -> str:
    """Return the text of /metrics of an NMI that has counted these events."""
    registry = CollectorRegistry()
    server, tokens = ServerMetrics(registry), TokenMetrics(registry)
    for number in range(requests):
        server.series("/metadata/identity/oauth2/token", 200 if number % 2 else 400, "shop", "").observe(1_000_000)
    for reason, count in (refusals or {}).items():
        for _ in range(count):
            server.refused(reason)
    for _ in range(imds):
        tokens.observe_imds(True, 0.1, None)
    for _ in range(sign_ins):
        tokens.observe_aad(0.1, None)
    return generate_latest(registry).decode()
