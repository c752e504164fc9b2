"""The bodies of NMI's refusals that docs/migration.md compares with those of the Go implementation."""

import math
import os
import re
from typing import Final

from podidentity_sandbox.sandbox import Sandbox
from podidentity_sandbox.serving import ResponseFault
from podidentity_sandbox.settings import SandboxSettings
from tests.support.checkout import ROOT
from tests.support.identity_requests import ask, run_bound_pod, run_pod

PAGE: Final = (ROOT / "docs" / "migration.md").read_text()
REFUSED_BY_IMDS: Final = {
    "error": "invalid_resource",
    "error_description": "AADSTS500011: The resource principal was not found",
}


def documented() -> dict[str, str]:
    """Return status and body of this project by situation, as the page has them."""
    section = PAGE.partition("### Error bodies")[2].partition("\n### ")[0].partition("\n## ")[0]
    rows = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in section.splitlines() if "| " in line]
    return {row[0]: row[2] for row in rows if len(row) == 3}


async def test_nmi_answers_as_the_page_says() -> None:
    flags = ["--max-hold=5s", "--block-instance-metadata"]
    async with Sandbox(SandboxSettings(namespaces=False, environment=os.environ, nmi_flags=flags)) as sandbox:
        unlabelled = await run_pod(sandbox, "a", {})
        unassigned = await run_pod(sandbox, "b", {"aadpodidbinding": "b"})
        _, bound = await run_bound_pod(sandbox, "web")
        other_id = "00000000-0000-4000-8000-000000000000"
        responses = {
            "no `Metadata: true`": await ask(sandbox, unlabelled, headers={}),
            "no `resource`": await ask(sandbox, unlabelled, resource=""),
            "pod without label and assignment": await ask(sandbox, unlabelled),
            "label without assignment": await ask(sandbox, unassigned),
            "another client id than the pod's": await ask(sandbox, bound, client_id=other_id),
            "instance metadata is blocked": await ask(sandbox, bound, path="/metadata/instance?api-version=2021-02-01"),
        }
        sandbox.azure.imds.faults.add(ResponseFault(status=400, document=REFUSED_BY_IMDS, times=math.inf))
        responses["IMDS or Entra ID refuses the token"] = await ask(sandbox, bound)
    page = documented()
    for situation, response in responses.items():
        assert response.headers["Content-Type"] == "application/json"
        text = re.sub(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", "…", response.text)
        assert page[situation] == f"{response.status} `{text}`"
