"""`python -m mic --plan` and `python -m podidctl plan` as processes: output, exit code, and no writes.

In the container of MIC, as with `kubectl exec deploy/mic -- mic --plan`, the flags of the running MIC count.
"""

import asyncio
import os
import signal
from pathlib import Path
from typing import Any

import pytest
import yaml

from mic import cli
from tests.support.checkout import ROOT
from tests.support.mic.emulated_cloud import EmulatedCloud
from tests.support.mic.preview.run_programs import CommandResult, run
from tests.support.objects import identity_id, vm_id

MIC, PODIDCTL = ("mic", "--plan"), ("podidctl", "plan")


@pytest.fixture
async def cloud(cloud: EmulatedCloud) -> EmulatedCloud:
    """With a node, an identity and its pod."""
    cloud.node("n0")
    cloud.identity()
    cloud.pod("web", "n0")
    return cloud


async def plan(cloud: EmulatedCloud, *command: str, **more: Any) -> CommandResult:
    return await run(cloud.folder, *command, **more)


async def test_both_programs_print_the_effects_of_a_new_pod_and_change_nothing(cloud: EmulatedCloud) -> None:
    mics, podidctls = await plan(cloud, *MIC), await plan(cloud, *PODIDCTL)
    requests = list(cloud.api.requests)
    assert (mics.code, mics.err) == (podidctls.code, podidctls.err) == (3, "")
    assert "1 to create" in mics.out
    for answer in (mics, podidctls):
        assert f"+ identity {identity_id('demo')}" in answer.out
    assert "+ create default/web-default-demo: pod default/web on n0, identity default/demo: Assigned" in mics.out
    (row,) = [line for line in podidctls.out.splitlines() if "default/web-default-demo" in line]
    assert row.split() == ["create", "default/web-default-demo", "default/web", "n0", "default/demo", "Assigned"]
    assert {request.method for request in requests} == {"GET"}
    assert not [request for request in requests if "watch=" in request.path or "/leases" in request.path]
    assert [call.method for call in cloud.arm.calls] == ["GET", "GET"], "one of each program"
    assert cloud.assigned() == {}
    as_json = await plan(cloud, *PODIDCTL, "-o", "json")
    as_yaml = await plan(cloud, *PODIDCTL, "-o", "yaml")
    mics = await plan(cloud, *MIC, "--plan-output=json")
    assert as_json.code == as_yaml.code == mics.code == 3
    assert as_json.document == yaml.safe_load(as_yaml.out) == mics.document
    assert as_json.document["summary"]["objects"]["create"] == 1
    assert as_json.document["hosts"][0]["host"] == vm_id("n0")


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


@pytest.mark.parametrize("command", [MIC, PODIDCTL, (*PODIDCTL, "-o", "json")])
async def test_a_reader_that_closes_the_pipe_early_causes_no_traceback(
    cloud: EmulatedCloud, command: tuple[str, ...]
) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    answer = await plan(cloud, *command, stdout=writing)
    os.close(writing)
    assert answer.err == ""
    assert answer.code in {1, 3}


@pytest.mark.parametrize(
    "words",
    [
        ["/usr/local/bin/mic", "--forceNamespaced", "--adopt-existing"],
        ["mic", "--forceNamespaced", "--adopt-existing"],
        ["/usr/bin/python3", "-m", "mic", "--forceNamespaced", "--adopt-existing"],
        ["/usr/bin/python3", "/usr/local/bin/mic", "--forceNamespaced", "--adopt-existing"],
        ["/sbin/tini", "--", "mic", "--forceNamespaced", "--adopt-existing"],
    ],
)
def test_the_flags_are_found_however_mic_was_started(words: list[str]) -> None:
    assert cli.flags_of_container(b"".join(word.encode() + b"\0" for word in words)) == words[-2:]


@pytest.mark.parametrize(
    "words", [[], ["/sbin/init"], ["/pause"], ["sh", "-c", "mic --adopt-existing"], ["tool", "--name", "mic", "--plan"]]
)
def test_another_program_has_no_flags_for_the_plan(words: list[str]) -> None:
    assert cli.flags_of_container(b"".join(word.encode() + b"\0" for word in words)) == []


def test_the_flags_of_the_running_mic_yield_to_explicit_flags(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "cmdline").write_bytes(b"mic\0--kubeconfig=/nowhere/one\0--leader-election-duration=1m\0")
    monkeypatch.setattr(cli, "CONTAINER", tmp_path / "cmdline")
    assert cli.main(["--plan"]) == 1
    assert "/nowhere/one" in capsys.readouterr().err
    assert cli.main(["--plan", "--kubeconfig=/nowhere/two"]) == 1
    assert "/nowhere/two" in capsys.readouterr().err


@pytest.mark.root
async def test_in_mics_container_the_plan_uses_its_flags(cloud: EmulatedCloud) -> None:
    """MIC as process 1 of a PID namespace, and the plan entered into it as `kubectl exec` does."""
    cloud.api.store.create("namespaces", {"metadata": {"name": "elsewhere"}})
    cloud.pod("far", "n0", namespace="elsewhere")
    # It is killed with its parent, which this test can end.
    mic = await cloud.mic("--forceNamespaced", inside=["unshare", "--pid", "--fork", "--mount-proc", "--kill-child"])
    await cloud.until(lambda: cloud.assigned() == {"web-default-demo": "Assigned"})
    children = Path(f"/proc/{mic.process.pid}/task/{mic.process.pid}/children")
    child = (await asyncio.to_thread(children.read_text)).strip()
    inside = ["nsenter", f"--target={child}", "--pid", "--mount", f"--wd={ROOT}"]
    command = ("mic", "--plan", "--plan-all")
    plan = await run(cloud.folder, *command, kubeconfig=False, cloudconfig=False, inside=inside)
    os.kill(int(child), signal.SIGTERM)  # and its parent ends with it
    assert await mic.ended() == 0
    assert (plan.code, plan.err) == (0, "")
    assert "with --forceNamespaced=true" in plan.out
    assert "Nothing to do." in plan.out
    assert "1 object is in sync" in plan.out
