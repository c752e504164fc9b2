"""`python -m podidctl doctor` as a process on the sandbox's API server: its requests, output and exit code."""

import asyncio

import pytest
import yaml

from podidentity.kube.decoding import VALUE_MAX
from podidentity_sandbox.kubeapi.statuses import StatusError
from tests.support.mic.emulated_cloud import ASSIGNED, BINDINGS, IDENTITIES, EmulatedCloud
from tests.support.mic.preview.run_programs import CommandResult, run

LOCK = "/api/v1/namespaces/default/endpoints/aad-pod-identity-mic"


async def ask(cloud: EmulatedCloud, *words: str) -> CommandResult:
    return await run(cloud.folder, "podidctl", "doctor", *words, cloudconfig=False)


def checks(answer: CommandResult) -> dict[str, str]:
    """The worst of each check."""
    order = ("ok", "unknown", "warning", "problem")
    worst: dict[str, str] = {}
    for finding in answer.document["findings"]:
        before = worst.get(finding["check"], "ok")
        worst[finding["check"]] = max(before, finding["level"], key=order.index)
    return worst


async def test_doctor_reads_and_never_writes(cloud: EmulatedCloud) -> None:
    cloud.node("n0")
    cloud.identity()
    mic = await cloud.mic()
    cloud.pod("web", "n0")
    await cloud.until(lambda: cloud.assigned() == {"web-default-demo": "Assigned"})
    # Endpoints of a Service with the name of the lock are no lock.
    meta = {"name": "aad-pod-identity-mic", "namespace": "default"}
    service = {"metadata": meta, "subsets": [{"addresses": [{"ip": "192.0.2.1"}], "ports": [{"port": 80}]}]}
    cloud.api.store.create("endpoints", service)
    answer = await ask(cloud, "-o", "json")
    assert (answer.code, answer.err) == (1, ""), "NMI and MIC are not pods here, so their state is unknown"
    assert {name for name, level in checks(answer).items() if level != "ok"} == {"NMI", "MIC"}
    assert {"API server", "clocks", "definitions", "spellings", "leader", "selectors"} <= set(checks(answer))
    (leader,) = [finding for finding in answer.document["findings"] if finding["check"] == "leader"]
    assert "Endpoints" not in leader["says"]
    ours = [request for request in cloud.api.requests if "podidctl" in request.user_agent]
    assert {request.method for request in ours} == {"GET"}
    # A Service, also one of type ExternalName, cannot change where a request goes or what a check finds.
    assert not [request.path for request in ours if "/services" in request.path]
    assert {request.path for request in ours if "/endpoints" in request.path} == {LOCK}

    await mic.stop()
    cloud.api.store.patch(IDENTITIES, "demo", {"spec": {"clientID": "client-of-another"}}, "default")
    answer = await run(cloud.folder, "podidctl", "doctor", "-o", "json")
    (finding,) = [finding for finding in answer.document["findings"] if finding["check"] == "client ids"]
    assert finding["level"] == "problem"
    assert "'client-of-another'" in finding["says"]


async def test_a_fault_is_found_and_reported_with_the_next_action(cloud: EmulatedCloud) -> None:
    cloud.node("n0")
    cloud.identity()
    cloud.pod("web", "n0", label="lost")
    cloud.api.store.delete(IDENTITIES, "demo", "default")
    cloud.create(BINDINGS, "old", {"azureIdentity": "demo", "selector": "lost"})
    cloud.create(BINDINGS, "spelled", {"AzureIdentity": "demo", "Selector": "lost"})
    answer = await ask(cloud)
    assert (answer.code, answer.err) == (3, "")
    spelled = "azureidentitybindings default/spelled (spec.AzureIdentity, spec.Selector)"
    assert f"field spellings from before v1.6.0: {spelled}" in answer.out
    assert "next: NMI ignores these fields" in answer.out
    assert "AzureIdentityBinding default/old (1 pod): there is no AzureIdentity default/demo" in answer.out
    assert "no MIC leads" in answer.out
    assert "next: check that MIC runs" in answer.out
    as_json, as_yaml = await asyncio.gather(ask(cloud, "-o", "json"), ask(cloud, "-o", "yaml"))
    assert as_json.document == yaml.safe_load(as_yaml.out)


async def test_an_unreadable_object_and_a_missing_definition_hide_nothing(cloud: EmulatedCloud) -> None:
    cloud.identity()
    cloud.create(IDENTITIES, "odd", {"clientID": "x" * (VALUE_MAX + 1)})
    cloud.api.store.delete("customresourcedefinitions.apiextensions.k8s.io", ASSIGNED)
    answer = await ask(cloud, "-o", "json")
    assert answer.code == 3
    assert checks(answer)["definitions"] == "problem"
    assert "1 object that NMI and MIC cannot read: azureidentities default/odd" in answer.out


@pytest.mark.parametrize(("status", "then"), [(403, "run this command with more permissions"), (500, "try again")])
async def test_what_the_server_refuses_to_send_is_unknown(cloud: EmulatedCloud, status: int, then: str) -> None:
    cloud.api.intercept = lambda request: (
        StatusError(status, "Refused", "no") if "podidctl" in request.user_agent else None
    )
    answer = await ask(cloud, "-o", "json")
    assert (answer.code, answer.err) == (1, "")
    server, clocks, objects = answer.document["findings"]
    assert (server["check"], objects["check"]) == ("API server", "objects")
    assert (clocks["check"], clocks["level"]) == ("clocks", "ok"), "by the date of the refusal"
    for finding in (server, objects):
        assert finding["level"] == "unknown"
        assert finding["next"].startswith(then)
    affected = {effect["check"]: effect["says"] for effect in server["affects"]}
    assert {affected[check] for check in ("NMI", "MIC", "leader")} == {"not checked"}


async def test_wrong_flags_and_an_unreachable_api_server_are_one_line(cloud: EmulatedCloud) -> None:
    for words, text in (
        (("--imds",), "--node"),
        (("--node", "No Node"), "not a valid node name"),
        (("--node", "n7"), "no node n7"),
    ):
        wrong = await ask(cloud, *words)
        assert (wrong.code, wrong.out) == (2, "")
        assert text in wrong.err
    await cloud.api.stop()
    gone = await ask(cloud)
    assert (gone.code, gone.out, gone.err.count("\n")) == (1, "", 1)
    assert "check --kubeconfig" in gone.err
