"""Subjects whose permissions lead to identities."""

from collections.abc import Iterator
from typing import Any

import pytest
from typing_extensions import override

from podidctl.access.schema import AccessReview, Action, SubjectRight
from podidctl.facts.model import ReadFailure
from podidctl.facts.rbac import PolicyRule, Role
from podidentity.resources import GROUP, SecretReference
from tests.support.podidctl.access.small_cluster import (
    bound,
    identity,
    pod,
    pod_of,
    rbac,
    reviewed,
    role,
    rule,
    with_pods,
)
from tests.support.work import Work


def cluster_wide(*rules: PolicyRule, subject: str = "User anna") -> AccessReview:
    return reviewed(rbac=rbac(cluster=(role("it", *rules),), bindings=(bound("it", subject),)))


def in_namespace(
    *rules: PolicyRule,
    namespace: str = "shop",
    subject: str = "User anna",
    cluster: tuple[Role, ...] = (),
    **changes: Any,
) -> AccessReview:
    """With roles of the *cluster*, NMI's service account has the one of the name `nmi`."""
    bindings = [bound("it", subject, kind="Role", namespace=namespace)]
    bindings += [bound(role_object.metadata.name, "ServiceAccount kube-system/default") for role_object in cluster]
    its = role("it", *rules, namespace=namespace)
    return reviewed(rbac=rbac(its, cluster=cluster, bindings=tuple(bindings)), **changes)


def rights(access_review: AccessReview) -> dict[Action, SubjectRight]:
    """Return the rights of the only subject, of which each action has one."""
    if not access_review.subjects:
        return {}
    (subject,) = access_review.subjects
    assert len({right.action for right in subject.rights}) == len(subject.rights)
    return {right.action: right for right in subject.rights}


def test_a_right_has_its_verbs_names_namespaces_and_binding() -> None:
    one = rights(in_namespace(rule("create delete", GROUP, "azureidentitybindings")))[Action.BINDINGS]
    assert (one.verbs, one.namespaces, one.identities, one.wildcard) == (["create"], ["shop"], 2, False)
    assert one.via == ["RoleBinding shop/it → Role it"]
    changing = rights(cluster_wide(rule("create update", GROUP, "azureidentitybindings", "payments")))
    assert changing[Action.BINDINGS].verbs == ["update"], "a name does not restrict creation, but makes it void"
    assert rights(in_namespace(rule("create", "", "pods/exec", "report")))[Action.EXEC].names == ["report"]
    assert rights(cluster_wide(rule("get", "", "nodes/proxy", "node-0")))[Action.EXEC].names == ["node-0"]
    by_action = rights(cluster_wide(rule("*", "*", "*")))
    assert set(by_action) == set(Action)
    assert all(right.wildcard for right in by_action.values())
    assert not rights(cluster_wide(rule("create", "", "pods")))[Action.PODS].wildcard


BINDING_WRITES, EXEC, TOKENS = "azureidentitybindings", "pods/exec", "serviceaccounts/token"
RBAC = "rbac.authorization.k8s.io"
APPROVALS = rule("update", "certificates.k8s.io", "certificatesigningrequests/approval")
CONSTRAINED = {
    "impersonate:user-info": ("users", "groups"),
    "impersonate:serviceaccount": ("serviceaccounts",),
    "impersonate:arbitrary-node": ("nodes",),
    "impersonate:associated-node": ("nodes",),
}


@pytest.mark.parametrize(
    ("one", "namespace", "leads_to"),
    [
        (rule("patch", GROUP, BINDING_WRITES), "", {Action.BINDINGS: 3}),
        (rule("create", GROUP, BINDING_WRITES, "payments"), "", {}),
        (rule("get list watch", GROUP, "*"), "", {}),
        (rule("get", "", "pods"), "", {}),
        (rule("create", "", "pods"), "shop", {Action.PODS: 3}),
        # A federated identity serves its own namespace only.
        (rule("create", "", "pods"), "empty", {Action.PODS: 2}),
        (rule("create", "", EXEC), "shop", {Action.EXEC: 2}),
        (rule("create", "", EXEC), "empty", {}),
        (rule("create", "", EXEC, "report"), "shop", {Action.EXEC: 1}),
        (rule("get", "", "nodes/proxy"), "", {Action.EXEC: 3}),
        (rule("get", "", "nodes/proxy", "node-0"), "", {Action.EXEC: 1}),
        # No node has the name of a pod.
        (rule("get", "", "nodes/proxy", "web-7d4b-x1"), "", {}),
        (rule("get create", "", "nodes/proxy"), "shop", {}),
        (rule("create", "", TOKENS), "shop", {Action.TOKENS: 1}),
        (rule("create", "", TOKENS), "ops", {}),
        (rule("get", "", "secrets"), "ops", {Action.SECRETS: 1}),
        (rule("get", "", "secrets"), "shop", {}),
        (rule("get", "", "secrets", "other"), "ops", {}),
        (rule("bind", RBAC, "clusterroles", "admin"), "", {Action.ROLES: 3}),
        (rule("impersonate", "", "users"), "", {Action.IMPERSONATE: 3}),
        (rule("impersonate", "", "users"), "shop", {}),
        (rule("impersonate", "", "serviceaccounts users"), "shop", {Action.IMPERSONATE: 1}),
        (rule("impersonate", "", "serviceaccounts users"), "empty", {Action.IMPERSONATE: 0}),
        (rule("impersonate", "", "serviceaccounts", "web"), "shop", {Action.IMPERSONATE: 0}),
        (APPROVALS, "", {Action.IMPERSONATE: 3}),
        *(
            (rule(verb, group, resource), "", {Action.IMPERSONATE: 3} if group else {})
            for verb, resources in CONSTRAINED.items()
            for resource in resources
            # In the core group it is no verb of the API server.
            for group in ("authentication.k8s.io", "")
        ),
    ],
)
def test_a_permission_leads_to_identities(one: PolicyRule, namespace: str, leads_to: dict[Action, int]) -> None:
    by_action = rights(in_namespace(one, namespace=namespace) if namespace else cluster_wide(one))
    assert {action: right.identities for action, right in by_action.items()} == leads_to


