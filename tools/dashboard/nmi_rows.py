"""Rows of NMI: requests of pods, fetches of tokens, and nodes."""

from tools.dashboard.queries import (
    ALL,
    CALLS,
    IN_TIME,
    NODE,
    NODE_LEGEND,
    POD,
    REQUESTS,
    STILL_ASSIGNING,
    quantile,
    quantiles,
    rate,
    worst,
)
from tools.grafana import Panel, Query, Row

REQUESTS_OF_PODS = Row(
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

TOKENS = Row(
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
