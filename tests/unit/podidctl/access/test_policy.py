"""The policy file, with errors and their lines, and each kind of rule on a small cluster."""

from typing import Any, get_args

import pytest

from podidctl.access.policy import FILE_MAX, RULES_MAX, PolicyError, parse_policy
from podidctl.access.policy_rules import Rule, is_matched
from podidctl.facts.model import ReadFailure
from tests.support.checkout import ROOT
from tests.support.podidctl.access.small_cluster import binding, pod, policy_result, reviewed, rule_result, with_pods

EVERY_KIND = """
version: 1
rules:
  - {rule: identity-only-from, name: a, identities: [prod-*], namespaces: [prod], serviceAccounts: [prod/*]}
  - {rule: single-namespace, name: b}
  - {rule: identity-types, name: c, types: [0, 3], severity: warning, why: no Secrets}
  - {rule: no-host-access, name: d, ways: [hostNetwork, privileged], exceptNamespaces: [kube-system]}
  - {rule: no-unexplained-identities, name: e, exceptIdentities: [kubelet-*]}
  - {rule: only-subjects, name: f, actions: [write bindings], subjects: ["Group platform"]}
  - {rule: no-wildcard-subjects, name: g, builtIn: true}
  - {rule: blast-radius, name: h, of: node, maxIdentities: 5}
  - {rule: no-cluster-identity, name: i, exceptBindings: [shop/*]}
"""


def test_every_kind_of_rule_can_be_read_with_its_line() -> None:
    rules = parse_policy(EVERY_KIND.encode())
    assert [rule.line for rule in rules] == list(range(4, 13))
    assert {type(rule.rule) for rule in rules} == set(get_args(Rule))
    assert rules[2].rule.severity == "warning"
    text = (ROOT / "docs" / "access.md").read_text()
    example = text.partition("```yaml\nversion: 1")[2].partition("```")[0]
    assert len(parse_policy(f"version: 1{example}".encode())) >= 5


ONE = "version: 1\nrules:\n  - {{rule: {}}}"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "Expected `object`, got `null`"),
        ("version: 2\nrules: []", "Invalid enum value 2"),
        ("version: 1\nrules: []", "no rules"),
        ("version: 1", "missing required field `rules`"),
        (ONE.format("nonsense, name: a"), "line 3: Invalid value 'nonsense'"),
        (ONE.format("single-namespace, name: a, pods: [x]"), "line 3: .*unknown.*pods"),
        ("version: 1\nrules:\n\n  - {rule: identity-types, name: a, types: [7]}", "line 4: Invalid enum value 7"),
        (ONE.format("no-host-access, name: a, ways: [x]"), "line 3: Invalid enum value 'x'"),
        (ONE.format("blast-radius, name: a, of: pod, maxIdentities: -1"), "line 3: Expected `int` >= 0"),
        (ONE.format("single-namespace, name: ''"), "line 3: the rule has an empty name"),
        (ONE.format(f"single-namespace, name: {'n' * 201}"), "line 3: the rule's name has more than 200 characters"),
        (ONE.format('single-namespace, name: "a\\u202e"'), "or a control character"),
        (
            ONE.format("single-namespace, name: a") + "\n  - {rule: single-namespace, name: a}",
            "line 4: the rule of line 3 has the same name",
        ),
        ("version: 1\nversion: 1\nrules: []", "line 2: 'version' is there twice"),
        ("version: 1\nrules: &a\n  - *a", "line 3: aliases are not supported"),
        ("version: [1\n", "line 2: "),
        (ONE.format("single-namespace, name: 2024-99-99"), "cannot be read|Expected `str`"),
        ("a: !!python/object:os.system x", "line 1: could not determine a constructor"),
        ("[" * 5000, "cannot be read|line "),
        ("version: 1\n--- \nversion: 1", "expected a single document|line "),
        (ONE.format("single-namespace, ? [a] : b"), "line 3: "),
        (ONE.format("single-namespace, name: a, n\u0430me: b"), "line 3: .*unknown field"),
        (ONE.format("single-n\u0430mespace, name: a"), "line 3: "),
    ],
)
def test_a_faulty_file_is_rejected_with_the_cause(text: str, says: str) -> None:
    with pytest.raises(PolicyError, match=says) as raised:
        parse_policy(text.encode())
    assert "\n" not in str(raised.value)


