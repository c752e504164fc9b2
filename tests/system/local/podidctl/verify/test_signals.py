"""Signals for the real `podidctl verify`: its canary pods are deleted, and the exit code names the signal."""

import asyncio
import signal
from collections.abc import Iterator

import pytest

from podidctl.verify.pod import CANARY_LABELS
from tests.support.mic.emulated_cloud import EmulatedCloud
from tests.support.mic.preview.run_programs import run
from tests.support.waiting import until


@pytest.fixture(autouse=True)
def _hangups_end_programs() -> Iterator[None]:
    """The tests may run under nohup, and their programs inherit what it ignores."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


@pytest.fixture
def installed(cloud: EmulatedCloud) -> EmulatedCloud:
    """Two nodes with NMI, whose kubelets never start a canary pod."""
    for name in ("n0", "n1"):
        ready = {"conditions": [{"type": "Ready", "status": "True"}]}
        cloud.api.store.create("nodes", {"metadata": {"name": name}, "status": ready})
        meta = {"name": f"nmi-{name}", "namespace": "default", "labels": {"component": "nmi"}}
        spec = {"nodeName": name, "hostNetwork": True, "containers": [{"name": "nmi", "image": "i"}]}
        cloud.api.store.create("pods", {"metadata": meta, "spec": spec})
    return cloud


def canaries(cloud: EmulatedCloud) -> list[str]:
    pods = cloud.api.store.list("pods")
    labels = ((pod["metadata"]["name"], pod["metadata"].get("labels", {})) for pod in pods)
    return [name for name, its in labels if CANARY_LABELS.items() <= its.items()]


@pytest.mark.parametrize("numbers", [(signal.SIGINT, signal.SIGINT), (signal.SIGTERM,), (signal.SIGHUP,)])
async def test_an_interrupted_command_deletes_its_pods(
    installed: EmulatedCloud, numbers: tuple[signal.Signals, ...]
) -> None:
    started: list[asyncio.subprocess.Process] = []

    async def interrupt() -> None:
        await until(lambda: len(canaries(installed)) == 2, "both pods exist")
        for number in numbers:
            started[0].send_signal(number)

    sender = asyncio.create_task(interrupt())
    result = await run(installed.folder, "podidctl", "verify", cloudconfig=False, started=started.append)
    await sender
    assert (result.code, result.out, result.err) == (128 + numbers[0], "", "")
    assert canaries(installed) == []
