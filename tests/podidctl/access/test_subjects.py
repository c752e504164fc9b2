"""Subjects whose permissions lead to identities."""

from collections.abc import Iterator
from typing import Any

import pytest
from typing_extensions import override

from podidctl.access.projections import PolicyRule
from podidctl.access.schema import AccessReview, Action, SubjectRight
from podidctl.diagnosis.input import ReadFailure
from podidentity.resources import GROUP, SecretReference
from tests.podidctl.access.small_cluster import bound, identity, pod, pod_of, rbac, reviewed, role, rule, with_pods
from tests.support.work import Work


def cluster_wide(*rules: PolicyRule, subject: str = "User anna") -> AccessReview:
    return reviewed(rbac=rbac(cluster=(role("it", *rules),), bindings=(bound("it", subject),)))


def in_namespace(*rules: PolicyRule, namespace: str = "shop", subject: str = "User anna") -> AccessReview:
    its = role("it", *rules, namespace=namespace)
    return reviewed(rbac=rbac(its, bindings=(bound("it", subject, kind="Role", namespace=namespace),)))


def rights(found: AccessReview) -> dict[Action, SubjectRight]:
    """Return the rights of the only subject, of which each action has one."""
    if not found.subjects:
        return {}
    (subject,) = found.subjects
    assert len({each.action for each in subject.rights}) == len(subject.rights)
    return {each.action: each for each in subject.rights}


def test_writing_bindings_leads_to_the_identities_of_the_namespace() -> None:
    one = rights(in_namespace(rule("create delete", GROUP, "azureidentitybindings")))[Action.BINDINGS]
    assert (one.verbs, one.namespaces, one.identities, one.wildcard) == (["create"], ["shop"], 2, False)
    assert one.via == ["RoleBinding shop/it → Role it"]
    assert rights(cluster_wide(rule("patch", GROUP, "azureidentitybindings")))[Action.BINDINGS].identities == 3


def test_reading_alone_is_not_reported() -> None:
    assert rights(cluster_wide(rule("get list watch", GROUP, "*"), rule("get", "", "pods"))) == {}


def test_wildcards_are_found_and_marked() -> None:
    found = rights(cluster_wide(rule("*", "*", "*")))
    assert set(found) == set(Action)
    assert all(each.wildcard for each in found.values())
    assert not rights(cluster_wide(rule("create", "", "pods")))[Action.PODS].wildcard


def test_creating_pods_leads_to_the_identities_that_bindings_offer_there() -> None:
    assert rights(in_namespace(rule("create", "", "pods")))[Action.PODS].identities == 3
    assert rights(in_namespace(rule("create", "", "pods"), namespace="empty"))[Action.PODS].identities == 2, (
        "a federated identity serves its own namespace only"
    )


def test_exec_counts_only_where_a_pod_has_an_identity() -> None:
    assert rights(in_namespace(rule("create", "", "pods/exec")))[Action.EXEC].identities == 2
    assert rights(in_namespace(rule("create", "", "pods/exec"), namespace="empty")) == {}
    named = rights(in_namespace(rule("create", "", "pods/exec", "report")))[Action.EXEC]
    assert (named.names, named.identities) == (["report"], 1)


def test_a_name_does_not_restrict_a_permission_to_create_but_makes_it_void() -> None:
    assert rights(cluster_wide(rule("create", GROUP, "azureidentitybindings", "payments"))) == {}
    changing = rights(cluster_wide(rule("create update", GROUP, "azureidentitybindings", "payments")))
    assert changing[Action.BINDINGS].verbs == ["update"]


def test_tokens_lead_to_federated_identities_and_to_those_of_nmi() -> None:
    tokens = rule("create", "", "serviceaccounts/token")
    assert rights(in_namespace(tokens))[Action.TOKENS].identities == 1
    assert Action.TOKENS not in rights(in_namespace(tokens, namespace="ops"))
    both = reviewed(
        rbac=rbac(
            role("it", tokens, namespace="kube-system"),
            cluster=(role("nmi", rule("get", "", "secrets")),),
            bindings=(
                bound("it", "User anna", kind="Role", namespace="kube-system"),
                bound("nmi", "ServiceAccount kube-system/default"),
            ),
        )
    )
    (anna,) = (each for each in both.subjects if each.name == "anna")
    assert [(each.action, each.identities) for each in anna.rights] == [(Action.TOKENS, 1)]


def test_secrets_count_only_if_an_identity_names_them() -> None:
    secrets = rule("get", "", "secrets")
    assert rights(in_namespace(secrets, namespace="ops"))[Action.SECRETS].identities == 1
    assert rights(in_namespace(secrets)) == {}
    assert rights(in_namespace(rule("get", "", "secrets", "other"), namespace="ops")) == {}


