"""The versions of helm with which tests run, and the command lines in the objects that the chart renders."""

from collections.abc import Sequence
from typing import Any, Final

import pytest

HELMS: Final = ("helm", pytest.param("helm3", marks=pytest.mark.nightly))
"""Values of a parameter. The older version runs nightly; the golden texts are rendered with both for each change."""


def arguments_of(objects: Sequence[dict[str, Any]], container: str) -> list[str]:
    """Return the command line of the container with this name in a workload."""
    (arguments,) = (
        container_["args"]
        for document in objects
        for container_ in document.get("spec", {}).get("template", {}).get("spec", {}).get("containers", [])
        if container_["name"] == container
    )
    return list(arguments)
