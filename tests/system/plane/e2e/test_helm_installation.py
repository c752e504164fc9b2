"""The chart, installed by the real helm on the real control plane: MIC and NMI run as its pods say, and work."""

import asyncio
import re
from pathlib import Path
from typing import Final

import pytest

from tests.conftest import NewPlane
from tests.support.checkout import ROOT
from tests.support.waiting import until
from tests.system.plane.e2e.e2e_cluster import NAMESPACE, RELEASE, VALUES, Cluster, cluster, gets_a_token

pytestmark = [pytest.mark.root, pytest.mark.plane]
BY_HAND: Final = re.compile(r"^   ```\n(   for node in .*?nmi --cleanup\n.*?)^   ```\n", re.MULTILINE | re.DOTALL)
"""What docs/operations.md has an operator type where no hook takes the rules off."""
ERROR_LINE: Final = re.compile(r"^E\d{4} ", re.MULTILINE)
"""The level, month and day at the start of a log line."""
REDIRECT: Final = {"redirect": {"backend": "iptables-nft"}}
"""The backend of a node whose kube-proxy uses iptables. The sandbox's node has no rules, so `auto` selects nftables."""


@pytest.mark.parametrize("helm", ["helm", pytest.param("helm3", marks=pytest.mark.nightly)])
async def test_install_token_upgrade_uninstall(new_plane: NewPlane, tmp_path: Path, helm: str) -> None:
    plane = await asyncio.to_thread(new_plane, scheduler=True)
    async with cluster(plane, tmp_path, helm) as here:
        await here.install("install", VALUES | {"nmi": REDIRECT})
        assert await here.names("daemonsets") == [f"{NAMESPACE}/{RELEASE}-nmi"]
        assert "aad-metadata" in await here.tables()

        await here.kubectl("apply", "--filename", str(ROOT / "deploy" / "demo"))
        await here.kubectl("wait", "pod/demo", "--for=condition=Ready", "--timeout=80s")
        await gets_a_token(here)
        await the_plan_is_empty(here)

        await here.install("upgrade", VALUES | {"nmi": {**REDIRECT, "logVerbosity": 4}})
        await gets_a_token(here)
        # Objects of the hooks do not block the next upgrade.
        await here.install("upgrade", VALUES | {"nmi": REDIRECT})

        assert "Succeeded" in await here.helm("test", RELEASE, "--namespace", NAMESPACE, "--timeout=80s")

        await here.kubectl("delete", "--filename", str(ROOT / "deploy" / "demo"), "--timeout=80s")
        await until(lambda: nothing_is_assigned(here))
        logs = here.read_logs()
        assert not ERROR_LINE.search(logs), f"perhaps a right that the chart does not grant: {logs}"
        await uninstalled(here)

        await here.install("install", VALUES | {"nmi": {**REDIRECT, "failClosed": True}})
        await cleanup_restores_access_to_imds(here)


async def cleanup_restores_access_to_imds(here: Cluster) -> None:
    """The rules remain after NMI's DaemonSet. An uninstallation removes them, and so does an operator's command."""
    before = await here.tables()
    nmi = ("daemonset", "--namespace", NAMESPACE, f"{RELEASE}-nmi")
    await here.kubectl("delete", *nmi, "--cascade=foreground", "--timeout=80s")  # until its pod has ended
    assert await here.tables() == before, "NMI is away, and pods are still kept from IMDS"
    left = here.folder / "rules"
    await asyncio.to_thread(left.write_text, await here.on_node("iptables-save"))
    await uninstalled(here)
    await here.on_node("iptables-restore", str(left))
    (block,) = BY_HAND.findall((ROOT / "docs" / "operations.md").read_text())
    assert "aad-" in await here.tables()
    output = await here.shell(block.replace("REGISTRY/PATH/nmi:TAG", "registry.invalid/aad-pod-identity/nmi:1"))
    assert "aad-" not in await here.tables(), output
    assert re.findall(r"removed (\S+)", output), output
    await until(lambda: no_pods(here))


async def the_plan_is_empty(here: Cluster) -> None:
    """`mic --plan`, run in MIC's pod as docs/podidctl.md has it, finds nothing to do. Another exit code is an error."""
    plan = await here.kubectl("exec", "--namespace", NAMESPACE, f"deploy/{RELEASE}-mic", "--", "mic", "--plan")
    assert "1 of 1 need no change" in plan


async def uninstalled(here: Cluster) -> None:
    """Run helm uninstall, after which only the objects that the chart's README lists remain on node and cluster."""
    await here.helm("uninstall", RELEASE, "--namespace", NAMESPACE, "--wait", "--timeout=80s")
    await until(lambda: no_pods(here))
    assert "aad-" not in await here.tables()
    labelled = "clusterroles,clusterrolebindings,azurepodidentityexceptions"
    assert await here.names(labelled, "--selector", f"app.kubernetes.io/instance={RELEASE}") == []
    kinds = (
        "deployments,daemonsets,pods,services,secrets,serviceaccounts,configmaps,jobs,networkpolicies,"
        "poddisruptionbudgets,roles,rolebindings,leases,endpoints"
    )
    remaining = {name for name in await here.names(kinds) if name.startswith(f"{NAMESPACE}/")}
    of_kubernetes = {f"{NAMESPACE}/default", f"{NAMESPACE}/kube-root-ca.crt"}
    of_mic = {f"{NAMESPACE}/{RELEASE}-config", f"{NAMESPACE}/{RELEASE}-mic"}
    assert remaining - of_kubernetes == of_mic, "only MIC's record and its leader lock remain"


async def nothing_is_assigned(here: Cluster) -> bool:
    return await here.names("azureassignedidentities") == []


async def no_pods(here: Cluster) -> bool:
    return await here.names("pods") == []
