"""The changes that each workload needs for workload identity, and the workloads that need a manual change. On random
clusters: after a plan is applied, no workload runs with an identity that is not bound to it.
"""

import re
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from podidctl.evaluation.federated_credentials import SUFFIX_MAX, credential_name
from podidctl.facts.workloads import WorkloadObject
from podidctl.migration.workload_identity import WorkloadIdentityPlan, is_public
from podidctl.migration.workloads import ServiceAccount
from podidentity.resources import ScheduledPod
from tests.support.migration.azure_plans import HOSTILE_ACCOUNT
from tests.support.migration.objects import ID, account, binding, cron_job, identity, planned, pod, workload


def reasons(made: WorkloadIdentityPlan) -> list[str]:
    return [f"{step.about}: {step.why}" for step in made.by_hand]


def test_a_workload_with_its_own_service_account_keeps_it_and_a_missing_one_is_created() -> None:
    made = planned(workload(account="web"), accounts=[account("web")])
    (one,), (patch,), (credential,) = made.accounts, made.patches, made.credentials
    assert (one.namespace, one.name, one.client_id, one.tenant_id, one.is_new) == (
        *("shop", "web", "client-demo", ""),
        False,
    )
    assert (patch.api_version, patch.kind, patch.name, patch.service_account) == ("apps/v1", "Deployment", "web", "web")
    assert credential.subject == "system:serviceaccount:shop:web"
    assert (credential.subscription, credential.resource_group, credential.identity_name) == ("s", "g", "demo")
    assert (made.by_hand, made.done) == ([], [])

    created = planned(workload(account="web"))
    assert [(account.name, account.is_new) for account in created.accounts] == [("web", True)]
    assert created.by_hand == []
    federated = planned(workload(account="web"), objects=[identity(type=3, tenantID="t"), binding()])
    assert federated.credentials == made.credentials, "a federated identity that kept its resource id"


def test_workloads_without_the_label_and_finished_jobs_are_left_alone() -> None:
    assert planned(workload(label=""), pods=[pod(label="")]) == planned()
    failed, retrying = ({"conditions": [{"type": "Failed", "status": status}]} for status in ("True", "False"))
    for status in ({"completionTime": "2026-01-01T00:00:00Z"}, failed):
        assert planned(("Job", workload(status=status))) == planned()
    assert planned(("Job", workload("nightly", status=retrying))).by_hand != []


def test_a_shared_service_account_is_replaced_by_one_of_the_workloads_own() -> None:
    secrets = [{"name": "registry"}]
    shared = account("shared", imagePullSecrets=secrets, automountServiceAccountToken=False)
    made = planned(workload(account="shared"), workload("other", label="", account="shared"), accounts=[shared])
    (one,) = made.accounts
    assert (one.name, one.is_new) == ("web", True)
    assert (one.image_pull_secrets, one.automount_service_account_token) == (secrets, False)
    (reason,) = reasons(made)
    assert "its service account is shared, which Deployment shop/other also uses" in reason

    made = planned(workload(account="shared"), pods=[pod("lonely", label="", account="shared")])
    assert [account.name for account in made.accounts] == ["web"]
    assert "Pod shop/lonely" in reasons(made)[0]


def test_workloads_with_the_same_identity_may_share_a_service_account() -> None:
    made = planned(workload(account="shared"), workload("api", account="shared"), accounts=[account("shared")])
    assert [account.name for account in made.accounts] == ["shared"]
    assert [patch.name for patch in made.patches] == ["api", "web"]
    assert len(made.credentials) == 1
    assert made.by_hand == []


def test_workloads_with_different_identities_may_not_share_one() -> None:
    objects = [identity(), binding(), identity("b"), binding("b")]
    made = planned(workload(account="shared"), workload("api", label="b", account="shared"), objects=objects)
    assert [(account.name, account.client_id) for account in made.accounts] == [
        ("api", "client-b"),
        ("web", "client-demo"),
    ]


def test_a_taken_name_gets_a_suffix() -> None:
    taken = account("web", "another-teams")
    made = planned(workload(), ("StatefulSet", workload()), accounts=[taken])
    assert [account.name for account in made.accounts] == ["web-identity", "web-identity3"]