def test_a_byte_order_mark_has_no_meaning() -> None:
    assert parse_policy(b"\xef\xbb\xbf" + EVERY_KIND.lstrip().encode())[0].rule.name == "a"


def test_sizes_are_limited() -> None:
    with pytest.raises(PolicyError, match=f"more than {FILE_MAX} bytes"):
        parse_policy(b" " * (FILE_MAX + 1))
    many = "".join(f"  - {{rule: single-namespace, name: r{number}}}\n" for number in range(RULES_MAX + 1))
    with pytest.raises(PolicyError, match=f"{RULES_MAX + 1} rules"):
        parse_policy(f"version: 1\nrules:\n{many}".encode())
    with pytest.raises(PolicyError, match="not UTF-8"):
        parse_policy(b"\xff\xfe")


@pytest.mark.parametrize(
    ("name", "pattern", "matches"),
    [
        ("prod/api", "api", True),
        ("prod/api", "a*", True),
        ("prod/api", "prod/*", True),
        ("prod/api", "dev/*", False),
        ("prod/api", "prod", False),
        ("prod/api", "API", False),
        ("api", "*", True),
    ],
)
def test_a_pattern_with_a_slash_includes_the_namespace(name: str, pattern: str, *, matches: bool) -> None:
    assert is_matched(name, [pattern]) is matches


def violations(rule: str, **changes: Any) -> list[tuple[str, str]]:
    result = rule_result(rule, reviewed(**changes))
    assert result.undecided == []
    return [(violation.object, violation.message) for violation in result.violations]


def test_an_identity_that_another_namespace_or_account_uses_is_found() -> None:
    assert violations("rule: identity-only-from, identities: [payments], namespaces: [shop]") == []
    other = pod("copy", "ops", label="payments")
    violating = violations(
        "rule: identity-only-from, identities: [payments], namespaces: [shop]", pods=with_pods(other)
    )
    assert violating == [
        (
            "Pod ops/copy",
            (
                "can use identity shop/payments through binding shop/payments (pending), "
                "which only pods of the namespaces shop may use"
            ),
        )
    ]
    ((only, _),) = violations("rule: single-namespace", pods=with_pods(other))
    assert only == "AzureIdentity shop/payments"
    rule = "rule: identity-only-from, identities: [shop/*], serviceAccounts: [shop/web]"
    ((name, says),) = violations(rule)
    assert name == "Pod shop/report"
    assert "with service account shop/report" in says
    lost = binding("lost", identity="payments", selector="none")
    assert violations("rule: single-namespace", bindings=(binding("payments"), lost)) == []


def test_a_type_that_is_not_allowed_is_found_and_a_warning_is_no_violation() -> None:
    assert violations("rule: identity-types, types: [0, 3]") == [("AzureIdentity ops/legacy", "has type 1")]
    assert violations("rule: identity-types, types: [3], identities: [reports]") == []
    rule = "rule: identity-types, types: [3]"
    assert policy_result(rule, reviewed()).is_violated
    warning = policy_result(f"{rule}, severity: warning", reviewed())
    assert warning.rules[0].violations
    assert not warning.is_violated


def test_pods_that_reach_their_host_are_found() -> None:
    violating = violations("rule: no-host-access, exceptNamespaces: [kube-system]")
    assert violating == [("Pod ops/agent", "reaches the identities of node node-2 by privileged")]
    assert violations("rule: no-host-access, ways: [hostPath, exception]") == []
    assert violations("rule: no-host-access, exceptPods: [nmi-*, ops/agent]") == []
    assert [name for name, _ in violations("rule: no-host-access, nodes: [node-1]")] == ["Pod kube-system/nmi-node-1"]
    assert violations("rule: no-host-access, identities: [shop/payments]") == [
        ("Pod kube-system/nmi-node-0", "reaches identity shop/payments of node node-0 by hostNetwork")
    ]
    assert len(violations("rule: no-host-access, identities: [kubelet]")) == 4, "names on Azure count too"
    assert violations("rule: no-host-access, identities: [reports]") == [], "a federated one is on no host"


