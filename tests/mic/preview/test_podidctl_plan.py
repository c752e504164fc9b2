"""`python -m podidctl plan` as a process on the sandbox's servers: tables, documents, and exit codes."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.mic.emulated_cloud import EmulatedCloud, emulated_cloud
from tests.mic.preview.run_programs import Answer, run, run_with_closed_stdout
from tests.support.objects import identity_id, vm_id


@pytest.fixture
async def cloud(tmp_path: Path) -> AsyncIterator[EmulatedCloud]:
    async with emulated_cloud(tmp_path) as made:
        made.node("n0")
        made.identity()
        made.pod("web", "n0")
        yield made


async def plan(cloud: EmulatedCloud, *flags: str, **more: Any) -> Answer:
    return await run(cloud.folder, "podidctl", "plan", *flags, **more)


async def test_the_plan_is_a_table_and_the_exit_code_indicates_open_changes(cloud: EmulatedCloud) -> None:
    answer = await plan(cloud)
    assert (answer.code, answer.err) == (3, "")
    assert f"+ identity {identity_id('demo')}" in answer.out
    (row,) = [line for line in answer.out.splitlines() if "default/web-default-demo" in line]
    assert row.split() == ["create", "default/web-default-demo", "default/web", "n0", "default/demo", "Assigned"]
    assert {each.method for each in cloud.arm.calls} == {"GET"}
    assert cloud.assigned() == {}


async def test_json_yaml_and_mics_own_json_are_equal(cloud: EmulatedCloud) -> None:
    as_json = await plan(cloud, "-o", "json")
    as_yaml = await plan(cloud, "-o", "yaml")
    mics = await run(cloud.folder, "mic", "--plan", "--plan-output=json")
    assert as_json.code == as_yaml.code == mics.code == 3
    assert as_json.document == yaml.safe_load(as_yaml.out) == mics.document
    assert as_json.document["summary"]["objects"]["create"] == 1
    assert as_json.document["hosts"][0]["host"] == vm_id("n0")


async def test_a_host_that_mic_may_not_change_is_named_and_not_read(cloud: EmulatedCloud) -> None:
    answer = await plan(cloud, "--allowed-resource-groups=other,sub/else", "--all")
    assert (answer.code, answer.err) == (3, "")
    assert "with --allowed-resource-groups=other,sub/else" in answer.out
    assert "--allowed-resource-groups does not name the resource group of" in " ".join(answer.out.split())
    assert "+ identity" not in answer.out
    assert cloud.arm.calls == []
    assert "+ identity" in (await plan(cloud, "--allowed-resource-groups=sub/rg")).out


async def test_without_azure_no_credentials_are_required_and_the_unknown_parts_are_named(cloud: EmulatedCloud) -> None:
    answer = await plan(cloud, "--no-azure", cloudconfig=False)
    assert (answer.code, answer.err) == (3, "")
    assert "Azure was not read" in answer.out
    assert "waits: pod default/web, identity default/demo: the identities of the host are unknown" in answer.out
    assert cloud.arm.calls == []


async def test_without_changes_the_exit_code_is_zero(cloud: EmulatedCloud) -> None:
    cloud.remove_pod("web")
    answer = await plan(cloud)
    assert (answer.code, answer.err) == (0, "")
    assert "Nothing to do." in answer.out


async def test_missing_credentials_and_wrong_flags_are_one_line(cloud: EmulatedCloud) -> None:
    missing = await plan(cloud, cloudconfig=False)
    assert (missing.code, missing.out, missing.err.count("\n")) == (1, "", 1)
    assert missing.err.startswith("podidctl: the environment lacks TENANT_ID")
    wrong = await plan(cloud, "--arm-api-version=new")
    assert (wrong.code, wrong.out, wrong.err.count("\n")) == (2, "", 1)
    assert "--arm-api-version is 'new'; write one like 2024-07-01" in wrong.err


async def test_the_default_kubeconfig_is_used_last(cloud: EmulatedCloud, tmp_path: Path) -> None:
    (tmp_path / ".kube").mkdir()
    (cloud.folder / "kubeconfig").rename(tmp_path / ".kube" / "config")
    answer = await run(
        cloud.folder, "podidctl", "plan", "--no-azure", kubeconfig=False, cloudconfig=False, HOME=str(tmp_path)
    )
    assert answer.code == 3
    elsewhere = await run(
        cloud.folder, "podidctl", "plan", "--no-azure", kubeconfig=False, cloudconfig=False, HOME="/nowhere"
    )
    assert elsewhere.code == 1
    assert "pass a kubeconfig with --kubeconfig or KUBECONFIG" in elsewhere.err


@pytest.mark.parametrize("command", [("mic", "--plan"), ("podidctl", "plan"), ("podidctl", "plan", "-o", "json")])
async def test_a_reader_that_closes_the_pipe_early_causes_no_traceback(
    cloud: EmulatedCloud, command: tuple[str, ...]
) -> None:
    answer = await run_with_closed_stdout(cloud.folder, *command)
    assert answer.err == ""
    assert answer.code in {1, 3}