def test_of_several_identities_the_first_by_binding_gets_the_service_account_and_all_get_credentials() -> None:
    objects = [identity(), binding(), identity("b"), binding("a", azureIdentity="b", selector="demo")]
    made = planned(workload(account="web"), objects=objects)
    assert [account.client_id for account in made.accounts] == ["client-b"]
    assert [credential.identity for credential in made.credentials] == ["shop/b", "shop/demo"]
    (reason,) = reasons(made)
    assert "it has several identities" in reason
    assert "shop/demo (client-demo)" in reason


def test_an_identity_of_the_workloads_namespace_comes_before_those_of_others() -> None:
    objects = [identity(), binding("z", azureIdentity="demo", selector="demo")]
    objects += [identity("b", namespace="ids"), binding("a", namespace="ids", azureIdentity="b", selector="demo")]
    made = planned(workload(account="web"), objects=objects)
    assert [account.client_id for account in made.accounts] == ["client-demo"]


@pytest.mark.parametrize("client_id", ["", " ", "a\nb", "a b", "x" * 200])
def test_an_identity_without_a_client_id_requires_manual_work(client_id: str) -> None:
    made = planned(workload(account="web"), objects=[identity(clientID=client_id), binding()])
    assert (made.accounts, made.patches, made.credentials) == ([], [], [])
    assert reasons(made) == ["Deployment shop/web: AzureIdentity shop/demo has no usable clientID"]


@pytest.mark.parametrize("kind", [1, 2])
def test_a_service_principal_has_its_own_credential_and_tenant(kind: int) -> None:
    principal = identity(type=kind, tenantID="t-1", clientPassword={"name": "n"}, resourceID="")
    made = planned(workload(account="web"), objects=[principal, binding()])
    assert made.accounts[0].tenant_id == "t-1"
    assert (made.credentials[0].identity_name, made.credentials[0].client_id) == ("", "client-demo")
    principal["spec"]["auxiliaryTenantIDs"] = ["t-2"]
    made = planned(workload(account="web"), objects=[principal, binding()])
    assert "auxiliary tenants" in reasons(made)[0]
    principal["spec"]["tenantID"] = "\x1b"
    made = planned(workload(account="web"), objects=[principal, binding()])
    assert (made.credentials, reasons(made)) == (
        [],
        ["Deployment shop/web: AzureIdentity shop/demo has no usable tenantID"],
    )


@pytest.mark.parametrize(
    "objects",
    [
        *([], [identity()], [binding()], [identity(), binding(selector="x")]),
        *([identity(resourceID=wrong), binding()] for wrong in ("nonsense", f"{ID}demo".replace("/g/", "/g\x1b/"))),
    ],
)
def test_a_label_without_an_identity_requires_manual_work(objects: list[dict[str, Any]]) -> None:
    made = planned(workload(account="web"), objects=objects)
    assert made.patches == []
    assert reasons(made) == ["Deployment shop/web: no usable AzureIdentity is bound to its label 'demo'"]


def test_an_identity_of_another_namespace_counts_unless_identities_are_namespaced() -> None:
    objects = [identity(namespace="ids"), binding(namespace="ids")]
    assert len(planned(workload(account="web"), objects=objects).credentials) == 1
    assert planned(workload(account="web"), objects=objects, force_namespaced=True).credentials == []
    fenced = [identity(namespace="ids", annotations={"aadpodidentity.k8s.io/Behavior": "namespaced"}), objects[1]]
    assert planned(workload(account="web"), objects=fenced).credentials == []


def test_pods_of_a_workload_are_reported_with_it_only() -> None:
    replicas = ("ReplicaSet", workload("web-5", "apps/v1 Deployment web", account="web"))
    made = planned(workload(account="web"), replicas, pods=[pod(owner="apps/v1 ReplicaSet web-5", account="web")])
    assert made == planned(workload(account="web"))


def test_a_cron_job_is_changed_and_its_jobs_and_pods_are_not() -> None:
    job = ("Job", workload("nightly-1", "batch/v1 CronJob nightly", account="n"))
    made = planned(cron_job(account="n"), job, pods=[pod("nightly-1-x", "batch/v1 Job nightly-1", account="n")])
    assert [(patch.api_version, patch.kind, patch.name) for patch in made.patches] == [
        ("batch/v1", "CronJob", "nightly")
    ]
    assert made.by_hand == []