def test_an_identity_that_nothing_explains_is_found() -> None:
    ((name, says),) = violations("rule: no-unexplained-identities")
    assert name.startswith("VM /subscriptions/")
    assert says.endswith("/backup, which nothing explains")
    assert violations("rule: no-unexplained-identities, exceptIdentities: [back*]") == []


def test_subjects_outside_of_the_list_and_wildcards_are_found() -> None:
    rule = "rule: only-subjects, actions: [write bindings], subjects: [Group platform]"
    ((name, says),) = violations(rule)
    assert name == "ServiceAccount ops/robot"
    assert says == "may write bindings in all namespaces: ClusterRoleBinding binder → ClusterRole binder"
    assert violations(f"{rule}, namespaces: [shop]") == [(name, says)], "all namespaces include this one"
    assert len(violations(f"{rule}, builtIn: true")) == 2
    developers = "rule: only-subjects, actions: [create workloads], subjects: [], namespaces: [ops]"
    assert violations(developers) == []
    assert violations("rule: only-subjects, actions: [write bindings], subjects: ['ServiceAccount ops/*']") == []
    assert violations("rule: no-wildcard-subjects, actions: [write bindings]") == []
    violating = violations("rule: no-wildcard-subjects, actions: [write bindings], builtIn: true")
    assert [name for name, _ in violating] == ["Group system:masters"]
    except_them = "rule: no-wildcard-subjects, builtIn: true, exceptSubjects: ['Group system:masters']"
    assert violations(except_them) == []


def test_a_blast_radius_over_the_limit_is_found() -> None:
    assert violations("rule: blast-radius, of: node, maxIdentities: 2") == [
        ("Node node-0", "reaches 3 identities, more than 2"),
        ("Node node-1", "reaches 3 identities, more than 2"),
    ]
    assert violations("rule: blast-radius, of: node, maxIdentities: 3") == []
    pods = violations("rule: blast-radius, of: pod, maxIdentities: 0, exceptNamespaces: [kube-system, shop]")
    assert [name for name, _ in pods] == ["Pod ops/agent", "Pod ops/robot"]
    assert (
        violations("rule: blast-radius, of: pod, maxIdentities: 1, federated: true, exceptNamespaces: [kube-system]")
        == []
    )
    copy = pod("copy", account="report")
    rule = "rule: blast-radius, of: pod, maxIdentities: 0, exceptNamespaces: [kube-system, ops]"
    assert "Pod shop/copy" in [name for name, _ in violations(rule, pods=with_pods(copy))]


@pytest.mark.parametrize(
    ("rule", "changes", "part"),
    [
        ("rule: identity-only-from, identities: [a]", {"bindings": ReadFailure("no")}, "azureidentitybindings"),
        ("rule: single-namespace", {"pods": ReadFailure("no")}, "pods: no"),
        ("rule: identity-types, types: [3]", {"identities": ReadFailure("no")}, "azureidentities"),
        ("rule: no-host-access", {"exceptions": ReadFailure("no")}, "azurepodidentityexceptions"),
        ("rule: no-host-access, identities: [a]", {"azure": None}, "azure: it was not read"),
        ("rule: no-unexplained-identities", {"azure": None}, "azure: it was not read"),
        ("rule: only-subjects, actions: [impersonate], subjects: []", {"rbac": ReadFailure("no")}, "rbac: no"),
        ("rule: no-wildcard-subjects", {"rbac": ReadFailure("no")}, "rbac: no"),
        ("rule: blast-radius, of: node, maxIdentities: 9", {"azure": None}, "azure: it was not read"),
    ],
)
def test_a_rule_on_an_unread_part_is_undecided(rule: str, changes: Any, part: str) -> None:
    result = policy_result(rule, reviewed(**changes))
    assert result.is_undecided
    assert any(part in reason for reason in result.rules[0].undecided)
    unrelated = policy_result("rule: identity-types, types: [0, 1, 3]", reviewed(rbac=ReadFailure("no"), azure=None))
    assert not unrelated.is_undecided, "other parts do not count"
