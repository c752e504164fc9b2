"""A policy: its file, in YAML, decoded strictly, and the results of its rules on a review. Pure."""

from collections.abc import Iterable
from typing import Any, Final, Literal, NamedTuple

import msgspec
import yaml
from typing_extensions import override

from podidctl.access.blast_radius import ReviewIndex
from podidctl.access.policy_rules import PolicyPart, Rule, Violation
from podidctl.access.schema import AccessReview

FILE_MAX: Final = 1 << 20
"""Bytes of a policy file."""
RULES_MAX: Final = 1000
NAME_MAX: Final = 200
"""Characters of a rule's name, which is the id of the rule in SARIF."""


class PolicyError(Exception):
    """The file is not a policy. The message is one line with the position and the cause."""


class Policy(PolicyPart, frozen=True, kw_only=True):
    """The file."""

    version: Literal[1]
    rules: list[Rule]


class RuleLine(NamedTuple):
    """One rule with its line in the file, from 1."""

    rule: Rule
    line: int


class RuleResult(msgspec.Struct, frozen=True):
    """Result of one rule."""

    rule: Rule
    line: int
    violations: list[Violation]
    undecided: list[str]
    """Unread parts and undecided settings because of which further violations are possible."""

    @property
    def is_violated(self) -> bool:
        """Whether the rule has severity error and is violated."""
        return bool(self.violations) and self.rule.severity == "error"


class PolicyResult(msgspec.Struct, frozen=True):
    """Results of all rules of one file."""

    file: str
    rules: list[RuleResult]

    @property
    def is_violated(self) -> bool:
        """Whether a rule of severity error is violated."""
        return any(result.is_violated for result in self.rules)

    @property
    def is_undecided(self) -> bool:
        """Whether a rule cannot be decided."""
        return any(result.undecided for result in self.rules)


def evaluate(review: AccessReview, rules: Iterable[RuleLine], file: str) -> PolicyResult:
    """Return the results. *review* must be of the whole cluster."""
    index = ReviewIndex(review)
    results = [
        RuleResult(rule, line, list(rule.violations(index)), list(rule.undecided(index))) for rule, line in rules
    ]
    return PolicyResult(file, results)


class _Loader(yaml.SafeLoader):
    """YAML without aliases, which make a small file large, and without repeated keys, of which the last would win."""

    @override
    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            event: Any = self.get_event()  # type: ignore[no-untyped-call]
            mark = event.start_mark
            raise yaml.composer.ComposerError(None, None, "aliases are not supported; write the value again", mark)
        return super().compose_node(parent, index)

    @override
    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[object, object]:
        seen = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise yaml.constructor.ConstructorError(None, None, "a key is not a text", key.start_mark)
            if key.value in seen:
                raise yaml.constructor.ConstructorError(None, None, f"{key.value!a} is there twice", key.start_mark)
            seen.add(key.value)
        return super().construct_mapping(node, deep)


def parse_policy(data: bytes) -> list[RuleLine]:
    """Return the rules of a policy file. Raises PolicyError."""
    if len(data) > FILE_MAX:
        raise PolicyError(f"the file has more than {FILE_MAX} bytes")
    try:
        root, document = _load(data.decode())
    except UnicodeDecodeError as error:
        raise PolicyError(f"the file is not UTF-8: {error}") from error
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"line {mark.line + 1}: " if mark is not None else ""
        raise PolicyError(f"{where}{getattr(error, 'problem', None) or 'not YAML'}") from error
    except (RecursionError, ValueError) as error:
        raise PolicyError(f"the file cannot be read: {error}") from error
    lines = _lines(root)
    try:
        policy = msgspec.convert(document, Policy)
    except msgspec.ValidationError as error:
        raise PolicyError(_explained(str(error), lines)) from error
    if len(policy.rules) > RULES_MAX:
        raise PolicyError(f"the file has {len(policy.rules)} rules, and the limit is {RULES_MAX}")
    # A policy without rules would find no violation in any cluster.
    if not policy.rules:
        raise PolicyError("the file has no rules")
    names: dict[str, int] = {}
    for rule, line in zip(policy.rules, lines, strict=True):
        if not rule.name.strip():
            raise PolicyError(f"line {line}: the rule has an empty name")
        if len(rule.name) > NAME_MAX or not rule.name.isprintable():
            raise PolicyError(
                f"line {line}: the rule's name has more than {NAME_MAX} characters or a control character; shorten it"
            )
        if rule.name in names:
            raise PolicyError(f"line {line}: the rule of line {names[rule.name]} has the same name {rule.name!a}")
        names[rule.name] = line
    return [RuleLine(rule, line) for rule, line in zip(policy.rules, lines, strict=True)]


def _load(text: str) -> tuple[yaml.Node | None, object]:
    loader = _Loader(text)
    try:
        root = loader.get_single_node()
        return root, loader.construct_document(root) if root is not None else None
    finally:
        loader.dispose()


def _lines(root: yaml.Node | None) -> list[int]:
    """Return the line of each rule."""
    for key, value in root.value if isinstance(root, yaml.MappingNode) else ():
        if key.value == "rules" and isinstance(value, yaml.SequenceNode):
            return [rule.start_mark.line + 1 for rule in value.value]
    return []


def _explained(error: str, lines: list[int]) -> str:
    """Return the decoder's message with the line of the rule."""
    before, there, rest = error.rpartition("$.rules[")
    number = rest.partition("]")[0]
    if there and number.isdigit() and int(number) < len(lines):
        return f"line {lines[int(number)]}: {before}rules[{rest}".replace("`$.", "`")
    return error
