"""The row of MIC."""

from tools.dashboard.queries import LEADER, quantile, quantiles, rate
from tools.grafana import Panel, Query, Row

MIC = Row(
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