def rights_of_anna(access_review: AccessReview) -> list[tuple[Action, int]]:
    (anna,) = (subject for subject in access_review.subjects if subject.name == "anna")
    return [(right.action, right.identities) for right in anna.rights]


def test_a_token_of_nmis_service_account_leads_to_nmis_identities() -> None:
    nmi = role("nmi", rule("get", "", "secrets"))
    both = in_namespace(rule("create", "", TOKENS), namespace="kube-system", cluster=(nmi,))
    assert rights_of_anna(both) == [(Action.TOKENS, 1)]


def test_groups_and_service_account_users_are_subjects() -> None:
    one = rule("create", GROUP, "azureidentitybindings")
    access_review = reviewed(
        rbac=rbac(
            cluster=(role("it", one),),
            bindings=(
                bound("it", "Group system:serviceaccounts:ops", name="group"),
                bound("it", "User system:serviceaccount:ci:deployer", name="user"),
            ),
        )
    )
    assert [(subject.full_name, subject.built_in) for subject in access_review.subjects] == [
        ("Group system:serviceaccounts:ops", False),
        ("ServiceAccount ci/deployer", False),
    ]
    assert pod_of(access_review, "ops/robot").rights == [Action.BINDINGS], "by its group"
    assert pod_of(access_review, "shop/report").rights == []


def test_the_same_permission_in_several_namespaces_is_one() -> None:
    one = rule("create", GROUP, "azureidentitybindings")
    spaces = ("shop", "ops")
    access_review = reviewed(
        rbac=rbac(
            *(role("it", one, namespace=namespace) for namespace in spaces),
            bindings=tuple(bound("it", "User anna", kind="Role", namespace=namespace) for namespace in spaces),
        )
    )
    merged = rights(access_review)[Action.BINDINGS]
    assert (merged.namespaces, merged.identities) == (["ops", "shop"], 3)


def test_without_rbac_subjects_are_unknown_and_not_absent() -> None:
    changes: Any = {"rbac": ReadFailure("not allowed: clusterroles")}
    access_review = reviewed(**changes)
    assert (access_review.subjects, access_review.summary.subjects) == ([], None)
    (unknown,) = access_review.unknown
    assert (unknown.part, unknown.why) == ("rbac", "not allowed: clusterroles")
    assert "list on roles, clusterroles" in unknown.right
    assert access_review.programs[0].why.startswith("its permissions are unknown")


@pytest.mark.parametrize(
    "subject",
    [
        "Group system:authenticated",
        "Group system:unauthenticated",
        "Group system:serviceaccounts",
        "Group system:serviceaccounts:ops",
        "User system:anonymous",
    ],
)
def test_a_permission_of_arbitrary_clients_is_not_one_of_kubernetes_itself(subject: str) -> None:
    access_review = cluster_wide(rule("create", GROUP, "azureidentitybindings"), subject=subject)
    (one,) = access_review.subjects
    assert (one.full_name, one.built_in, access_review.summary.subjects) == (subject, False, 1)
    masters = cluster_wide(rule("create", GROUP, "azureidentitybindings"), subject="Group system:masters")
    assert (masters.subjects[0].built_in, masters.summary.subjects) == (True, 0)


@pytest.mark.parametrize(
    "reach",
    [{"host_network": True}, {"privileged": True, "node": "node-1"}],
    ids=["shop/payments of the VM", "shop/reports of a pod on the same node"],
)
def test_exec_in_a_pod_with_access_to_its_host_leads_to_the_identities_of_the_host(reach: Any) -> None:
    access_review = in_namespace(
        rule("create", "", EXEC), namespace="ops", pods=with_pods(pod("proxy", "ops", **reach))
    )
    assert rights(access_review)[Action.EXEC].identities == 2, "and ops/legacy of robot"


