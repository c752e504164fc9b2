"""Fields that NMI and MIC ignore because of their spelling, as part of a link's text. Pure."""

from typing import Any

from podidctl.diagnosis.input import DiagnosisInput
from podidctl.printing import listed
from podidentity.kube.ignored_fields import REMEDY
from podidentity.resources import Kind


def ignored_fields(data: DiagnosisInput, kind: Kind[Any], key: tuple[str, str]) -> str:
    """Return the ignored fields of one object; empty if there are none."""
    return ", ".join(data.ignored_fields.get((kind.plural, *key), ()))


def ignored_in_namespace(data: DiagnosisInput, kind: Kind[Any]) -> str:
    """Return the objects of *kind* in the pod's namespace with ignored fields; empty if there are none."""
    found = [
        f"{namespace}/{name} ({', '.join(fields)})"
        for (plural, namespace, name), fields in data.ignored_fields.items()
        if (plural, namespace) == (kind.plural, data.namespace)
    ]
    return listed(found) if found else ""


def why_ignored(named: str) -> str:
    """Return the statement about the ignored fields *named*."""
    return f"fields spelled as before v1.6.0 are ignored: {named}"


def correct(about: str) -> str:
    """Return the next action for an object with ignored fields."""
    return f"correct the fields of {about}: {REMEDY}"
