"""The patch types: JSON patch (RFC 6902), merge patch (RFC 7386), and a part of the strategic merge patch. Pure.

Every function returns a new document and does not change its arguments. A refusal is a StatusError with the real
server's message.
"""

import copy
from typing import Any, Final

from podidentity_sandbox.kubeapi.statuses import StatusError, bad_request, unprocessable_patch

JSON: Final = "application/json-patch+json"
MERGE: Final = "application/merge-patch+json"
STRATEGIC: Final = "application/strategic-merge-patch+json"
APPLY: Final = "application/apply-patch+yaml"

OPERATIONS_MAX: Final = 10_000
"""As many operations in one JSON patch as the real server takes."""

MERGE_KEYS: Final = {
    "addresses": ("type",),
    "conditions": ("type",),
    "containers": ("name",),
    "containerStatuses": (),
    "env": ("name",),
    "ephemeralContainers": ("name",),
    "hostAliases": ("ip",),
    "hostIPs": (),
    "imagePullSecrets": ("name",),
    "initContainers": ("name",),
    "ownerReferences": ("uid",),
    "podIPs": ("ip",),
    "ports": ("containerPort", "port"),
    "secrets": ("name",),
    "taints": ("key",),
    "topologySpreadConstraints": ("topologyKey",),
    "volumeDevices": ("devicePath",),
    "volumeMounts": ("mountPath",),
    "volumes": ("name",),
}
"""Lists of objects that merge by a key, from the built-in kinds' `patchMergeKey`; the first key that items have counts.

The empty ones are lists that are replaced as a whole; a list that is not named here is, too.
"""

PRIMITIVE_MERGED: Final = frozenset({"finalizers", "podCIDRs"})


def merge(target: Any, patch: Any) -> Any:
    """Apply a merge patch (RFC 7386): objects merge, null removes, every other value replaces."""
    if not isinstance(patch, dict):
        return copy.deepcopy(patch)
    merged = dict(target) if isinstance(target, dict) else {}
    for name, value in patch.items():
        if value is None:
            merged.pop(name, None)
        else:
            merged[name] = merge(merged.get(name), value)
    return merged


def json_patch(document: Any, operations: Any) -> Any:
    """Apply a JSON patch (RFC 6902). Raise StatusError: 400 for an invalid patch, 422 if it does not apply."""
    if not isinstance(operations, list) or not all(isinstance(operation, dict) for operation in operations):
        raise bad_request("invalid JSON patch")
    if len(operations) > OPERATIONS_MAX:
        raise StatusError(
            413,
            "RequestEntityTooLarge",
            f"Request entity too large: The allowed maximum operations in a JSON patch is {OPERATIONS_MAX}, "
            f"got {len(operations)}",
        )
    patched = copy.deepcopy(document)
    for operation in operations:
        try:
            patched = _apply(patched, operation)
        except (KeyError, IndexError, ValueError, TypeError) as error:
            raise unprocessable_patch() from error
    return patched


def strategic_merge(target: Any, patch: Any) -> Any:
    """Return the strategic merge of the built-in kinds: lists by key, `$patch`, `$deleteFromPrimitiveList`,
    `$retainKeys`.

    `$setElementOrder` orders the items that it names and appends the others.
    """
    if not isinstance(patch, dict):
        return copy.deepcopy(patch)
    directive = patch.get("$patch")
    if directive == "replace":
        return {name: copy.deepcopy(value) for name, value in patch.items() if name != "$patch"}
    if directive == "delete":
        return {}
    merged = dict(target) if isinstance(target, dict) else {}
    retained = patch.get("$retainKeys")
    if isinstance(retained, list):
        merged = {name: value for name, value in merged.items() if name in retained}
    for name, value in patch.items():
        if name.startswith("$"):
            continue
        if value is None:
            merged.pop(name, None)
        elif isinstance(value, dict):
            merged[name] = strategic_merge(merged.get(name), value)
            if value.get("$patch") == "delete":
                del merged[name]
        elif isinstance(value, list):
            merged[name] = _merge_list(name, merged.get(name), value)
        else:
            merged[name] = value
    for name, value in patch.items():
        _follow_directive(merged, name, value)
    return merged