@pytest.mark.parametrize(
    ("kind", "owner", "reason"),
    [
        ("Job", "", "the template of a Job is immutable"),
        ("ReplicaSet", "argoproj.io/v1alpha1 Rollout web", "it is managed by Rollout web (argoproj.io/v1alpha1)"),
        ("StatefulSet", "example.org/v1 Database web", "it is managed by Database web (example.org/v1)"),
    ],
)
def test_a_workload_that_cannot_be_patched_requires_manual_work(kind: str, owner: str, reason: str) -> None:
    made = planned((kind, workload("web", owner, account="web")))
    assert (made.patches, len(made.accounts), len(made.credentials)) == ([], 1, 1)
    assert f"{kind} shop/web: {reason}" in reasons(made)[0]
    assert "serviceAccountName: web" in made.by_hand[0].do


def test_a_cycle_of_owners_is_handled() -> None:
    a = ("ReplicaSet", workload("a", "apps/v1 ReplicaSet b"))
    b = ("ReplicaSet", workload("b", "apps/v1 ReplicaSet a"))
    assert planned(a, b, pods=[pod(owner="apps/v1 ReplicaSet a")]).patches == []


@pytest.mark.parametrize(
    ("made", "accounts", "beginning"),
    [
        (
            planned(pods=[pod("alone", account="a"), pod("done", phase="Succeeded", account="b")]),
            ["a"],
            "Pod shop/alone: it is a standalone pod, which is immutable",
        ),
        (
            planned(workload("web", account="web"), pods=[pod("x", "apps.kruise.io/v1 Deployment web", account="x")]),
            ["web", "x"],
            "Deployment shop/web: it is managed by Deployment web (apps.kruise.io/v1)",
        ),
        (
            planned(workload(label=""), pods=[pod(owner="apps/v1 Deployment web")]),
            [],
            "Pod shop/web-1: its label aadpodidbinding differs from its template, so it was set only on the pod",
        ),
        (
            planned(workload(account="web"), accounts=[account("web", "other")]),
            [],
            "ServiceAccount shop/web: is annotated with another client id",
        ),
        (
            planned(workload()),
            ["web"],
            "Deployment shop/web: its service account is default, which every pod without one also uses",
        ),
    ],
    ids=["standalone", "another API group", "label of the pod only", "annotated", "default account"],
)
def test_what_requires_manual_work_is_reported_with_the_reason(
    made: WorkloadIdentityPlan, accounts: list[str], beginning: str
) -> None:
    assert [account.name for account in made.accounts] == accounts
    (reason,) = reasons(made)
    assert reason.startswith(beginning)
    assert len(made.patches) <= len(accounts)


def test_an_applied_plan_is_empty_and_a_partly_applied_one_has_the_same_names() -> None:
    done = workload(account="web", **{"azure.workload.identity/use": "true"})
    made = planned(done, accounts=[account("web", "CLIENT-demo")])
    assert (made.patches, made.done, made.by_hand) == ([], ["Deployment shop/web"], [])

    again = planned(workload(), accounts=[account("web", "client-demo")])
    assert [(account.name, account.is_new) for account in again.accounts] == [("web", False)]


def test_users_and_credentials_of_other_namespaces_count_when_one_namespace_is_planned() -> None:
    assert planned(workload(account="web"), namespace="elsewhere").patches == []
    assert len(planned(workload(account="web"), namespace="shop").patches) == 1

    many = [workload(f"w{number:02}", account=f"w{number:02}") for number in range(20)]
    assert planned(*many).by_hand == []
    elsewhere = msgspec.convert(
        {**msgspec.to_builtins(many[0]), "metadata": {"name": "w", "namespace": "elsewhere"}}, WorkloadObject
    )
    made = planned(*many, elsewhere, namespace="elsewhere")
    assert len(made.credentials) == 1
    assert "AzureIdentity shop/demo: would need 21 federated credentials" in reasons(made)[0]


@pytest.mark.parametrize("suffix", ["", "east", "x" * SUFFIX_MAX])
def test_a_credentials_name_is_valid_for_azure_and_unique(suffix: str) -> None:
    assert credential_name("shop", "web", suffix) == f"shop-web{suffix and '-'}{suffix}"
    places = [("a", "b-c"), ("a-b", "c"), ("a", "b.c"), ("a", "b" * 253), ("a", "b" * 252), ("a", HOSTILE_ACCOUNT)]
    names = {credential_name(*place, suffix) for place in places}
    assert len(names) == len(places)
    for name in names:
        assert re.fullmatch(r"[a-zA-Z0-9]{1}[a-zA-Z0-9-_]{2,119}", name)
        assert name.endswith(suffix)


