"""Generator of the chart's Grafana dashboard: `python -m tools.dashboard`. A test compares the file with its output.

A cluster can have a thousand nodes, so a panel shows sums, quantiles and the ten nodes with the highest values. Two
labels depend on the scrape configuration: `node`, and `exported_namespace`. The latter is Prometheus's name for a
metric's label `namespace` (the requesting pod's) if the target has a label `namespace` too. Without these labels, "All"
shows all series.
"""

import json
from pathlib import Path
from typing import Final

from tools.grafana import Panel, Query, Row, dashboard, variable

FILE: Final = Path(__file__).parents[1] / "deploy/charts/aad-pod-identity/files/dashboard.json"

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


GLANCE = Row(
    "At a glance",
    [
        Panel(
            "Alerts",
            "Alerts of this project that fire now. Each has its page under docs/runbooks.",
            [Query('count(ALERTS{alertname=~"PodIdentity.*", alertstate="firing"}) or vector(0)')],
            width=3,
            alarm=1,
            stat=True,
        ),
        Panel("Requests", "Requests of pods to NMI.", [Query(rate(ALL))], "reqps", width=3, stat=True),
        Panel(
            "Failed",
            "Share of the requests that NMI answers with 5xx.",
            [Query(f"({rate(ALL, where=FAILED)} or vector(0)) / {rate(ALL)}")],
            "percentunit",
            width=3,
            alarm=0.05,
            stat=True,
        ),
        Panel(
            "p99",
            "Time from the end of a request to its response, for 99 of 100 requests.",
            [Query(quantile(0.99, REQUESTS))],
            "s",
            width=3,
            alarm=20,
            stat=True,
        ),
        Panel(
            "Nodes without redirect",
            "Nodes that do not redirect the requests of their pods to NMI.",
            [Query(f"count(aadpodidentity_nmi_redirect_in_force{{{NODE}}} == 0) or vector(0)")],
            width=3,
            alarm=1,
            stat=True,
        ),
        Panel(
            "MIC leads",
            "Replicas that hold the lease: must be one. Empty in managed mode, which has no MIC.",
            [Query(f"count(max by (instance) (aadpodidentity_mic_lease_held == 1)) or (vector(0) unless {MANAGED})")],
            width=3,
            least=1,
            alarm=2,
            stat=True,
        ),
        Panel(
            "Oldest pending",
            "Age of the oldest desired assignment that is not Assigned.",
            [Query(f"max(aadpodidentity_mic_oldest_pending_assignment_age_seconds and {LEADER})")],
            "s",
            width=3,
            alarm=300,
            stat=True,
        ),
        Panel(
            "Quarantined",
            "Identities that Azure refuses to attach, counted once per host.",
            [Query(f"max(aadpodidentity_mic_quarantined_identities and {LEADER})")],
            width=3,
            alarm=1,
            stat=True,
        ),
    ],
)