def _follow_directive(merged: dict[str, Any], directive: str, value: Any) -> None:
    verb, _, name = directive.partition("/")
    current = merged.get(name)
    if not isinstance(current, list) or not isinstance(value, list):
        return
    if verb == "$deleteFromPrimitiveList":
        merged[name] = [item for item in current if item not in value]
    elif verb == "$setElementOrder":
        key = _merge_key(name, [*current, *value])

        def place(item: Any) -> int:
            wanted = [_value(entry, key) for entry in value]
            mine = _value(item, key)
            return wanted.index(mine) if mine in wanted else len(wanted)

        merged[name] = sorted(current, key=place)


def _merge_list(name: str, target: Any, patch: list[Any]) -> list[Any]:
    current = list(target) if isinstance(target, list) else []
    if any(isinstance(item, dict) and item.get("$patch") == "replace" for item in patch):
        return [copy.deepcopy(item) for item in patch if "$patch" not in item]
    if name in PRIMITIVE_MERGED:
        return current + [item for item in patch if item not in current]
    key = _merge_key(name, patch)
    if key is None:
        return copy.deepcopy(patch)
    for item in patch:
        place = next((at for at, kept in enumerate(current) if _value(kept, key) == _value(item, key)), None)
        if isinstance(item, dict) and item.get("$patch") == "delete":
            if place is not None:
                del current[place]
        elif place is None:
            current.append(strategic_merge({}, item))
        else:
            current[place] = strategic_merge(current[place], item)
    return current


def _merge_key(name: str, items: list[Any]) -> str | None:
    for key in MERGE_KEYS.get(name, ()):
        if all(isinstance(item, dict) and (key in item or "$patch" in item) for item in items):
            return key
    return None


def _value(item: Any, key: str | None) -> Any:
    return item.get(key) if isinstance(item, dict) and key is not None else item


def _apply(document: Any, operation: dict[str, Any]) -> Any:
    verb, path = operation["op"], _pointer(operation["path"])
    match verb:
        case "add":
            return _add(document, path, copy.deepcopy(operation["value"]))
        case "remove":
            return _remove(document, path)
        case "replace":
            _find(document, path)
            return _replace(document, path, copy.deepcopy(operation["value"]))
        case "move":
            value = _find(document, _pointer(operation["from"]))
            return _add(_remove(document, _pointer(operation["from"])), path, value)
        case "copy":
            return _add(document, path, copy.deepcopy(_find(document, _pointer(operation["from"]))))
        case "test":
            return _tested(document, path, operation.get("value"))
        case _:
            raise ValueError(verb)


def _pointer(text: Any) -> list[str]:
    """Return the unescaped parts of a JSON pointer (RFC 6901)."""
    if not isinstance(text, str) or (text and not text.startswith("/")):
        raise ValueError(text)
    return [part.replace("~1", "/").replace("~0", "~") for part in text.split("/")[1:]]


def _index(items: list[Any], part: str, *, end: bool = False) -> int:
    if part == "-" and end:
        return len(items)
    if not part.isascii() or not part.isdigit() or int(part) >= len(items) + end:
        raise IndexError(part)
    return int(part)


def _find(document: Any, path: list[str]) -> Any:
    for part in path:
        document = document[_index(document, part)] if isinstance(document, list) else _member(document)[part]
    return document


def _member(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise TypeError(type(value))
    return value


def _add(document: Any, path: list[str], value: Any) -> Any:
    if not path:
        return value
    parent = _find(document, path[:-1])
    if isinstance(parent, list):
        parent.insert(_index(parent, path[-1], end=True), value)
    else:
        _member(parent)[path[-1]] = value
    return document


def _replace(document: Any, path: list[str], value: Any) -> Any:
    if not path:
        return value
    parent = _find(document, path[:-1])
    parent[_index(parent, path[-1]) if isinstance(parent, list) else path[-1]] = value
    return document


def _remove(document: Any, path: list[str]) -> Any:
    if not path:
        raise ValueError("nothing would be left")
    parent = _find(document, path[:-1])
    if isinstance(parent, list):
        del parent[_index(parent, path[-1])]
    else:
        del _member(parent)[path[-1]]
    return document


def _tested(document: Any, path: list[str], value: Any) -> Any:
    try:
        current = _find(document, path)
    except KeyError:
        current = None  # the real server's library takes a missing member for null, and so `test … null` passes
    if current != value or isinstance(current, bool) is not isinstance(value, bool):
        raise ValueError("test failed")
    return document
