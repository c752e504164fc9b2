"""Rows of both programs: the overview at the top, and their processes."""

from tools.dashboard.queries import ALL, FAILED, LEADER, MANAGED, NODE, OURS, REQUESTS, quantile, rate
from tools.grafana import Panel, Query, Row

OVERVIEW = Row(
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
