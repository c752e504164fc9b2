"""The chart, installed by the real helm on the real control plane: MIC and NMI run as its pods say, and work."""

import asyncio
import re
from pathlib import Path
from typing import Final

import pytest

from tests.conftest import NewPlane
from tests.e2e.e2e_cluster import NAMESPACE, RELEASE, ROOT, VALUES, Cluster, cluster, gets_a_token
from tests.e2e.monitoring import prometheus
from tests.support.waiting import until

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
        assert "aad-metadata" in await here.rules()

        await run_the_demo(here)
        await gets_a_token(here)
        await the_plan_is_empty(here)
        await everything_is_watched(here)

        await here.install("upgrade", VALUES | {"nmi": {**REDIRECT, "logVerbosity": 4}})
        await gets_a_token(here)
        # Objects of the hooks do not block the next upgrade.
        await here.install("upgrade", VALUES | {"nmi": REDIRECT})

        assert "Succeeded" in await here.helm("test", RELEASE, "--namespace", NAMESPACE, "--timeout=60s")

        await here.kubectl("delete", "--filename", str(ROOT / "deploy" / "demo"), "--timeout=30s")
        await until(lambda: nothing_is_assigned(here))
        logs = here.read_logs()
        assert not ERROR_LINE.search(logs), f"perhaps a right that the chart does not grant: {logs}"
        await uninstalled(here)


async def test_with_fail_closed_uninstall_and_cleanup_restore_access_to_imds(
    new_plane: NewPlane, tmp_path: Path
) -> None:
    plane = await asyncio.to_thread(new_plane, scheduler=True)
    async with cluster(plane, tmp_path, "helm") as here:
        await here.install("install", VALUES | {"nmi": {**REDIRECT, "failClosed": True}})
        await run_the_demo(here)
        await gets_a_token(here)
        await here.kubectl("delete", "--filename", str(ROOT / "deploy" / "demo"), "--timeout=30s")
        await until(lambda: nothing_is_assigned(here))
        before = await here.tables()
        nmi = ("daemonset", "--namespace", NAMESPACE, f"{RELEASE}-nmi")
        await here.kubectl("delete", *nmi, "--cascade=foreground", "--timeout=60s")  # until its pod has ended
        assert await here.tables() == before, "NMI is away, and pods are still kept from IMDS"
        left = tmp_path / "rules"
        await asyncio.to_thread(left.write_text, await here.on_node("iptables-save"))
        await uninstalled(here)
        await here.on_node("iptables-restore", str(left))
        await cleans_by_hand(here)


async def cleans_by_hand(here: Cluster) -> None:
    """The command on the operations page, word for word, removes NMI's leftovers from the node and reports it."""
    (block,) = BY_HAND.findall((ROOT / "docs" / "operations.md").read_text())
    assert "aad-" in await here.tables()
    output = await here.shell(block.replace("REGISTRY/PATH/nmi:TAG", "registry.invalid/aad-pod-identity/nmi:1"))
    assert "aad-" not in await here.tables(), output
    assert re.findall(r"removed (\S+)", output), output
    await until(lambda: no_pods(here))


async def run_the_demo(here: Cluster) -> None:
    await here.kubectl("apply", "--filename", str(ROOT / "deploy" / "demo"))
    await here.kubectl("wait", "pod/demo", "--for=condition=Ready", "--timeout=30s")


async def the_plan_is_empty(here: Cluster) -> None:
    """`mic --plan`, run in MIC's pod as docs/podidctl.md has it, finds nothing to do. Another exit code is an error."""
    plan = await here.kubectl("exec", "--namespace", NAMESPACE, f"deploy/{RELEASE}-mic", "--", "mic", "--plan")
    assert "1 of 1 need no change" in plan


async def everything_is_watched(here: Cluster) -> None:
    """Each pod is scraped, and no alert of the chart is true."""
    async with prometheus(here) as server:
        assert await server.values('sum(aadpodidentity_mic_lease_held{job="mic"})') == [1.0]
        assert await server.values('sum(aadpodidentity_nmi_redirect_in_force{job="nmi"})') == [1.0]
        assert len(await server.rules()) > 10

        async def no_alert() -> bool:  # the first evaluation may have come before the first scrape
            return [rule["name"] for rule in await server.rules() if rule["state"] != "inactive"] == []

        await until(no_alert)


async def uninstalled(here: Cluster) -> None:
    """Run helm uninstall, after which only the objects that the chart's README lists remain on node and cluster."""
    await here.helm("uninstall", RELEASE, "--namespace", NAMESPACE, "--wait", "--timeout=60s")
    await until(lambda: no_pods(here))
    assert "aad-" not in await here.tables()
    await nothing_is_left(here)


async def nothing_is_assigned(here: Cluster) -> bool:
    return await here.names("azureassignedidentities") == []


async def no_pods(here: Cluster) -> bool:
    return await here.names("pods") == []


async def nothing_is_left(here: Cluster) -> None:
    """Check that only MIC's record and its leader lock remain."""
    labelled = "clusterroles,clusterrolebindings,azurepodidentityexceptions"
    assert await here.names(labelled, "--selector", f"app.kubernetes.io/instance={RELEASE}") == []
    kinds = (
        "deployments,daemonsets,pods,services,secrets,serviceaccounts,configmaps,jobs,networkpolicies,"
        "poddisruptionbudgets,roles,rolebindings,leases,endpoints"
    )
    remaining = {each for each in await here.names(kinds) if each.startswith(f"{NAMESPACE}/")}
    of_kubernetes = {f"{NAMESPACE}/default", f"{NAMESPACE}/kube-root-ca.crt"}
    assert remaining - of_kubernetes == {f"{NAMESPACE}/{RELEASE}-config", f"{NAMESPACE}/{RELEASE}-mic"}
