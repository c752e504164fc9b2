"""Label and field selectors: text to a predicate over documents. Pure.

Grammar: `k8s.io/apimachinery` documents label selectors as comma-separated requirements `key`, `!key`, `key=value`,
`key==value`, `key!=value`, `key in (a,b)`, `key notin (a,b)`; field selectors know only `=`, `==` and `!=`.
"""

import re
from collections.abc import Callable, Mapping
from typing import Any, Final

from podidentity_sandbox.kubeapi.statuses import bad_request

Document = dict[str, Any]
Predicate = Callable[[Document], bool]

TEXT_MAX: Final = 8192
"""Longest selector read; a request line could not carry a longer one to the real server either."""

_KEY: Final = r"[A-Za-z0-9](?:[-A-Za-z0-9_./]*[A-Za-z0-9])?"
_VALUE: Final = r"(?:[A-Za-z0-9](?:[-A-Za-z0-9_.]*[A-Za-z0-9])?)?"
_SET: Final = re.compile(rf"\s*({_KEY})\s+(in|notin)\s*\(([^()]*)\)\s*")
_EQUALITY: Final = re.compile(rf"\s*({_KEY})\s*(==|=|!=)\s*({_VALUE})\s*")
_PRESENCE: Final = re.compile(rf"\s*(!?)\s*({_KEY})\s*")


def by_labels(text: str) -> Predicate | None:
    """Return the predicate for a label selector, or None if it selects everything. Raise StatusError 400."""
    if not text.strip():
        return None
    if len(text) > TEXT_MAX:
        raise bad_request("unable to parse requirement: selector too long")
    requirements = [_label_requirement(part) for part in _split(text)]

    def selects(document: Document) -> bool:
        labels = document["metadata"].get("labels") or {}
        return all(requirement(labels) for requirement in requirements)

    return selects


def by_fields(text: str, paths: Mapping[str, str]) -> Predicate | None:
    """Return the predicate for a field selector over *paths* (selector name to dotted path). Raise StatusError 400."""
    known = {"metadata.name": "metadata.name", "metadata.namespace": "metadata.namespace", **paths}
    requirements: list[tuple[tuple[str, ...], str, bool]] = []
    for part in text.split(","):
        if not part.strip():
            continue
        name, operator, value = _field_requirement(part)
        if name not in known:
            raise bad_request(f"field label not supported: {name}")
        requirements.append((tuple(known[name].split(".")), value, operator != "!="))
    if not requirements:
        return None

    def selects(document: Document) -> bool:
        return all((_text_at(document, path) == value) is wanted for path, value, wanted in requirements)

    return selects


def both(first: Predicate | None, second: Predicate | None) -> Predicate | None:
    """Return the conjunction of both predicates, where None selects everything."""
    if first is None or second is None:
        return first or second
    return lambda document: first(document) and second(document)


def _split(text: str) -> list[str]:
    """Split at commas outside parentheses."""
    parts: list[str] = []
    depth = start = 0
    for at, character in enumerate(text):
        if character == "(":
            depth += 1
        elif character == ")":
            depth -= 1
        elif character == "," and not depth:
            parts.append(text[start:at])
            start = at + 1
    parts.append(text[start:])
    return parts


def _label_requirement(text: str) -> Callable[[Mapping[str, str]], bool]:
    if match := _SET.fullmatch(text):
        key, operator, listed = match.groups()
        values = frozenset(value.strip() for value in listed.split(","))
        if operator == "in":
            return lambda labels: key in labels and labels[key] in values
        return lambda labels: key not in labels or labels[key] not in values
    if match := _EQUALITY.fullmatch(text):
        key, operator, value = match.groups()
        if operator == "!=":
            return lambda labels: labels.get(key) != value
        return lambda labels: labels.get(key) == value
    if match := _PRESENCE.fullmatch(text):
        absent, key = match.groups()
        return (lambda labels: key not in labels) if absent else (lambda labels: key in labels)
    raise bad_request(f"unable to parse requirement: {text[:100]!r}: expected: in, notin, =, ==, !=, gt, lt")


def _field_requirement(text: str) -> tuple[str, str, str]:
    for operator in ("!=", "==", "="):
        name, found, value = text.partition(operator)
        if found:
            return name.strip(), operator, re.sub(r"\\(.)", r"\1", value.strip())
    raise bad_request(f"invalid selector: {text[:100]!r}; can't understand {text[:100]!r}")


def _text_at(document: Document, path: tuple[str, ...]) -> str:
    value: Any = document
    for name in path:
        if not isinstance(value, dict):
            return ""
        value = value.get(name)
    if isinstance(value, bool):
        return str(value).lower()
    return "" if value is None else str(value)
