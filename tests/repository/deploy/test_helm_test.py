"""`helm test` runs the canary on one node, and the demo as a pod with the binding's label and flags that it accepts."""

from pathlib import Path

import pytest

from podidctl.verify.objects import NmiTemplate
from podidctl.verify.pod import METADATA_HOST, METADATA_PORT, manifest
from podidentity.resources import BINDING_LABEL
from podidentity_demo.settings import parse
from tests.repository.deploy.helms import HELMS
from tests.support.podidctl.verify.programs import in_place_of, run_canary, running_nmi
from tools.chart.canary import COPY
from tools.chart.rendering import GOLDEN, Object, render

CANARY, DEMO = "aad-pod-identity-redirect-test", "aad-pod-identity-test"


def pods(*values: Path, helm: str = "helm", options: tuple[str, ...] = ()) -> dict[str, Object]:
    found = [each for each in render(*values, helm=helm, options=options) if each["kind"] == "Pod"]
    assert all(each["metadata"]["annotations"]["helm.sh/hook"] == "test" for each in found)
    assert all(each["spec"]["restartPolicy"] == "Never" for each in found)
    return {each["metadata"]["name"]: each for each in found}


@pytest.mark.parametrize("helm", HELMS)
def test_the_demo_accepts_its_flags_and_ends(helm: str) -> None:
    pod = pods(GOLDEN / "helm-test.values.yaml", helm=helm)[DEMO]
    assert pod["metadata"]["labels"]["aadpodidbinding"] == "demo"
    policy = pod["metadata"]["annotations"]["helm.sh/hook-delete-policy"]
    assert policy == "before-hook-creation,hook-succeeded", "helm leaves a pod only if it failed"
    settings = parse(pod["spec"]["containers"][0]["args"], {})
    assert settings.once
    assert settings.client_id == "d3a0c11e-0000-4000-8000-000000000001"


def test_without_a_selector_only_the_redirect_is_tested() -> None:
    assert pods().keys() == {CANARY}


def test_without_a_redirect_it_is_not_tested() -> None:
    options = ("--set=nmi.redirect.backend=none,nmi.failClosed=false",)
    assert pods(options=options) == {}


def test_the_charts_copy_of_the_program_is_up_to_date() -> None:
    assert COPY.read_text() == (COPY.parents[4] / "podidctl" / "verify" / "canary.py").read_text(), (
        "run: python -m tools.chart"
    )


@pytest.mark.parametrize("helm", HELMS)
async def test_its_pod_equals_that_of_verify(helm: str) -> None:
    spec = pods(helm=helm)[CANARY]["spec"]
    assert BINDING_LABEL not in pods(helm=helm)[CANARY]["metadata"]["labels"]
    template = NmiTemplate()
    other = manifest(
        name="c", namespace="n", node="", image="i", request_id="helm-test", template=template, deadline_seconds=9
    )["spec"]
    ours, theirs = spec["containers"][0], other["containers"][0]
    assert [*ours["command"][:3], ours["command"][3].strip(), *ours["command"][4:]] == [
        *theirs["command"][:3],
        theirs["command"][3].strip(),
        *theirs["args"],
    ]
    assert ours["command"][4:6] == [METADATA_HOST, str(METADATA_PORT)]
    assert ours["resources"] == theirs["resources"]
    assert spec["automountServiceAccountToken"] is False
    assert spec["tolerations"] == [{"operator": "Exists"}]


async def test_its_exit_code_and_its_log_state_who_answered(tmp_path: Path) -> None:
    command = pods()[CANARY]["spec"]["containers"][0]["command"]
    text = in_place_of(tmp_path / "result", text=command[3])
    async with running_nmi() as nmi:
        code, output, _ = await run_canary(tmp_path, nmi.port, command[6], text=text)
    assert (code, output.partition(" at ")[0]) == (0, "NMI answered")
    code, output, _ = await run_canary(tmp_path, nmi.port, command[6], text=text)
    assert (code, output.partition(" at ")[0]) == (3, "no server answered")