def test_bind_escalate_and_impersonate_lead_to_everything() -> None:
    found = rights(
        cluster_wide(
            rule("bind", "rbac.authorization.k8s.io", "clusterroles", "admin"), rule("impersonate", "", "users")
        )
    )
    assert {each: one.identities for each, one in found.items()} == {Action.ROLES: 3, Action.IMPERSONATE: 3}


def test_cluster_scoped_resources_in_a_namespaced_role_have_no_effect() -> None:
    assert rights(in_namespace(rule("get create", "", "nodes/proxy"), rule("impersonate", "", "users"))) == {}


def test_groups_and_service_account_users_are_subjects() -> None:
    one = rule("create", GROUP, "azureidentitybindings")
    found = reviewed(
        rbac=rbac(
            cluster=(role("it", one),),
            bindings=(
                bound("it", "Group system:serviceaccounts:ops", name="group"),
                bound("it", "User system:serviceaccount:ci:deployer", name="user"),
            ),
        )
    )
    assert [(each.full_name, each.built_in) for each in found.subjects] == [
        ("Group system:serviceaccounts:ops", False),
        ("ServiceAccount ci/deployer", False),
    ]
    assert pod_of(found, "ops/robot").rights == [Action.BINDINGS], "by its group"
    assert pod_of(found, "shop/report").rights == []


def test_the_same_permission_in_several_namespaces_is_one() -> None:
    one = rule("create", GROUP, "azureidentitybindings")
    spaces = ("shop", "ops")
    found = reviewed(
        rbac=rbac(
            *(role("it", one, namespace=each) for each in spaces),
            bindings=tuple(bound("it", "User anna", kind="Role", namespace=each) for each in spaces),
        )
    )
    merged = rights(found)[Action.BINDINGS]
    assert (merged.namespaces, merged.identities) == (["ops", "shop"], 3)


def test_without_rbac_subjects_are_unknown_and_not_absent() -> None:
    changes: Any = {"rbac": ReadFailure("not allowed: clusterroles")}
    found = reviewed(**changes)
    assert (found.subjects, found.summary.subjects) == ([], None)
    (unknown,) = found.unknown
    assert (unknown.part, unknown.why) == ("rbac", "not allowed: clusterroles")
    assert "list on roles, clusterroles" in unknown.right
    assert found.programs[0].why.startswith("its permissions are unknown")


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
    found = cluster_wide(rule("create", GROUP, "azureidentitybindings"), subject=subject)
    (one,) = found.subjects
    assert (one.full_name, one.built_in, found.summary.subjects) == (subject, False, 1)
    masters = cluster_wide(rule("create", GROUP, "azureidentitybindings"), subject="Group system:masters")
    assert (masters.subjects[0].built_in, masters.summary.subjects) == (True, 0)


def test_the_name_of_nodes_proxy_is_a_node() -> None:
    named = rights(cluster_wide(rule("get", "", "nodes/proxy", "node-0")))[Action.EXEC]
    assert (named.names, named.identities) == (["node-0"], 1), "shop/web-7d4b-x1"
    assert rights(cluster_wide(rule("get", "", "nodes/proxy", "web-7d4b-x1"))) == {}, "no node has the name of a pod"
    assert rights(cluster_wide(rule("get", "", "nodes/proxy")))[Action.EXEC].identities == 3


def test_exec_in_a_pod_with_access_to_its_host_leads_to_the_identities_of_the_host() -> None:
    exec_ = role("it", rule("create", "", "pods/exec"), namespace="ops")
    anna = bound("it", "User anna", kind="Role", namespace="ops")
    tenant = pod("proxy", "ops", host_network=True)
    found = reviewed(rbac=rbac(exec_, bindings=(anna,)), pods=with_pods(tenant))
    assert rights(found)[Action.EXEC].identities == 2, "ops/legacy of robot, and shop/payments of the VM"
    privileged = pod("proxy", "ops", privileged=True, node="node-1")
    found = reviewed(rbac=rbac(exec_, bindings=(anna,)), pods=with_pods(privileged))
    assert rights(found)[Action.EXEC].identities == 2, "ops/legacy, and shop/reports of a pod on the same node"


def test_a_pod_can_mount_the_secrets_of_its_namespace_and_run_with_its_service_accounts() -> None:
    creating = role("it", rule("create", "", "pods"), namespace="kube-system")
    nmi = role("nmi", rule("get", "", "secrets"), rule("create", "", "serviceaccounts/token"))
    found = reviewed(
        bindings=(),
        rbac=rbac(
            creating,
            cluster=(nmi,),
            bindings=(
                bound("it", "User anna", kind="Role", namespace="kube-system"),
                bound("nmi", "ServiceAccount kube-system/default"),
            ),
        ),
    )
    (anna,) = (each for each in found.subjects if each.name == "anna")
    assert [(each.action, each.identities) for each in anna.rights] == [(Action.PODS, 2)]
    vault = identity("legacy", "ops", kind=1, client_password=SecretReference(name="s", namespace="vault"))
    found = reviewed(
        identities=(vault,),
        bindings=(),
        rbac=rbac(
            role("it", rule("create", "", "pods"), namespace="vault"),
            bindings=(bound("it", "User anna", kind="Role", namespace="vault"),),
        ),
    )
    assert rights(found)[Action.PODS].identities == 1


