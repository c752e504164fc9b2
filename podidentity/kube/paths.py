"""Paths and query parameters of requests to the API server."""

import re
from typing import Final, TypeVar

from podidentity.kube.errors import Invalid
from podidentity.resources import Kind, Resource

R = TypeVar("R", bound=Resource)

_NAME: Final = re.compile(r"[A-Za-z0-9._:-]{1,253}")


def selectors(field_selector: str, label_selector: str) -> dict[str, str]:
    """Return the query parameters of the selectors of a list or watch, without empty ones."""
    named = {"fieldSelector": field_selector, "labelSelector": label_selector}
    return {name: value for name, value in named.items() if value}


def object_path(kind: Kind[R], namespace: str = "", name: str = "", subresource: str = "") -> str:
    """Return `Kind.path` of names that are safe in a path. Raises Invalid for an impossible name.

    A name may come from an untrusted object: `../../secrets` must not select another resource.
    """
    for part in (namespace, name):
        if part and (not _NAME.fullmatch(part) or part in {".", ".."}):
            raise Invalid(422, "Invalid", f"{part[:64]!r} is not the name of a {kind.name} or namespace")
    return kind.path(namespace, name, subresource)
