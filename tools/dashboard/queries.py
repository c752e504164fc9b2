"""Queries of the dashboard's panels: names of metrics, label selectors, and expressions in PromQL."""

from typing import Final

from tools.grafana import Query

NODE: Final = 'node=~"$node"'
POD: Final = f'{NODE}, exported_namespace=~"$namespace"'
REQUESTS: Final = "aadpodidentity_nmi_operations_duration_seconds"
ALL: Final = f"{REQUESTS}_count"
FAILED: Final = f'{NODE}, status_code=~"5.."'
IN_TIME: Final = f'{NODE}, le="20.0"'
STILL_ASSIGNING: Final = f'{NODE}, reason="still_assigning"'
CALLS: Final = "aadpodidentity_imds_operations_duration_seconds"
LEADER: Final = "on (job, instance) (aadpodidentity_mic_lease_held == 1)"
MANAGED: Final = 'on () aadpodidentity_nmi_watch_staleness_seconds{watch="bindings"}'
OURS: Final = "on (job, instance) aadpodidentity_build_info"
NODE_LEGEND: Final = "{{node}} {{instance}}"


def rate(metric: str, by: str = "", where: str = NODE) -> str:
    """Return the query of the rate per second, in total or for each value of *by*."""
    grouped = f" by ({by})" if by else ""
    chosen = f"{{{where}}}" if where else ""
    return f"sum{grouped} (rate({metric}{chosen}[$__rate_interval]))"


def quantile(share: float, metric: str, by: str = "", where: str = NODE) -> str:
    """Return the query of the time within which *share* of the observations end."""
    return f"histogram_quantile({share}, {rate(metric + '_bucket', f'le, {by}' if by else 'le', where)})"


def quantiles(metric: str, where: str = NODE) -> list[Query]:
    """Return the queries of three quantiles of *metric*."""
    return [Query(quantile(share, metric, where=where), f"p{share * 100:g}") for share in (0.5, 0.9, 0.99)]


def worst(metric: str) -> Query:
    """Return the query of the ten nodes with the highest values."""
    return Query(f"topk(10, {metric}{{{NODE}}})", NODE_LEGEND)
