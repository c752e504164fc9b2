"""Severity of what a command reports."""

from enum import StrEnum
from typing import Final


class Level(StrEnum):
    """Severity of a finding."""

    OK = "ok"
    WARNING = "warning"
    """Something works differently than expected, or will fail."""
    PROBLEM = "problem"
    """Pods do not get what they need, or get access that they must not have."""
    UNKNOWN = "unknown"
    """The state could not be read."""


COLORS: Final = {Level.OK: "green", Level.WARNING: "yellow", Level.PROBLEM: "red", Level.UNKNOWN: "magenta"}
"""Colors of the levels in tables."""
