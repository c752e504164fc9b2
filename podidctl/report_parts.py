"""Fields that several reports have, with one definition each.

Keyword-only fields follow the fields of the subclass in the output; the other fields precede them.
"""

from podidentity.report import ReportModel


class Statement(ReportModel, frozen=True, kw_only=True):
    """A result in words."""

    says: str
    next: str = ""
    """The next action; never empty for a fault."""


class Advice(ReportModel, frozen=True, kw_only=True):
    """A reason and an action for the operator."""

    why: str
    do: str


class NamespacedPart(ReportModel, frozen=True):
    """A part about one namespaced object."""

    namespace: str
    name: str

    @property
    def key(self) -> tuple[str, str]:
        return self.namespace, self.name

    @property
    def full_name(self) -> str:
        return f"{self.namespace}/{self.name}"
