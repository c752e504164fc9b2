"""CustomResourceDefinitions: their validation and status, and the kinds that they define. Pure."""

from pathlib import Path
from typing import Any, Final

import yaml

from podidentity_sandbox.kubeapi.kinds import Column, ResourceType
from podidentity_sandbox.kubeapi.statuses import invalid

Document = dict[str, Any]
Cause = tuple[str, str, str]

APPROVED: Final = "api-approved.kubernetes.io"
_PROTECTED: Final = ("k8s.io", "kubernetes.io")
_GROUP: Final = "apiextensions.k8s.io"
_KIND: Final = "CustomResourceDefinition"


def from_directory(directory: Path) -> list[Document]:
    """Return every definition in the YAML files of *directory*, in the order of file names.

    Raise OSError or yaml.YAMLError; documents of other kinds are left out.
    """
    return [
        document
        for path in sorted(directory.glob("*.yaml"))
        for document in yaml.safe_load_all(path.read_text(encoding="utf-8"))
        if isinstance(document, dict) and document.get("kind") == _KIND
    ]


def check(definition: Document) -> None:
    """Raise StatusError 422 for frequent mistakes that the real server rejects."""
    spec = definition.get("spec") or {}
    names = spec.get("names") or {}
    group = str(spec.get("group") or "")
    wanted_name = f"{names.get('plural', '')}.{group}"
    versions = spec.get("versions") or []
    causes: list[Cause] = [
        ("FieldValueRequired", "Required value", f"spec.{field}")
        for field, value in (
            ("group", group),
            ("scope", spec.get("scope")),
            ("names.plural", names.get("plural")),
            ("names.kind", names.get("kind")),
            ("versions", versions),
        )
        if not value
    ]
    name = str(definition["metadata"].get("name", ""))
    if not causes and name != wanted_name:
        message = f'Invalid value: "{name}": must be spec.names.plural+"."+spec.group'
        causes.append(("FieldValueInvalid", message, "metadata.name"))
    if sum(bool(version.get("storage")) for version in versions) != 1 and versions:
        message = "Invalid value: must have exactly one version marked as storage version"
        causes.append(("FieldValueInvalid", message, "spec.versions"))
    causes += [
        ("FieldValueRequired", "Required value: schemas are required", f"spec.versions[{at}].schema.openAPIV3Schema")
        for at, version in enumerate(versions)
        if not (version.get("schema") or {}).get("openAPIV3Schema")
    ]
    if _is_protected(group) and not (definition["metadata"].get("annotations") or {}).get(APPROVED):
        message = (
            f'Required value: protected groups must have approval annotation "{APPROVED}", '
            "see https://github.com/kubernetes/enhancements/pull/1111"
        )
        causes.append(("FieldValueRequired", message, f"metadata.annotations[{APPROVED}]"))
    if causes:
        raise invalid(_KIND, _GROUP, name, causes)


def complete(definition: Document) -> None:
    """Set the optional fields, without a change to objects that *definition* may share."""
    spec = definition["spec"]
    names = {"singular": spec["names"]["kind"].lower(), "listKind": f"{spec['names']['kind']}List"}
    names |= {name: value for name, value in spec["names"].items() if value}
    definition["spec"] = {"conversion": {"strategy": "None"}} | spec | {"names": names}


def accept(definition: Document, now: str) -> None:
    """Give a complete definition the status of one whose names were accepted at once."""
    spec = definition["spec"]
    conditions = [
        _condition("NamesAccepted", "NoConflicts", "no conflicts found", now),
        _condition("Established", "InitialNamesAccepted", "the initial names have been accepted", now),
    ]
    definition["status"] = {
        "conditions": conditions,
        "acceptedNames": spec["names"],
        "storedVersions": [version["name"] for version in spec["versions"] if version.get("storage")],
    }


def served(definition: Document) -> list[ResourceType]:
    """Return the kinds that *definition* (complete) defines, one for each version served."""
    spec = definition["spec"]
    names = spec["names"]
    kinds: list[ResourceType] = []
    for version in spec["versions"]:
        if not version.get("served"):
            continue
        subresources = version.get("subresources") or {}
        kinds.append(
            ResourceType(
                names["kind"],
                names["plural"],
                spec["group"],
                version["name"],
                namespaced=spec["scope"] == "Namespaced",
                singular=names["singular"],
                list_kind=names["listKind"],
                short_names=tuple(names.get("shortNames") or ()),
                categories=tuple(names.get("categories") or ()),
                subresources=("status",) if "status" in subresources else (),
                fields={
                    field["jsonPath"].lstrip("."): field["jsonPath"].lstrip(".")
                    for field in version.get("selectableFields") or ()
                },
                custom=True,
                unconditional_update=False,
                generation=True,
                columns=_columns(version),
                schema=version["schema"]["openAPIV3Schema"],
            )
        )
    return kinds


def _columns(version: Document) -> tuple[Column, ...]:
    listed = version.get("additionalPrinterColumns")
    if not listed:
        return (Column("Age", "date", ".metadata.creationTimestamp"),)
    return tuple(
        Column(
            column["name"],
            column["type"],
            column["jsonPath"],
            int(column.get("priority", 0)),
            column.get("description")
            or f"Custom resource definition column (in JSONPath format): {column['jsonPath']}",
            column.get("format", ""),
        )
        for column in listed
    )


def _condition(kind: str, reason: str, message: str, now: str) -> Document:
    return {"type": kind, "status": "True", "lastTransitionTime": now, "reason": reason, "message": message}


def _is_protected(group: str) -> bool:
    return any(group == suffix or group.endswith(f".{suffix}") for suffix in _PROTECTED)
