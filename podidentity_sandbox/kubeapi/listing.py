"""Selectors, and lists of the selected objects of a revision, in order and in pages. Pure, over a history.

Grammar: `k8s.io/apimachinery` documents label selectors as comma-separated requirements `key`, `!key`, `key=value`,
`key==value`, `key!=value`, `key in (a,b)`, `key notin (a,b)`; field selectors know only `=`, `==` and `!=`.
"""

import binascii
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from podidentity_sandbox import base64url
from podidentity_sandbox.kubeapi.history import History, Item, Key, TooOldError
from podidentity_sandbox.kubeapi.kinds import ResourceType
from podidentity_sandbox.kubeapi.requests import ListOptions, Target, revision
from podidentity_sandbox.kubeapi.statuses import Document, bad_request, expired, revision_too_large

Predicate = Callable[[Document], bool]

TEXT_MAX: Final = 8192
"""Longest selector read; a request line could not carry a longer one to the real server either."""

_KEY: Final = r"[A-Za-z0-9](?:[-A-Za-z0-9_./]*[A-Za-z0-9])?"
_VALUE: Final = r"(?:[A-Za-z0-9](?:[-A-Za-z0-9_.]*[A-Za-z0-9])?)?"
_SET: Final = re.compile(rf"\s*({_KEY})\s+(in|notin)\s*\(([^()]*)\)\s*")
_EQUALITY: Final = re.compile(rf"\s*({_KEY})\s*(==|=|!=)\s*({_VALUE})\s*")
_PRESENCE: Final = re.compile(rf"\s*(!?)\s*({_KEY})\s*")


class _Continue(msgspec.Struct):
    """The content of a continue token: the revision of the list (0: the current state), and the last key sent."""

    rv: int
    namespace: str
    name: str


@dataclass(frozen=True, slots=True)
class Page:
    """One page of a list."""

    items: list[Item]
    revision: int
    continue_token: str = ""
    remaining: int | None = None


def page(history: History, target: Target, options: ListOptions) -> Page:
    """Return the page for *options*. Raise StatusError: 400, 410 for a compacted revision, 504 for a future one."""
    selects = selector(options.label_selector, options.field_selector, target.resource)
    at, after = _position(history, options)
    entries = _entries_at(history, target, at, after) if at else history.items(target.resource.name)
    chosen = [
        (key, item)
        for key, item in entries
        if (after is None or key > after)
        and target.namespace in {"", key[0]}
        and (selects is None or selects(item.document))
    ]
    shown = at or history.revision
    if not options.limit or len(chosen) <= options.limit:
        return Page([item for _, item in chosen], shown)
    cut = chosen[: options.limit]
    return Page(
        [item for _, item in cut],
        shown,
        _token(shown, cut[-1][0]),
        # The real server counts the remaining objects only without selectors, where that is cheap.
        None if selects is not None else len(chosen) - len(cut),
    )


def _position(history: History, options: ListOptions) -> tuple[int, Key | None]:
    if options.continue_token:
        token = _read(options.continue_token)
        return token.rv, (token.namespace, token.name)
    requested = revision(options.resource_version)
    if requested > history.revision:
        raise revision_too_large(requested, history.revision)
    if options.match == "Exact":
        if not requested:
            raise bad_request("resourceVersionMatch Exact is forbidden for resourceVersion 0")
        return requested, None
    return 0, None


def _entries_at(history: History, target: Target, at: int, after: Key | None) -> list[tuple[Key, Item]]:
    try:
        return history.items_at(target.resource.name, at)
    except TooOldError as error:
        if after is None:
            raise expired(f"The resourceVersion for the provided list is too old: {at} ({error.oldest})") from error
        raise expired(
            "The provided continue parameter is too old to display a consistent list result. You can start a new list "
            "without the continue parameter, or use the continue token in this response to retrieve the remainder of "
            "the results. Continuing with the provided token results in an inconsistent list - objects that were "
            "created, modified, or deleted between the time the first chunk was returned and now may show up in the "
            "list.",
            continue_token=_token(0, after),
        ) from error


def _token(at: int, key: Key) -> str:
    return base64url.encode(msgspec.json.encode(_Continue(at, *key)))


def _read(text: str) -> _Continue:
    try:
        return msgspec.json.decode(base64url.decode(text), type=_Continue)
    except (ValueError, binascii.Error, msgspec.DecodeError) as error:
        raise bad_request(f"invalid continue token: continue key is not valid: {str(error)[:100]}") from error


def selector(labels: str, fields: str, resource: ResourceType) -> Predicate | None:
    """Return the predicate for a label and a field selector; None selects everything. Raise StatusError 400."""
    by_labels, by_fields = _by_labels(labels), _by_fields(fields, resource.fields)
    if by_labels is None or by_fields is None:
        return by_labels or by_fields
    return lambda document: by_labels(document) and by_fields(document)


def _by_labels(text: str) -> Predicate | None:
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


def _by_fields(text: str, paths: Mapping[str, str]) -> Predicate | None:
    """Return the predicate for a field selector over *paths* (selector name to dotted path). Raise StatusError 400."""
    selectable = {"metadata.name": "metadata.name", "metadata.namespace": "metadata.namespace", **paths}
    requirements: list[tuple[tuple[str, ...], str, bool]] = []
    for part in text.split(","):
        if not part.strip():
            continue
        name, operator, value = _field_requirement(part)
        if name not in selectable:
            raise bad_request(f"field label not supported: {name}")
        requirements.append((tuple(selectable[name].split(".")), value, operator != "!="))
    if not requirements:
        return None

    def selects(document: Document) -> bool:
        return all((_text_at(document, path) == value) is wanted for path, value, wanted in requirements)

    return selects


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
        name, separator, value = text.partition(operator)
        if separator:
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
