"""A sandbox without MIC and NMI, with its pods on loopback addresses."""

import os
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest

from podidentity_sandbox.sandbox import Sandbox
from podidentity_sandbox.settings import Settings
from tests.support.sandbox.cloud.terminal import Kubectl, run
from tests.support.testplane import up
from tests.support.waiting import until

SECONDS = 60.0  # for steps that take some seconds at most on an idle machine: some start programs
TAIL_LINES = 60


async def eventually(seen: Callable[[], Awaitable[bool]], sandbox: Sandbox) -> None:
    """Wait until *seen* is true.

    Raise AssertionError with the last log lines of the programs and pods of *sandbox*, also if one of its programs has
    ended.
    """

    def seen_while_all_run() -> Awaitable[bool]:
        assert not (failure := sandbox.failure()), failure
        return seen()

    def logs() -> str:
        text = []
        for log in sorted(sandbox.folder.glob("*.log")):
            lines = log.read_text(errors="replace").splitlines()
            text += [f"{log.name}, the last of {len(lines)} lines:", *lines[-TAIL_LINES:]]
        return "\n".join(text)

    await until(seen_while_all_run, logs)


def pod(name: str, *, image: str = "pause", **spec: Any) -> dict[str, Any]:
    """A pod of one container; *spec* adds to its specification."""
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": "default"},
        "spec": {"containers": [{"name": "main", "image": image, **spec.pop("container", {})}], **spec},
    }


@pytest.fixture
async def stage() -> AsyncIterator[Sandbox]:
    async with Sandbox(Settings(nodes=2, programs=False, namespaces=False, environment=os.environ)) as sandbox:
        yield sandbox


@pytest.fixture(scope="session")
def kubectl() -> Kubectl:
    """Return a function that runs kubectl in an environment. Tests with this fixture have the marker `plane`."""
    program = str(up.tool("kubectl"))
    return lambda environment, *arguments: run(environment, program, *arguments)