ASKED = Row(
    "Requests of pods",
    [
        Panel(
            "Requests by status",
            "Responses of NMI, by status code.",
            [Query(rate(ALL, "status_code", POD), "{{status_code}}")],
            "reqps",
            stacked=True,
        ),
        Panel(
            "Latency",
            "Time from request to response. Ready answers take microseconds, IMDS a second, holds up to 45 s.",
            quantiles(REQUESTS, POD),
            "s",
        ),
        Panel(
            "Fast-lane share",
            "Share of the requests that the fast lane answered with a ready answer.",
            [
                Query(
                    f"{rate('aadpodidentity_nmi_lane_fast_answers_total')} / "
                    f"({rate('aadpodidentity_nmi_lane_fast_answers_total')}"
                    f" + {rate('aadpodidentity_nmi_lane_handed_over_total')})",
                    "fast lane",
                )
            ],
            "percentunit",
        ),
        Panel(
            "Requests by namespace",
            "The ten namespaces with the highest request rates.",
            [Query(f"topk(10, {rate(ALL, 'exported_namespace', POD)})", "{{exported_namespace}}")],
            "reqps",
        ),
        Panel(
            "Refusals",
            "Refused requests, by reason.",
            [Query(f"{rate('aadpodidentity_nmi_refusals_total', 'reason')} > 0", "{{reason}}")],
            "reqps",
        ),
        Panel(
            "Limits",
            "Requests and connections that reached a limit, by limit. Normally empty.",
            [Query(f"{rate('aadpodidentity_nmi_limits_hit_total', 'limit')} > 0", "{{limit}}")],
            "ops",
        ),
        Panel(
            "Connections",
            "Open connections and requests without a response yet, over all nodes.",
            [
                Query(f"sum(aadpodidentity_nmi_connections_open{{{NODE}}})", "open"),
                Query(f"sum(aadpodidentity_nmi_pending_requests{{{NODE}}})", "waiting"),
            ],
        ),
        Panel(
            "Held requests",
            "Requests that wait for an assignment, and requests from addresses without a known pod.",
            [
                Query(f"sum(aadpodidentity_nmi_held_requests{{{NODE}}})", "held"),
                Query(f"sum(aadpodidentity_nmi_parked{{{NODE}}})", "from unknown addresses"),
            ],
        ),
        Panel(
            "Long holds",
            "Requests that took longer than 20 s, and holds that ended without the identity.",
            [
                Query(
                    f"{rate(ALL)} - {rate(f'{REQUESTS}_bucket', where=IN_TIME)}",
                    "over 20 s",
                ),
                Query(
                    rate("aadpodidentity_nmi_refusals_total", where=STILL_ASSIGNING),
                    "still assigning at the end",
                ),
            ],
            "reqps",
        ),
    ],
)

AZURE = Row(
    "Tokens: IMDS and Azure AD",
    [
        Panel(
            "Calls",
            "Calls for tokens: to IMDS for an identity (…userassignedid), to IMDS for the node's own, to Azure AD.",
            [
                Query(
                    rate(f"{CALLS}_count", "operation_type"),
                    "{{operation_type}}",
                )
            ],
            "reqps",
        ),
        Panel(
            "Failed and throttled calls",
            "Calls that returned no token, and the part of them that returned 429.",
            [
                Query(
                    rate("aadpodidentity_imds_operations_errors_count", "operation_type"), "{{operation_type}} failed"
                ),
                Query(
                    rate("aadpodidentity_nmi_upstream_throttled_total", "operation_type"),
                    "{{operation_type}} throttled",
                ),
            ],
            "reqps",
        ),
        Panel(
            "Time of a call",
            "Time within which nine of ten calls end.",
            [
                Query(
                    quantile(0.9, CALLS, "operation_type"),
                    "{{operation_type}}",
                )
            ],
            "s",
        ),
        Panel(
            "Wait for a permit",
            "Time that calls to IMDS wait for a permit: long with many requests or in a pause that IMDS requested.",
            quantiles("aadpodidentity_nmi_governor_wait_seconds"),
            "s",
        ),
        Panel(
            "Running calls",
            "Calls to IMDS that are running, and that wait for a permit.",
            [
                Query(f"sum(aadpodidentity_nmi_upstream_in_flight{{{NODE}}})", "running"),
                Query(f"sum(aadpodidentity_nmi_governor_waiting{{{NODE}}})", "waiting"),
            ],
        ),
        Panel(
            "Breakers that are not closed",
            "Nodes on which NMI does not call IMDS because it fails, and calls that NMI did not make for this reason.",
            [
                Query(
                    f'count(aadpodidentity_nmi_imds_breaker_state{{{NODE}, state="closed"}} == 0) or vector(0)', "nodes"
                ),
                Query(rate("aadpodidentity_nmi_imds_breaker_refused_total"), "calls not made a second"),
            ],
        ),
        Panel(
            "Token cache",
            "Requests answered from the token cache and requests that waited for a fetch (both without ready "
            "answers), early renewals, and failed fetches.",
            [
                Query(rate("aadpodidentity_nmi_token_cache_hits_total"), "from the cache"),
                Query(rate("aadpodidentity_nmi_token_cache_misses_total"), "waited for a fetch"),
                Query(rate("aadpodidentity_nmi_token_refreshes_total"), "renewals"),
                Query(rate("aadpodidentity_nmi_token_fetch_failures_total"), "failed fetches"),
            ],
            "ops",
        ),
        Panel(
            "Next token to expire",
            "Remaining time of the token in use that expires first, for the ten nodes with the least. Under 5 minutes: "
            "NMI could not renew it.",
            [Query(f"bottomk(10, aadpodidentity_nmi_token_soonest_expiry_seconds{{{NODE}}} < +Inf)", NODE_LEGEND)],
            "s",
        ),
        Panel(
            "Served near their end",
            "Requests answered with a token that is valid for less than five minutes, because NMI could not renew it.",
            [Query(rate("aadpodidentity_nmi_token_stale_served_total"), "served")],
            "reqps",
        ),
    ],
)

