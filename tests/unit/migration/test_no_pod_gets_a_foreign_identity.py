"""On random clusters: after a plan is applied, no workload runs with an identity that is not bound to it."""

from collections.abc import Iterator

from hypothesis import given
from hypothesis import strategies as st

from podidctl.migration.projections import CronJob, RunningPod, ServiceAccount, WorkloadObject
from podidctl.migration.workload_identity import WorkloadIdentityPlan
from tests.support.migration.objects import account, binding, cron_job, identity, planned, pod, workload

OBJECTS = [
    *(identity("one"), identity("two"), identity("three", clientID="")),
    *(binding("one"), binding("two"), binding("three"), binding("both", azureIdentity="one", selector="two")),
]
BOUND = {"one": {"client-one"}, "two": {"client-one", "client-two"}}
NAMES = st.sampled_from(["web", "web-identity", "api", "db"])
LABELS = st.sampled_from(["", "one", "two", "three", "unbound"])
ACCOUNTS = st.sampled_from(["", "default", "shared", "web", "web-identity", "api"])
KINDS = st.sampled_from(["Deployment", "StatefulSet", "Job", "CronJob"])

workloads = st.lists(st.tuples(KINDS, NAMES, LABELS, ACCOUNTS), max_size=6, unique_by=lambda each: each[:2])
pods = st.lists(st.tuples(NAMES, LABELS, ACCOUNTS), max_size=3, unique_by=lambda each: each[0])
accounts = st.dictionaries(
    ACCOUNTS.filter(bool), st.sampled_from(["", "client-one", "client-two", "other"]), max_size=5
)


@given(workloads, pods, accounts)
def test_a_planned_service_account_is_used_only_by_pods_bound_to_its_identity(
    made_by: list[tuple[str, str, str, str]], alone: list[tuple[str, str, str]], standing: dict[str, str]
) -> None:
    objects: list[tuple[str, WorkloadObject] | CronJob] = [
        cron_job(name, label=label, account=used)
        if kind == "CronJob"
        else (kind, workload(name, label=label, account=used))
        for kind, name, label, used in made_by
    ]
    lone: list[RunningPod] = [pod(name, label=label, account=used) for name, label, used in alone]
    there: list[ServiceAccount] = [account(name, client) for name, client in standing.items()]
    made = planned(*objects, objects=OBJECTS, pods=lone, accounts=there)

    clients = {each.name: each.client_id for each in made.accounts}
    assert len(clients) == len(made.accounts)
    assert "default" not in clients
    for label, used in users(made, made_by, alone):
        if used in clients:
            assert clients[used] in BOUND.get(label, set())
    for name, client in clients.items():
        assert standing.get(name, "") in {"", client}
    assert {each.subject.rpartition(":")[2] for each in made.credentials} == clients.keys()


def users(
    made: WorkloadIdentityPlan, made_by: list[tuple[str, str, str, str]], alone: list[tuple[str, str, str]]
) -> Iterator[tuple[str, str]]:
    """Label and service account of each workload after the plan is applied; manual steps are not done."""
    changed = {(each.kind, each.name): each.service_account for each in made.patches}
    for kind, name, label, used in made_by:
        yield label, changed.get((kind, name), used or "default")
    for _, label, used in alone:
        yield label, used or "default"
