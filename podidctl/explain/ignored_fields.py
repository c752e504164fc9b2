"""Fields that NMI and MIC ignore because of their spelling, as part of a link's text. Pure."""

from collections.abc import Sequence
from typing import Any, Final

from podidctl.diagnosis.bindings import eligible_bindings, namespace_restriction
from podidctl.diagnosis.input import DiagnosisInput
from podidctl.printing import listed
from podidentity.kube.ignored_fields import REMEDY
from podidentity.resources import BINDINGS, Kind, Pod

SELECTORS: Final = frozenset({"spec", "spec.selector"})
"""Ignored fields, in lower case, with which a binding has no selector."""

BY_MIC: Final = " (by MIC once its type upgrade is recorded, unless it runs with --read-old-field-names)"


def ignored_fields(data: DiagnosisInput, kind: Kind[Any], key: tuple[str, str]) -> str:
    """Return the ignored fields of one object; empty if there are none."""
    return ", ".join(data.ignored_fields.get((kind.plural, *key), ()))


def ignored_in_namespace(data: DiagnosisInput, kind: Kind[Any]) -> str:
    """Return the objects of *kind* in the pod's namespace with ignored fields; empty if there are none."""
    return listed(
        _with_fields(namespace, name, fields)
        for (plural, namespace, name), fields in data.ignored_fields.items()
        if (plural, namespace) == (kind.plural, data.namespace)
    )


def ignored_selectors(data: DiagnosisInput, pod: Pod) -> str:
    """Return the bindings that could select *pod* but have no selector, because it is ignored, those of the pod's
    namespace first; empty if there are none.
    """
    own: list[str] = []
    others: list[str] = []
    for each in eligible_bindings(data):
        fields = data.ignored_fields.get((BINDINGS.plural, *each.key), ())
        if each.spec.selector or namespace_restriction(data, pod, each):
            continue
        if not SELECTORS.isdisjoint(field.lower() for field in fields):
            (own if each.metadata.namespace == data.namespace else others).append(_with_fields(*each.key, fields))
    return ", ".join(filter(None, (listed(own), listed(others))))


def _with_fields(namespace: str, name: str, fields: Sequence[str]) -> str:
    return f"{namespace}/{name} ({', '.join(fields)})"


def why_ignored(named: str, *, by_mic: bool = False) -> str:
    """Return the statement about the ignored fields *named*. *by_mic*: whether MIC decides by them, whose flags and
    record the command does not read.
    """
    return f"fields spelled as before v1.6.0 are ignored{BY_MIC if by_mic else ''}: {named}"


def correct(about: str) -> str:
    """Return the next action for an object with ignored fields."""
    return f"correct the fields of {about}: {REMEDY}"