NODES = Row(
    "Nodes: redirect and watches",
    [
        Panel(
            "Redirect in force",
            "Scraped nodes that redirect requests to NMI, all scraped nodes, and nodes with --fail-closed.",
            [
                Query(f"sum(aadpodidentity_nmi_redirect_in_force{{{NODE}}})", "in force"),
                Query(f"count(aadpodidentity_nmi_redirect_in_force{{{NODE}}})", "nodes"),
                Query(f"sum(aadpodidentity_nmi_fail_closed{{{NODE}}})", "fail closed"),
            ],
        ),
        Panel(
            "Repairs of the rules",
            "Changed rules that NMI restored, and verifications that failed, in an hour.",
            [
                Query(f"sum(increase(aadpodidentity_nmi_iptables_repairs_total{{{NODE}}}[1h]))", "repairs"),
                Query(f"sum(increase(aadpodidentity_nmi_iptables_failures_total{{{NODE}}}[1h]))", "failures"),
            ],
        ),
        Panel(
            "Age of the watches",
            "Longest silence of each watch, over all nodes. A working watch receives an event each minute.",
            [Query(f"max by (watch) (aadpodidentity_nmi_watch_staleness_seconds{{{NODE}}})", "{{watch}}")],
            "s",
        ),
        Panel(
            "Watch restarts",
            "Watches that failed or ended.",
            [Query(rate("aadpodidentity_nmi_watch_restarts_total", "watch"), "{{watch}}")],
            "ops",
        ),
        Panel(
            "Unverified grants",
            "Grants that neither the watch nor the API server confirmed, and reads that the API server refused.",
            [
                Query(rate("aadpodidentity_nmi_unverified_grants_total"), "unverified grants"),
                Query(
                    rate(
                        "aadpodidentity_kubernetes_api_operations_errors_count",
                        "operation_type",
                        NODE + ', operation_type=~"get_.*"',
                    ),
                    "failed {{operation_type}}",
                ),
            ],
            "ops",
        ),
        Panel("Addresses known", "Addresses that NMI maps to a pod.", [worst("aadpodidentity_nmi_index_size")]),
    ],
)

