"""Results of a policy: the violations of each rule, and the rules that cannot be decided. Pure."""

from podidentity.report import ReportModel


class Violation(ReportModel, frozen=True, kw_only=True):
    """One object that violates a rule."""

    object: str
    """Kind and name: `Pod shop/web`."""
    says: str


class RuleResult(ReportModel, frozen=True, kw_only=True):
    """Result of one rule."""

    name: str
    kind: str
    """The rule's kind, as in the file."""
    why: str
    severity: str
    line: int
    violations: list[Violation]
    undecided: list[str]
    """Unread parts because of which further violations are possible."""


class PolicyResult(ReportModel, frozen=True, kw_only=True):
    """Results of all rules of one file."""

    file: str
    rules: list[RuleResult]

    @property
    def is_violated(self) -> bool:
        """Whether a rule of severity error is violated."""
        return any(each.violations and each.severity == "error" for each in self.rules)

    @property
    def is_undecided(self) -> bool:
        """Whether a rule cannot be decided."""
        return any(each.undecided for each in self.rules)
