"""A pod of the sandbox, and kubectl in the environment of a sandbox's user."""

from typing import Any

import pytest

from tests.support.sandbox.cloud.terminal import Kubectl, run
from tests.support.testplane import up


def pod(name: str, *, image: str = "pause", **spec: Any) -> dict[str, Any]:
    """A pod of one container; *spec* adds to its specification."""
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": "default"},
        "spec": {"containers": [{"name": "main", "image": image, **spec.pop("container", {})}], **spec},
    }


@pytest.fixture(scope="session")
def kubectl() -> Kubectl:
    """Return a function that runs kubectl in an environment. Tests with this fixture have the marker `plane`."""
    program = str(up.tool("kubectl"))
    return lambda environment, *arguments: run(environment, program, *arguments)