def test_a_pod_can_mount_the_secrets_of_its_namespace_and_run_with_its_service_accounts() -> None:
    creating = rule("create", "", "pods")
    nmi = role("nmi", rule("get", "", "secrets"), rule("create", "", TOKENS))
    access_review = in_namespace(creating, namespace="kube-system", cluster=(nmi,), bindings=())
    assert rights_of_anna(access_review) == [(Action.PODS, 2)]
    vault = identity("legacy", "ops", kind=1, client_password=SecretReference(name="s", namespace="vault"))
    access_review = in_namespace(creating, namespace="vault", identities=(vault,), bindings=())
    assert rights(access_review)[Action.PODS].identities == 1


@pytest.mark.parametrize("resource", ["pods", "pods/status"])
def test_changing_a_pod_leads_to_its_own_identities(resource: str) -> None:
    """The image of a running pod can be changed, and by its status the address by which NMI recognizes it."""
    report = in_namespace(rule("patch", "", resource, "report"))
    assert rights(report)[Action.LABELS].identities == 3, "two by labels of bindings, and shop/reports"
    nothing_offered = in_namespace(rule("patch", "", resource), bindings=())
    assert rights(nothing_offered)[Action.LABELS].identities == 2


def test_the_token_of_a_service_account_leads_to_what_the_account_may_do() -> None:
    tokens = role("it", rule("create", "", "serviceaccounts/token"), namespace="ci")
    binder = role("binder", rule("create", GROUP, "azureidentitybindings"))
    admin = rule("*", "*", "*")
    access_review = reviewed(
        rbac=rbac(
            tokens,
            role("shop-pods", rule("create", "", "pods"), namespace="shop"),
            cluster=(binder, role("admin", admin)),
            bindings=(
                bound("it", "User anna", kind="Role", namespace="ci"),
                bound("binder", "ServiceAccount ci/deployer"),
                bound("shop-pods", "User boris", kind="Role", namespace="shop"),
                bound("it", "ServiceAccount shop/builder", kind="Role", namespace="ci", name="chain"),
            ),
        )
    )
    rights_of = {
        subject.name: {right.action: right.identities for right in subject.rights} for subject in access_review.subjects
    }
    assert rights_of["anna"] == {Action.TOKENS: 3}, "deployer writes bindings"
    assert rights_of["boris"] == {Action.PODS: 3}, "a pod as builder requests a token of deployer"


def test_service_accounts_that_lead_to_each_other_end() -> None:
    tokens = rule("create", "", "serviceaccounts/token")
    spaces = ("a", "b")
    access_review = reviewed(
        rbac=rbac(
            *(role("it", tokens, namespace=namespace) for namespace in spaces),
            bindings=tuple(
                bound("it", f"ServiceAccount {other}/x", kind="Role", namespace=namespace)
                for namespace, other in (spaces, spaces[::-1])
            ),
        )
    )
    assert access_review.subjects == [], "they lead to no identity"


class Entries(tuple[str, ...]):  # noqa: SLOT001 - a tuple cannot have slots
    """Entries of a rule, which count how often a program goes through them."""

    reads = 0

    @override
    def __iter__(self) -> Iterator[str]:
        self.reads += 1
        return super().__iter__()

    @override
    def __contains__(self, entry: object) -> bool:
        self.reads += 1
        return super().__contains__(entry)


LONG = 2000


def review_of_long_rule(users: int) -> tuple[AccessReview, int, int]:
    """Return the review of a role with long lists and a binding per user, the reads of the lists, and the bytecodes."""
    lists = [Entries([entry] * LONG) for entry in ("update", "", "pods")]
    lists.append(Entries(f"n{number}" for number in range(LONG)))
    verbs, groups, resources, names = lists
    long = PolicyRule(verbs=verbs, api_groups=groups, resources=resources, resource_names=names)
    bindings = (
        bound("it", f"User u{number}", kind="Role", namespace="shop", name=f"b{number}") for number in range(users)
    )
    its = rbac(role("it", long, namespace="shop"), bindings=tuple(bindings))
    with Work() as work:
        access_review = reviewed(rbac=its)
    return access_review, sum(entries.reads for entries in lists), work.bytecodes


def test_long_rules_of_many_bindings_cost_little_and_are_cut() -> None:
    """A tenant with permission to create roles can repeat entries, name many objects and bind the role often."""
    _, reads, work = review_of_long_rule(10)
    access_review, more_reads, more_work = review_of_long_rule(20)
    assert reads == more_reads, "the rule is read once for all bindings"
    assert more_work - work < 10 * LONG * 30, "30 bytecodes per binding and name"
    (right,) = access_review.subjects[0].rights
    assert (len(access_review.subjects), len(right.names), right.names[-1]) == (20, 201, f"and {LONG - 200} more")
