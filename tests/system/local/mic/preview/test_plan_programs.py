"""`python -m mic --plan` and `python -m podidctl plan` as processes: output, exit code, and no writes."""

from typing import Any

import pytest
import yaml

from podidentity_sandbox.kubeapi.server import Recorded
from tests.support.mic.emulated_cloud import EmulatedCloud
from tests.support.mic.preview.run_programs import Answer, run, run_with_closed_stdout
from tests.support.objects import identity_id, vm_id

MIC, PODIDCTL = ("mic", "--plan"), ("podidctl", "plan")


@pytest.fixture
async def cloud(cloud: EmulatedCloud) -> EmulatedCloud:
    """With a node, an identity and its pod."""
    cloud.node("n0")
    cloud.identity()
    cloud.pod("web", "n0")
    return cloud


async def plan(cloud: EmulatedCloud, *command: str, **more: Any) -> Answer:
    return await run(cloud.folder, *command, **more)


async def test_both_programs_print_the_effects_of_a_new_pod_and_change_nothing(cloud: EmulatedCloud) -> None:
    requests: list[Recorded] = []
    cloud.api.intercept = requests.append
    mics, podidctls = await plan(cloud, *MIC), await plan(cloud, *PODIDCTL)
    assert (mics.code, mics.err) == (podidctls.code, podidctls.err) == (3, "")
    assert "1 to create" in mics.out
    for answer in (mics, podidctls):
        assert f"+ identity {identity_id('demo')}" in answer.out
    assert "+ create default/web-default-demo: pod default/web on n0, identity default/demo: Assigned" in mics.out
    (row,) = [line for line in podidctls.out.splitlines() if "default/web-default-demo" in line]
    assert row.split() == ["create", "default/web-default-demo", "default/web", "n0", "default/demo", "Assigned"]
    assert {each.method for each in requests} == {"GET"}
    assert not [each for each in requests if "watch=" in each.path or "/leases" in each.path]
    assert [each.method for each in cloud.arm.calls] == ["GET", "GET"], "one of each program"
    assert cloud.assigned() == {}


async def test_json_yaml_and_mics_own_json_are_equal(cloud: EmulatedCloud) -> None:
    as_json = await plan(cloud, *PODIDCTL, "-o", "json")
    as_yaml = await plan(cloud, *PODIDCTL, "-o", "yaml")
    mics = await plan(cloud, *MIC, "--plan-output=json")
    assert as_json.code == as_yaml.code == mics.code == 3
    assert as_json.document == yaml.safe_load(as_yaml.out) == mics.document
    assert as_json.document["summary"]["objects"]["create"] == 1
    assert as_json.document["hosts"][0]["host"] == vm_id("n0")


async def test_next_to_a_leader_without_open_work_the_plan_is_empty(cloud: EmulatedCloud) -> None:
    def holder() -> str:
        lease = cloud.api.store.get("leases.coordination.k8s.io", "aad-pod-identity-mic", "default")
        return str(lease["spec"]["holderIdentity"])

    mic = await cloud.mic()
    await cloud.until(lambda: cloud.assigned() == {"web-default-demo": "Assigned"})
    before, leader = len(cloud.arm.writes()), holder()
    for command in (MIC, PODIDCTL):
        answer = await plan(cloud, *command)
        assert (answer.code, answer.err) == (0, "")
        assert "Nothing to do." in answer.out
        assert "in sync" not in answer.out
    assert "1 object is in sync" in (await plan(cloud, *MIC, "--plan-all")).out
    assert (len(cloud.arm.writes()), holder()) == (before, leader)
    assert await mic.page("/healthz") == "Active"


async def test_hosts_without_a_response_are_reported_and_the_exit_code_is_1(cloud: EmulatedCloud) -> None:
    path = cloud.folder / "azure.json"
    good = path.read_text()
    path.write_text(good.replace('"aadClientSecret": "', '"aadClientSecret": "wrong'))
    answer = await plan(cloud, *MIC)
    assert answer.code == 1, answer.out
    assert "Changes that MIC would make" in answer.out, "the known part is printed"
    assert answer.err.startswith("mic: the plan is not complete: Azure did not answer for /subscriptions/")
    assert "check MIC's credentials in the cloud config" in answer.err
    assert answer.err.count("\n") == 1
    assert cloud.arm.calls == []
    assert yaml.safe_load(good)["aadClientSecret"] not in answer.out + answer.err


