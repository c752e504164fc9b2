"""Writes the Grafana dashboard of the chart: `python -m tools.dashboard` (a test holds the file equal to this).

Nodes may be a thousand, so that a panel shows sums, quantiles and the ten nodes that are worst. Two labels come from
how the targets are scraped: `node`, and `exported_namespace`, which is what Prometheus makes of our `namespace`, the
pod's that asks, where the target has one of its own. Where there is none of them, "All" shows everything.
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
PLACE: Final = "{{node}} {{instance}}"


def rate(metric: str, by: str = "", where: str = NODE) -> str:
    """How often a second, in all or for each value of *by*."""
    grouped = f" by ({by})" if by else ""
    chosen = f"{{{where}}}" if where else ""
    return f"sum{grouped} (rate({metric}{chosen}[$__rate_interval]))"


def quantile(share: float, metric: str, by: str = "", where: str = NODE) -> str:
    """The time within which *share* of them end."""
    return f"histogram_quantile({share}, {rate(metric + '_bucket', f'le, {by}' if by else 'le', where)})"


def quantiles(metric: str, where: str = NODE) -> list[Query]:
    return [Query(quantile(share, metric, where=where), f"p{share * 100:g}") for share in (0.5, 0.9, 0.99)]


def worst(metric: str) -> Query:
    """The ten nodes with the highest values."""
    return Query(f"topk(10, {metric}{{{NODE}}})", PLACE)


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
        Panel("Requests", "What pods ask NMI.", [Query(rate(ALL))], "reqps", width=3, stat=True),
        Panel(
            "Failed",
            "Share of the requests that are answered with 5xx.",
            [Query(f"({rate(ALL, where=FAILED)} or vector(0)) / {rate(ALL)}")],
            "percentunit",
            width=3,
            alarm=0.05,
            stat=True,
        ),
        Panel(
            "p99",
            "Time from a whole request to its answer, for 99 of 100.",
            [Query(quantile(0.99, REQUESTS))],
            "s",
            width=3,
            alarm=20,
            stat=True,
        ),
        Panel(
            "Nodes without redirect",
            "Nodes whose pods are not led to NMI.",
            [Query(f"count(aadpodidentity_nmi_redirect_in_force{{{NODE}}} == 0) or vector(0)")],
            width=3,
            alarm=1,
            stat=True,
        ),
        Panel(
            "MIC leads",
            "Replicas that hold the lease: one, and never two. Nothing in managed mode, where there is no MIC.",
            [Query(f"count(max by (instance) (aadpodidentity_mic_lease_held == 1)) or (vector(0) unless {MANAGED})")],
            width=3,
            least=1,
            alarm=2,
            stat=True,
        ),
        Panel(
            "Oldest pending",
            "Age of the oldest assignment that is wanted and not there.",
            [Query(f"max(aadpodidentity_mic_oldest_pending_assignment_age_seconds and {LEADER})")],
            "s",
            width=3,
            alarm=300,
            stat=True,
        ),
        Panel(
            "Quarantined",
            "Identities that Azure refuses to assign, each counted on each host.",
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
            "Answers of NMI, by status code.",
            [Query(rate(ALL, "status_code", POD), "{{status_code}}")],
            "reqps",
            stacked=True,
        ),
        Panel(
            "Latency",
            "Time from a whole request to its answer. Ready answers take microseconds, IMDS a second, holds up to 45.",
            quantiles(REQUESTS, POD),
            "s",
        ),
        Panel(
            "Fast-lane share",
            "Share of the requests that were answered from ready answers, without the general lane.",
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
            "The ten namespaces whose pods ask most.",
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
            "How often a limit bit, by limit. Nothing here is good news.",
            [Query(f"{rate('aadpodidentity_nmi_limits_hit_total', 'limit')} > 0", "{{limit}}")],
            "ops",
        ),
        Panel(
            "Connections",
            "Open connections and requests that wait for their answer, over all nodes.",
            [
                Query(f"sum(aadpodidentity_nmi_connections_open{{{NODE}}})", "open"),
                Query(f"sum(aadpodidentity_nmi_pending_requests{{{NODE}}})", "waiting"),
            ],
        ),
        Panel(
            "Held requests",
            "Requests that wait for their identity to be assigned, and those of addresses that no pod is known at.",
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
            "Calls for tokens: to IMDS by an identity (…userassignedid), to IMDS for the node's own, to Azure AD.",
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
            "Calls that brought no token, and those of them that were answered with 429.",
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
            "Nine of ten calls end within.",
            [
                Query(
                    quantile(0.9, CALLS, "operation_type"),
                    "{{operation_type}}",
                )
            ],
            "s",
        ),
        Panel(
            "Wait for a turn",
            "How long calls to IMDS wait for their turn: a flood, or a pause that IMDS asked for.",
            quantiles("aadpodidentity_nmi_governor_wait_seconds"),
            "s",
        ),
        Panel(
            "Calls in the air",
            "Calls to IMDS that are under way, and that wait for their turn.",
            [
                Query(f"sum(aadpodidentity_nmi_upstream_in_flight{{{NODE}}})", "under way"),
                Query(f"sum(aadpodidentity_nmi_governor_waiting{{{NODE}}})", "waiting"),
            ],
        ),
        Panel(
            "Breakers that are not closed",
            "Nodes whose IMDS fails so that NMI leaves it alone, and calls that were not made because of it.",
            [
                Query(
                    f'count(aadpodidentity_nmi_imds_breaker_state{{{NODE}, state="closed"}} == 0) or vector(0)', "nodes"
                ),
                Query(rate("aadpodidentity_nmi_imds_breaker_refused_total"), "calls not made a second"),
            ],
        ),
        Panel(
            "Token cache",
            "Requests answered from the cache of tokens and requests that waited for a fetch (ready answers are in "
            "neither), renewals ahead of need, and fetches that failed.",
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
            "What is left to the token in use that expires first, on the ten nodes with the least. Under 5 minutes: it "
            "could not be renewed.",
            [Query(f"bottomk(10, aadpodidentity_nmi_token_soonest_expiry_seconds{{{NODE}}} < +Inf)", PLACE)],
            "s",
        ),
        Panel(
            "Served near their end",
            "Requests answered with a token of under five minutes' life, for want of a fresher one.",
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
            "Nodes whose pods are led to NMI, of all that are scraped; and those that would fail closed.",
            [
                Query(f"sum(aadpodidentity_nmi_redirect_in_force{{{NODE}}})", "in force"),
                Query(f"count(aadpodidentity_nmi_redirect_in_force{{{NODE}}})", "nodes"),
                Query(f"sum(aadpodidentity_nmi_fail_closed{{{NODE}}})", "closed if NMI went away"),
            ],
        ),
        Panel(
            "Repairs of the rules",
            "Rules found changed and put back, and verifications that failed, in an hour.",
            [
                Query(f"sum(increase(aadpodidentity_nmi_iptables_repairs_total{{{NODE}}}[1h]))", "repairs"),
                Query(f"sum(increase(aadpodidentity_nmi_iptables_failures_total{{{NODE}}}[1h]))", "failures"),
            ],
        ),
        Panel(
            "Age of the watches",
            "The longest silence of each watch, over all nodes. A living watch says something each minute.",
            [Query(f"max by (watch) (aadpodidentity_nmi_watch_staleness_seconds{{{NODE}}})", "{{watch}}")],
            "s",
        ),
        Panel(
            "Watches begun anew",
            "How often a watch failed or broke off.",
            [Query(rate("aadpodidentity_nmi_watch_restarts_total", "watch"), "{{watch}}")],
            "ops",
        ),
        Panel(
            "Unverified grants",
            "Grants that neither the watch nor the API server could confirm, and reads that the API server refused.",
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
        Panel("Addresses known", "Addresses that answer for a pod.", [worst("aadpodidentity_nmi_index_size")]),
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
            "How often a replica became the leader, in an hour.",
            [Query("sum(increase(aadpodidentity_mic_new_leader_election_count[1h]))", "elections")],
        ),
        Panel(
            "Queue depth",
            "VMs and scale sets that wait for a round or have one.",
            [Query(f"aadpodidentity_mic_queue_depth and {LEADER}", "{{pod}} {{instance}}")],
        ),
        Panel(
            "Oldest pending assignment",
            "Age of the oldest assignment that is wanted, not there, and not refused.",
            [Query(f"aadpodidentity_mic_oldest_pending_assignment_age_seconds and {LEADER}", "{{pod}} {{instance}}")],
            "s",
        ),
        Panel(
            "Quarantined identities",
            "Identities held back after Azure refused them.",
            [Query(f"aadpodidentity_mic_quarantined_identities and {LEADER}", "{{pod}} {{instance}}")],
        ),
        Panel(
            "Rounds",
            "Rounds, each for one VM or scale set.",
            [Query(rate("aadpodidentity_mic_cycle_count", where=""), "rounds")],
            "ops",
        ),
        Panel(
            "Time of a round", "With all its calls.", quantiles("aadpodidentity_mic_cycle_duration_seconds", ""), "s"
        ),
        Panel(
            "Calls to Resource Manager",
            "By kind and outcome. operation_get is a look at how an update goes.",
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
            "Nine of ten end within; an update with its whole operation.",
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
            "Objects made, removed and updated, and writes that failed.",
            [
                Query(rate("aadpodidentity_assigned_identity_addition_count", where=""), "made"),
                Query(rate("aadpodidentity_assigned_identity_deletion_count", where=""), "removed"),
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
            "Of the leader; the others watch nothing.",
            [Query(f"max by (watch) (aadpodidentity_mic_watch_staleness_seconds and {LEADER})", "{{watch}}")],
            "s",
        ),
        Panel(
            "Events left out",
            "Kubernetes Events that were too many to be written.",
            [Query("sum(aadpodidentity_mic_events_dropped)", "left out")],
        ),
    ],
)

PROCESSES = Row(
    "Processes",
    [
        Panel(
            "Memory",
            "Resident memory of the ten largest.",
            [Query(f"topk(10, process_resident_memory_bytes and {OURS})", "{{pod}} {{instance}}")],
            "bytes",
        ),
        Panel(
            "CPU",
            "Cores taken by the ten busiest.",
            [Query(f"topk(10, rate(process_cpu_seconds_total[$__rate_interval]) and {OURS})", "{{pod}} {{instance}}")],
        ),
        Panel(
            "Open files",
            "Share of what a process may have open, of the ten with the highest.",
            [Query(f"topk(10, process_open_fds / process_max_fds and {OURS})", "{{pod}} {{instance}}")],
            "percentunit",
        ),
        Panel(
            "Versions",
            "Programs by version: more than one for long is a rollout that hangs.",
            [Query("count by (version, python) (aadpodidentity_build_info)", "{{version}}, Python {{python}}")],
            width=12,
        ),
        Panel(
            "Uptime",
            "Of the ten that were started last.",
            [Query(f"bottomk(10, time() - (process_start_time_seconds and {OURS}))", "{{pod}} {{instance}}")],
            "s",
            width=12,
        ),
    ],
)

ROWS: Final = (GLANCE, ASKED, AZURE, NODES, CONTROLLER, PROCESSES)


def text() -> str:
    """What stands in the file."""
    variables = [
        variable("node", "Node", "aadpodidentity_nmi_redirect_in_force", "node"),
        variable("namespace", "Pods' namespace", ALL, "exported_namespace"),
    ]
    return json.dumps(dashboard(ROWS, variables), indent=2, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    FILE.write_text(text())
