"""The bodies of NMI's refusals that docs/migration.md compares with those of the Go implementation."""

import math
import os
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Final

import pytest

from podidentity_sandbox.sandbox import Sandbox
from podidentity_sandbox.serving import ResponseFault
from podidentity_sandbox.settings import Settings
from tests.conftest import ROOT
from tests.integration.identity_requests import Answer, ask, run_bound_pod, run_pod

PAGE: Final = (ROOT / "docs" / "migration.md").read_text()
REFUSED_BY_IMDS: Final = {
    "error": "invalid_resource",
    "error_description": "AADSTS500011: The resource principal was not found",
}


@pytest.fixture
async def sandbox() -> AsyncIterator[Sandbox]:
    flags = ["--max-hold=5s", "--block-instance-metadata"]
    async with Sandbox(Settings(namespaces=False, environment=os.environ, nmi_flags=flags)) as running:
        yield running


async def no_metadata_header(sandbox: Sandbox) -> Answer:
    return await ask(sandbox, await run_pod(sandbox, "a", {}), headers={})


async def no_resource(sandbox: Sandbox) -> Answer:
    return await ask(sandbox, await run_pod(sandbox, "a", {}), resource="")


async def no_label(sandbox: Sandbox) -> Answer:
    return await ask(sandbox, await run_pod(sandbox, "a", {}))


async def no_binding(sandbox: Sandbox) -> Answer:
    return await ask(sandbox, await run_pod(sandbox, "a", {"aadpodidbinding": "a"}))


async def another_client_id(sandbox: Sandbox) -> Answer:
    _, context = await run_bound_pod(sandbox, "web")
    return await ask(sandbox, context, client_id="00000000-0000-4000-8000-000000000000")


async def refused_by_imds(sandbox: Sandbox) -> Answer:
    _, context = await run_bound_pod(sandbox, "web")
    sandbox.azure.imds.faults.add(ResponseFault(status=400, document=REFUSED_BY_IMDS, times=math.inf))
    return await ask(sandbox, context)


async def instance_metadata(sandbox: Sandbox) -> Answer:
    _, context = await run_bound_pod(sandbox, "web")
    return await ask(sandbox, context, path="/metadata/instance?api-version=2021-02-01")


SITUATIONS: Final[dict[str, Callable[[Sandbox], Awaitable[Answer]]]] = {
    "no `Metadata: true`": no_metadata_header,
    "no `resource`": no_resource,
    "pod without label and assignment": no_label,
    "label without assignment": no_binding,
    "another client id than the pod's": another_client_id,
    "IMDS or Entra ID refuses the token": refused_by_imds,
    "instance metadata is blocked": instance_metadata,
}


def documented() -> dict[str, str]:
    """Return status and body of this project by situation, as the page has them."""
    section = PAGE.partition("### Error bodies")[2].partition("\n### ")[0].partition("\n## ")[0]
    rows = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in section.splitlines() if "| " in line]
    return {situation: ours for situation, _, ours in (row for row in rows if len(row) == 3) if situation in SITUATIONS}


def test_the_page_has_each_situation() -> None:
    assert set(documented()) == set(SITUATIONS)


@pytest.mark.programs
@pytest.mark.parametrize("situation", SITUATIONS)
async def test_nmi_answers_as_the_page_says(sandbox: Sandbox, situation: str) -> None:
    answer = await SITUATIONS[situation](sandbox)
    assert answer.headers["Content-Type"] == "application/json"
    text = re.sub(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", "…", answer.text)
    assert documented()[situation] == f"{answer.status} `{text}`"
