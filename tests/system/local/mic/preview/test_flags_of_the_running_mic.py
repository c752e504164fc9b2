"""`kubectl exec deploy/mic -- mic --plan` uses the flags of the running MIC."""

import asyncio
import os
import signal
import sys
from pathlib import Path
from typing import Any

import pytest

from mic import cli
from mic.startup.settings import parse
from podidentity_sandbox.serving import free_ports
from tests.support.checkout import ROOT
from tests.support.mic.emulated_cloud import WAIT_SECONDS, EmulatedCloud


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


def test_a_plan_requires_no_namespace_and_mic_does(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MIC_POD_NAMESPACE", raising=False)
    assert parse(["--plan"], {}).plan
    assert cli.main([]) == 2
    assert cli.main(["--plan=false"]) == 2


@pytest.mark.root
async def test_in_mics_container_the_plan_uses_its_flags(cloud: EmulatedCloud) -> None:
    """MIC as process 1 of a PID namespace, and the plan entered into it as `kubectl exec` does."""
    cloud.node("n0")
    cloud.identity()
    cloud.api.store.create("namespaces", {"metadata": {"name": "elsewhere"}})
    cloud.pod("web", "n0", namespace="elsewhere")
    folder, ports = cloud.folder, free_ports(2)
    flags = [
        "--forceNamespaced",
        *(f"--kubeconfig={folder / 'kubeconfig'}", f"--cloudconfig={folder / 'azure.json'}"),
        *(f"--ca-bundle={folder / 'ca.pem'}", f"--http-probe-port={ports[0]}", f"--prometheus-port={ports[1]}"),
    ]
    mic = [sys.executable, "-m", "mic"]
    options: dict[str, Any] = {
        "cwd": ROOT,
        "env": {
            "PATH": os.environ["PATH"],
            "MIC_POD_NAMESPACE": "default",
            "AZURE_ENVIRONMENT_FILEPATH": str(folder / "cloud.json"),
        },
        "stdout": asyncio.subprocess.PIPE,
        "stderr": asyncio.subprocess.PIPE,
    }
    # It is killed with its parent, which this test can end.
    alone = ["unshare", "--pid", "--fork", "--mount-proc", "--kill-child"]
    quiet = {"stdout": asyncio.subprocess.DEVNULL, "stderr": asyncio.subprocess.DEVNULL}
    container = await asyncio.create_subprocess_exec(*alone, *mic, *flags, **{**options, **quiet})
    try:
        await cloud.until(lambda: cloud.api.store.list("leases.coordination.k8s.io"), "the MIC in the container leads")
        children = Path(f"/proc/{container.pid}/task/{container.pid}/children")
        child = (await asyncio.to_thread(children.read_text)).strip()
        inside = ["nsenter", f"--target={child}", "--pid", "--mount", f"--wd={ROOT}"]
        plan = await asyncio.create_subprocess_exec(*inside, *mic, "--plan", **options)
        async with asyncio.timeout(WAIT_SECONDS):
            out, err = await plan.communicate()
        os.kill(int(child), signal.SIGTERM)  # and its parent ends with it
        async with asyncio.timeout(WAIT_SECONDS):
            assert await container.wait() == 0
    finally:
        if container.returncode is None:
            container.kill()
            await container.wait()
    assert (plan.returncode, err.decode()) == (0, "")
    assert "with --forceNamespaced=true" in out.decode()
    assert "Nothing to do." in out.decode()