CONTROLLER = Row(
    "MIC",
    [
        Panel(
            "Leader",
            "1 for the replica that holds the lease.",
            [Query("aadpodidentity_mic_lease_held", "{{pod}} {{instance}}")],
        ),
        Panel(
            "Elections",
            "Leader elections in an hour.",
            [Query("sum(increase(aadpodidentity_mic_new_leader_election_count[1h]))", "elections")],
        ),
        Panel(
            "Queue depth",
            "VMs and scale sets that wait for a reconcile pass or are in one.",
            [Query(f"aadpodidentity_mic_queue_depth and {LEADER}", "{{pod}} {{instance}}")],
        ),
        Panel(
            "Oldest pending assignment",
            "Age of the oldest desired assignment that is neither Assigned nor refused.",
            [Query(f"aadpodidentity_mic_oldest_pending_assignment_age_seconds and {LEADER}", "{{pod}} {{instance}}")],
            "s",
        ),
        Panel(
            "Quarantined identities",
            "Identities that MIC does not retry yet after Azure refused them.",
            [Query(f"aadpodidentity_mic_quarantined_identities and {LEADER}", "{{pod}} {{instance}}")],
        ),
        Panel(
            "Reconcile passes",
            "Reconcile passes, each for one VM or scale set.",
            [Query(rate("aadpodidentity_mic_cycle_count", where=""), "passes")],
            "ops",
        ),
        Panel(
            "Time of a reconcile pass",
            "Duration including all calls.",
            quantiles("aadpodidentity_mic_cycle_duration_seconds", ""),
            "s",
        ),
        Panel(
            "Calls to Resource Manager",
            "Calls by kind and outcome. operation_get polls the state of an update.",
            [
                Query(
                    f"{rate('aadpodidentity_mic_arm_calls_count', 'operation_type, outcome', '')} > 0",
                    "{{operation_type}} {{outcome}}",
                )
            ],
            "reqps",
        ),
        Panel(
            "Time of a call to Resource Manager",
            "Time within which nine of ten calls end; for an update including its operation.",
            [
                Query(
                    quantile(0.9, "aadpodidentity_cloud_provider_operations_duration_seconds", "operation_type", ""),
                    "{{operation_type}}",
                )
            ],
            "s",
        ),
        Panel(
            "Writes of AzureAssignedIdentities",
            "Created, deleted and updated objects, and failed writes.",
            [
                Query(rate("aadpodidentity_assigned_identity_addition_count", where=""), "created"),
                Query(rate("aadpodidentity_assigned_identity_deletion_count", where=""), "deleted"),
                Query(rate("aadpodidentity_assigned_identity_update_count", where=""), "updated"),
                Query(
                    rate(
                        "aadpodidentity_kubernetes_api_operations_errors_count",
                        "operation_type",
                        'operation_type!~"get_.*"',
                    ),
                    "failed {{operation_type}}",
                ),
            ],
            "ops",
        ),
        Panel(
            "Age of MIC's watches",
            "Longest silence of each watch of the leader. Other replicas watch nothing.",
            [Query(f"max by (watch) (aadpodidentity_mic_watch_staleness_seconds and {LEADER})", "{{watch}}")],
            "s",
        ),
        Panel(
            "Dropped Events",
            "Kubernetes Events that MIC did not write because of its limit.",
            [Query("sum(aadpodidentity_mic_events_dropped)", "dropped")],
        ),
    ],
)

PROCESSES = Row(
    "Processes",
    [
        Panel(
            "Memory",
            "Resident memory of the ten largest processes.",
            [Query(f"topk(10, process_resident_memory_bytes and {OURS})", "{{pod}} {{instance}}")],
            "bytes",
        ),
        Panel(
            "CPU",
            "Cores used by the ten busiest processes.",
            [Query(f"topk(10, rate(process_cpu_seconds_total[$__rate_interval]) and {OURS})", "{{pod}} {{instance}}")],
        ),
        Panel(
            "Open files",
            "Open files as a share of the process's limit, for the ten highest.",
            [Query(f"topk(10, process_open_fds / process_max_fds and {OURS})", "{{pod}} {{instance}}")],
            "percentunit",
        ),
        Panel(
            "Versions",
            "Programs by version. Several versions for a long time mean that a rollout does not finish.",
            [Query("count by (version, python) (aadpodidentity_build_info)", "{{version}}, Python {{python}}")],
            width=12,
        ),
        Panel(
            "Uptime",
            "Uptime of the ten processes that were started last.",
            [Query(f"bottomk(10, time() - (process_start_time_seconds and {OURS}))", "{{pod}} {{instance}}")],
            "s",
            width=12,
        ),
    ],
)

ROWS: Final = (GLANCE, ASKED, AZURE, NODES, CONTROLLER, PROCESSES)


def text() -> str:
    """Return the content of the dashboard's file."""
    variables = [
        variable("node", "Node", "aadpodidentity_nmi_redirect_in_force", "node"),
        variable("namespace", "Pods' namespace", ALL, "exported_namespace"),
    ]
    return json.dumps(dashboard(ROWS, variables), indent=2, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    FILE.write_text(text())
