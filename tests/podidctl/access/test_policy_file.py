"""The policy file: every kind of rule, and errors with their line."""

import pytest

from podidctl.access.policy import FILE_MAX, RULES_MAX, PolicyError, is_matched, parse_policy
from podidctl.access.policy_rules import PARTS
from tests.conftest import ROOT

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
    assert [each.line for each in rules] == list(range(4, 13))
    assert {type(each.rule) for each in rules} == set(PARTS)
    assert rules[2].rule.severity == "warning"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "Expected `object`, got `null`"),
        ("version: 2\nrules: []", "Invalid enum value 2"),
        ("version: 1\nrules: []", "no rules"),
        ("version: 1", "missing required field `rules`"),
        ("version: 1\nrules:\n  - {rule: nonsense, name: a}", "line 3: Invalid value 'nonsense'"),
        ("version: 1\nrules:\n  - {rule: single-namespace, name: a, pods: [x]}", "line 3: .*unknown.*pods"),
        ("version: 1\nrules:\n\n  - {rule: identity-types, name: a, types: [7]}", "line 4: Invalid enum value 7"),
        (
            "version: 1\nrules:\n  - {rule: no-host-access, name: a, ways: [x]}",
            "line 3: Invalid enum value 'x'",
        ),
        (
            "version: 1\nrules:\n  - {rule: blast-radius, name: a, of: pod, maxIdentities: -1}",
            "line 3: Expected `int` >= 0",
        ),
        ("version: 1\nrules:\n  - {rule: single-namespace, name: ''}", "line 3: the rule has an empty name"),
        (
            f"version: 1\nrules:\n  - {{rule: single-namespace, name: {'n' * 201}}}",
            "line 3: the rule's name has more than 200 characters",
        ),
        ('version: 1\nrules:\n  - {rule: single-namespace, name: "a\\u202e"}', "or a control character"),
        (
            "version: 1\nrules:\n  - {rule: single-namespace, name: a}\n  - {rule: single-namespace, name: a}",
            "line 4: the rule of line 3 has the same name",
        ),
        ("version: 1\nversion: 1\nrules: []", "line 2: 'version' is there twice"),
        ("version: 1\nrules: &a\n  - *a", "line 3: aliases are not supported"),
        ("version: [1\n", "line 2: "),
        ("version: 1\nrules: [{rule: single-namespace, name: 2024-99-99}]", "cannot be read|Expected `str`"),
        ("a: !!python/object:os.system x", "line 1: could not determine a constructor"),
        ("[" * 5000, "cannot be read|line "),
        ("version: 1\n--- \nversion: 1", "expected a single document|line "),
        ("version: 1\nrules:\n  - {rule: single-namespace, ? [a] : b}", "line 3: "),
        ("version: 1\nrules:\n  - {rule: single-namespace, name: a, n\u0430me: b}", "line 3: .*unknown field"),
        ("version: 1\nrules:\n  - {rule: single-n\u0430mespace, name: a}", "line 3: "),
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


def test_the_policy_in_the_documentation_can_be_read() -> None:
    text = (ROOT / "docs" / "access.md").read_text()
    example = text.partition("```yaml\nversion: 1")[2].partition("```")[0]
    assert len(parse_policy(f"version: 1{example}".encode())) >= 5
