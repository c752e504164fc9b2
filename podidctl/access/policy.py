"""Policy file: rules for a review, in YAML, decoded strictly. Pure.

Patterns are names with `*` and `?`. A pattern with a slash is compared with `namespace/name`, any other with the name.
"""

from fnmatch import fnmatchcase
from typing import Annotated, Any, Final, Literal, TypeAlias

import msgspec
import yaml
from typing_extensions import override

from podidctl.access.schema import Action, Way

FILE_MAX: Final = 1 << 20
"""Bytes of a policy file."""
RULES_MAX: Final = 1000
NAME_MAX: Final = 200
"""Characters of a rule's name, which is the id of the rule in SARIF."""
VERSION: Final = 1


class PolicyError(Exception):
    """The file is not a policy. The message is one line with the position and the cause."""


class _Part(msgspec.Struct, frozen=True, kw_only=True, rename="camel", forbid_unknown_fields=True):
    """Base class of the parts of a policy: other fields are errors."""


class _Rule(_Part, frozen=True, kw_only=True, tag_field="rule"):
    """Fields of every rule."""

    name: str
    """Unique in the file."""
    why: str = ""
    """Reason, for the reader of a violation."""
    severity: Literal["error", "warning"] = "error"
    """Violations of warnings do not change the exit code."""


class IdentityOnlyFrom(_Rule, frozen=True, kw_only=True, tag="identity-only-from"):
    """Only these pods can use the identities."""

    identities: list[str]
    namespaces: list[str] = msgspec.field(default_factory=lambda: ["*"])
    service_accounts: list[str] = msgspec.field(default_factory=lambda: ["*"])


class SingleNamespace(_Rule, frozen=True, kw_only=True, tag="single-namespace"):
    """Each of the identities is used by pods of one namespace."""

    identities: list[str] = msgspec.field(default_factory=lambda: ["*"])


class IdentityTypes(_Rule, frozen=True, kw_only=True, tag="identity-types"):
    """The identities have one of these types."""

    types: list[Literal[0, 1, 2, 3]]
    identities: list[str] = msgspec.field(default_factory=lambda: ["*"])


class NoHostAccess(_Rule, frozen=True, kw_only=True, tag="no-host-access"):
    """No pod reaches its node's identities, or, with `identities`, a node that has one of these."""

    identities: list[str] = msgspec.field(default_factory=list)
    """Patterns of AzureIdentities, or of names on Azure."""
    ways: list[Way] = msgspec.field(default_factory=lambda: list(Way))
    nodes: list[str] = msgspec.field(default_factory=lambda: ["*"])
    except_namespaces: list[str] = msgspec.field(default_factory=list)
    except_pods: list[str] = msgspec.field(default_factory=list)


class NoClusterIdentity(_Rule, frozen=True, kw_only=True, tag="no-cluster-identity"):
    """No binding is for the cluster's own identity."""

    except_bindings: list[str] = msgspec.field(default_factory=list)


class NoUnexplainedIdentities(_Rule, frozen=True, kw_only=True, tag="no-unexplained-identities"):
    """No host has an identity on Azure that nothing in the cluster explains."""

    except_identities: list[str] = msgspec.field(default_factory=list)
    """Patterns of names on Azure."""


class OnlySubjects(_Rule, frozen=True, kw_only=True, tag="only-subjects"):
    """Only these subjects may take the actions."""

    actions: list[Action]
    subjects: list[str]
    """Patterns of `User NAME`, `Group NAME` and `ServiceAccount NAMESPACE/NAME`."""
    namespaces: list[str] = msgspec.field(default_factory=lambda: ["*"])
    """Namespaces in which the rule applies. A permission in all namespaces is one in each of them."""
    built_in: bool = False
    """Whether the subjects of Kubernetes itself (`system:…`) must be listed too."""


class NoWildcardSubjects(_Rule, frozen=True, kw_only=True, tag="no-wildcard-subjects"):
    """No subject has one of the actions by `*` as verb, resource or API group."""

    actions: list[Action] = msgspec.field(default_factory=lambda: list(Action))
    except_subjects: list[str] = msgspec.field(default_factory=list)
    built_in: bool = False


class BlastRadiusLimit(_Rule, frozen=True, kw_only=True, tag="blast-radius"):
    """An attacker in one pod or node reaches at most this number of identities."""

    of: Literal["pod", "node"]
    max_identities: Annotated[int, msgspec.Meta(ge=0)]
    federated: bool = False
    """Whether the number counts as if all identities were of type 3."""
    except_namespaces: list[str] = msgspec.field(default_factory=list)
    """For pods, like the next one."""
    except_pods: list[str] = msgspec.field(default_factory=list)


Rule: TypeAlias = (
    IdentityOnlyFrom
    | SingleNamespace
    | IdentityTypes
    | NoHostAccess
    | NoClusterIdentity
    | NoUnexplainedIdentities
    | OnlySubjects
    | NoWildcardSubjects
    | BlastRadiusLimit
)


class Policy(_Part, frozen=True, kw_only=True):
    """The file."""

    version: Literal[1]
    rules: list[Rule]


class RuleLine(msgspec.Struct, frozen=True):
    """One rule with its line in the file, from 1."""

    rule: Rule
    line: int


def is_matched(name: str, patterns: list[str]) -> bool:
    """Return whether *name* (`name` or `namespace/name`) matches one of the patterns."""
    bare = name.rpartition("/")[2]
    return any(fnmatchcase(name if "/" in each else bare, each) for each in patterns)


def is_listed(text: str, patterns: list[str]) -> bool:
    """Return whether the whole *text* matches one of the patterns."""
    return any(fnmatchcase(text, each) for each in patterns)


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
            return [each.start_mark.line + 1 for each in value.value]
    return []


def _explained(error: str, lines: list[int]) -> str:
    """Return the decoder's message with the line of the rule."""
    before, there, rest = error.rpartition("$.rules[")
    number = rest.partition("]")[0]
    if there and number.isdigit() and int(number) < len(lines):
        return f"line {lines[int(number)]}: {before}rules[{rest}".replace("`$.", "`")
    return error