async def test_the_output_repeats_the_flags_that_decide(cloud: EmulatedCloud) -> None:
    cloud.api.store.create("namespaces", {"metadata": {"name": "elsewhere"}})
    cloud.pod("far", "n0", namespace="elsewhere")
    flags = ("--forceNamespaced", "--immutable-user-msis=0123-secret-4567", "--allowed-resource-groups=sub/rg")
    answer = await plan(cloud, *MIC, *flags)
    assert "with --forceNamespaced=true, --immutable-user-msis=(1 client id)" in answer.out
    assert "+ identity" in answer.out
    assert "elsewhere/far" not in answer.out
    assert "0123-secret-4567" not in answer.out
    calls = len(cloud.arm.calls)
    answer = await plan(cloud, *PODIDCTL, "--allowed-resource-groups=other,sub/else", "--all")
    assert (answer.code, answer.err) == (3, "")
    assert "with --allowed-resource-groups=other,sub/else" in answer.out
    assert "elsewhere/far" in answer.out
    assert "--allowed-resource-groups does not name the resource group of" in " ".join(answer.out.split())
    assert "+ identity" not in answer.out
    assert len(cloud.arm.calls) == calls, "a host that MIC may not change is not read"


async def test_without_azure_no_credentials_are_required_and_the_unknown_parts_are_named(cloud: EmulatedCloud) -> None:
    answer = await plan(cloud, *PODIDCTL, "--no-azure", cloudconfig=False)
    assert (answer.code, answer.err) == (3, "")
    assert "Azure was not read" in answer.out
    assert "waits: pod default/web, identity default/demo: the identities of the host are unknown" in answer.out
    assert cloud.arm.calls == []


async def test_a_failure_of_the_plan_is_one_line(cloud: EmulatedCloud) -> None:
    for command in (MIC, PODIDCTL):
        missing = await plan(cloud, *command, cloudconfig=False)
        assert (missing.code, missing.out, missing.err.count("\n")) == (1, "", 1)
        wanted = f"{command[0]}: the environment lacks TENANT_ID, CLIENT_ID, CLIENT_SECRET: set them"
        assert missing.err.startswith(wanted)
    wrong = await plan(cloud, *PODIDCTL, "--arm-api-version=new")
    assert (wrong.code, wrong.out, wrong.err.count("\n")) == (2, "", 1)
    assert "--arm-api-version is 'new'; write one like 2024-07-01" in wrong.err
    await cloud.api.stop()
    gone = await plan(cloud, *MIC)
    assert (gone.code, gone.out, gone.err.count("\n")) == (1, "", 1)
    assert "check --kubeconfig, or that the API server runs" in gone.err


async def test_the_default_kubeconfig_is_used_last(cloud: EmulatedCloud) -> None:
    (cloud.folder / ".kube").mkdir()
    (cloud.folder / "kubeconfig").rename(cloud.folder / ".kube" / "config")
    command = (*PODIDCTL, "--no-azure")
    answer = await plan(cloud, *command, kubeconfig=False, cloudconfig=False, HOME=str(cloud.folder))
    assert answer.code == 3
    elsewhere = await plan(cloud, *command, kubeconfig=False, cloudconfig=False, HOME="/nowhere")
    assert elsewhere.code == 1
    assert "pass a kubeconfig with --kubeconfig or KUBECONFIG" in elsewhere.err


@pytest.mark.parametrize("command", [MIC, PODIDCTL, (*PODIDCTL, "-o", "json")])
async def test_a_reader_that_closes_the_pipe_early_causes_no_traceback(
    cloud: EmulatedCloud, command: tuple[str, ...]
) -> None:
    answer = await run_with_closed_stdout(cloud.folder, *command)
    assert answer.err == ""
    assert answer.code in {1, 3}