@pytest.mark.parametrize("resource", ["pods", "pods/status"])
def test_changing_a_pod_leads_to_its_own_identities(resource: str) -> None:
    """The image of a running pod can be changed, and by its status the address by which NMI recognizes it."""
    report = in_namespace(rule("patch", "", resource, "report"))
    assert rights(report)[Action.LABELS].identities == 3, "two by labels of bindings, and shop/reports"
    nothing_offered = reviewed(
        bindings=(),
        rbac=rbac(
            role("it", rule("patch", "", resource), namespace="shop"),
            bindings=(bound("it", "User anna", kind="Role", namespace="shop"),),
        ),
    )
    assert rights(nothing_offered)[Action.LABELS].identities == 2


def test_the_token_of_a_service_account_leads_to_what_the_account_may_do() -> None:
    tokens = role("it", rule("create", "", "serviceaccounts/token"), namespace="ci")
    binder = role("binder", rule("create", GROUP, "azureidentitybindings"))
    admin = rule("*", "*", "*")
    found = reviewed(
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
    rights_of = {each.name: {right.action: right.identities for right in each.rights} for each in found.subjects}
    assert rights_of["anna"] == {Action.TOKENS: 3}, "deployer writes bindings"
    assert rights_of["boris"] == {Action.PODS: 3}, "a pod as builder requests a token of deployer"


def test_service_accounts_that_lead_to_each_other_end() -> None:
    tokens = rule("create", "", "serviceaccounts/token")
    spaces = ("a", "b")
    found = reviewed(
        rbac=rbac(
            *(role("it", tokens, namespace=each) for each in spaces),
            bindings=tuple(
                bound("it", f"ServiceAccount {other}/x", kind="Role", namespace=each)
                for each, other in (spaces, spaces[::-1])
            ),
        )
    )
    assert found.subjects == [], "they lead to no identity"


def test_approving_certificates_is_as_impersonating() -> None:
    one = rights(cluster_wide(rule("update", "certificates.k8s.io", "certificatesigningrequests/approval")))
    assert {each: right.identities for each, right in one.items()} == {Action.IMPERSONATE: 3}


@pytest.mark.parametrize(
    ("verb", "resource"),
    [
        ("impersonate:user-info", "users"),
        ("impersonate:user-info", "groups"),
        ("impersonate:serviceaccount", "serviceaccounts"),
        ("impersonate:arbitrary-node", "nodes"),
        ("impersonate:associated-node", "nodes"),
    ],
)
def test_constrained_impersonation_is_impersonation(verb: str, resource: str) -> None:
    one = rights(cluster_wide(rule(verb, "authentication.k8s.io", resource)))
    assert {each: right.identities for each, right in one.items()} == {Action.IMPERSONATE: 3}
    assert rights(cluster_wide(rule(verb, "", resource))) == {}, "in the core group it is no verb of the API server"


def test_impersonating_in_a_namespace_leads_to_what_its_service_accounts_lead_to() -> None:
    impersonate = rule("impersonate", "", "serviceaccounts users")
    assert rights(in_namespace(impersonate))[Action.IMPERSONATE].identities == 1, "shop/reports of shop/report"
    assert rights(in_namespace(impersonate, namespace="empty"))[Action.IMPERSONATE].identities == 0
    named = in_namespace(rule("impersonate", "", "serviceaccounts", "web"))
    assert rights(named)[Action.IMPERSONATE].identities == 0


class Entries(list[str]):
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
    lists = [Entries([each] * LONG) for each in ("update", "", "pods")]
    lists.append(Entries(f"n{number}" for number in range(LONG)))
    verbs, groups, resources, names = lists
    long = PolicyRule(verbs=verbs, api_groups=groups, resources=resources, resource_names=names)
    bindings = (
        bound("it", f"User u{number}", kind="Role", namespace="shop", name=f"b{number}") for number in range(users)
    )
    its = rbac(role("it", long, namespace="shop"), bindings=tuple(bindings))
    with Work() as work:
        found = reviewed(rbac=its)
    return found, sum(each.reads for each in lists), work.bytecodes


def test_long_rules_of_many_bindings_cost_little_and_are_cut() -> None:
    """A tenant with permission to create roles can repeat entries, name many objects and bind the role often."""
    _, reads, work = review_of_long_rule(10)
    found, more_reads, more_work = review_of_long_rule(20)
    assert reads == more_reads, "the rule is read once for all bindings"
    assert more_work - work < 10 * LONG * 30, "30 bytecodes per binding and name"
    (right,) = found.subjects[0].rights
    assert (len(found.subjects), len(right.names), right.names[-1]) == (20, 201, f"and {LONG - 200} more")