@pytest.mark.parametrize(
    ("issuer", "public"),
    [
        ("https://eastus.oic.prod-aks.azure.com/t/i/", True),
        ("https://kubernetes.default.svc", False),
        ("https://kubernetes.default.svc.cluster.local", False),
        ("http://oidc.example.org", False),
        ("https://localhost", False),
        ("https://127.0.0.1:6443", False),
        ("https://[fd00::1]/", False),
        ("https://[", False),
        ("https://20.1.2.3/", True),
    ],
)
def test_an_issuer_that_azure_cannot_reach_is_recognised(issuer: str, public: bool) -> None:
    assert is_public(issuer) is public


def test_pods_of_one_unsupported_owner_are_reported_once() -> None:
    pods = [pod(f"run-{number}", owner="argoproj.io/v1alpha1 Workflow run", account="run") for number in range(5)]
    other = pod("other", owner="argoproj.io/v1alpha1 Workflow other", account="other")
    made = planned(pods=[*pods, other])
    assert [step.about for step in made.by_hand] == ["Workflow shop/other", "Workflow shop/run"]
    assert {account.name for account in made.accounts} == {"other", "run"}


OBJECTS = [
    *(identity("one"), identity("two"), identity("three", clientID="")),
    *(binding("one"), binding("two"), binding("three"), binding("both", azureIdentity="one", selector="two")),
]
BOUND = {"one": {"client-one"}, "two": {"client-one", "client-two"}}
NAMES = st.sampled_from(["web", "web-identity", "api", "db"])
LABELS = st.sampled_from(["", "one", "two", "three", "unbound"])
ACCOUNTS = st.sampled_from(["", "default", "shared", "web", "web-identity", "api"])
KINDS = st.sampled_from(["Deployment", "StatefulSet", "Job", "CronJob"])

workloads = st.lists(st.tuples(KINDS, NAMES, LABELS, ACCOUNTS), max_size=6, unique_by=lambda workload: workload[:2])
pods = st.lists(st.tuples(NAMES, LABELS, ACCOUNTS), max_size=3, unique_by=lambda pod: pod[0])
accounts = st.dictionaries(
    ACCOUNTS.filter(bool), st.sampled_from(["", "client-one", "client-two", "other"]), max_size=5
)


@given(workloads, pods, accounts)
def test_a_planned_service_account_is_used_only_by_pods_bound_to_its_identity(
    made_by: list[tuple[str, str, str, str]], alone: list[tuple[str, str, str]], standing: dict[str, str]
) -> None:
    objects: list[tuple[str, WorkloadObject] | WorkloadObject] = [
        cron_job(name, label=label, account=used)
        if kind == "CronJob"
        else (kind, workload(name, label=label, account=used))
        for kind, name, label, used in made_by
    ]
    lone: list[ScheduledPod] = [pod(name, label=label, account=used) for name, label, used in alone]
    there: list[ServiceAccount] = [account(name, client) for name, client in standing.items()]
    made = planned(*objects, objects=OBJECTS, pods=lone, accounts=there)

    clients = {account.name: account.client_id for account in made.accounts}
    assert len(clients) == len(made.accounts)
    assert "default" not in clients
    for label, used in users(made, made_by, alone):
        if used in clients:
            assert clients[used] in BOUND.get(label, set())
    for name, client in clients.items():
        assert standing.get(name, "") in {"", client}
    assert {credential.subject.rpartition(":")[2] for credential in made.credentials} == clients.keys()


def users(
    made: WorkloadIdentityPlan, made_by: list[tuple[str, str, str, str]], alone: list[tuple[str, str, str]]
) -> Iterator[tuple[str, str]]:
    """Label and service account of each workload after the plan is applied; manual steps are not done."""
    changed = {(patch.kind, patch.name): patch.service_account for patch in made.patches}
    for kind, name, label, used in made_by:
        yield label, changed.get((kind, name), used or "default")
    for _, label, used in alone:
        yield label, used or "default"
