"""The real program with the sandbox's API server and AAD, and with the real MIC where the switch waits for it."""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support.mic.emulated_cloud import ASSIGNED
from tests.support.migration.federation_sandbox import Federation, federation

NAMESPACE = "/namespaces/default"
NOTE = "aadpodidentity.k8s.io/migrated-from"
FOLLOWED = {"web-1": (3, "Assigned")}


def assignments(cloud: Federation) -> dict[str, tuple[int, str]]:
    """Pod -> type and status of what NMI serves for it."""
    return {
        item["spec"]["pod"]: (item["spec"]["azureIdentityRef"]["spec"]["type"], item["status"]["status"])
        for item in cloud.store.list(ASSIGNED)
        if "deletionTimestamp" not in item["metadata"]
    }


def pods_without_identity(cloud: Federation, *pods: str) -> list[set[str]]:
    """Return a list that gets, at each change of what MIC assigns, those of *pods* that NMI serves no identity then."""
    without: list[set[str]] = []

    def look(_change: object) -> None:
        without.append(set(pods) - {pod for pod, (_, status) in assignments(cloud).items() if status == "Assigned"})

    cloud.store.subscribe(ASSIGNED, look)
    return without


def tenant(cloud: Federation) -> tuple[str, str]:
    return "--tenant", cloud.cloud.directory.tenant_id


async def outcomes(cloud: Federation, *arguments: str) -> tuple[int, list[Any]]:
    answer = await cloud.migrate(*arguments, "-o", "json")
    return answer.code, answer.document["outcomes"]


async def test_one_service_account_without_a_credential_blocks_the_switch_and_no_token_is_printed(
    cloud: Federation,
) -> None:
    cloud.trust()
    before = cloud.identity()
    answer = await cloud.migrate("apply", "--yes", "default/missing")
    assert (answer.code, answer.out) == (1, "")
    assert "AzureIdentity default/missing does not exist: see kubectl get azureidentities -A" in answer.err
    answer = await cloud.migrate("apply", *tenant(cloud), "-o", "json")
    (outcome,) = answer.document["outcomes"]
    assert (answer.code, outcome["ending"]) == (3, "would be changed"), "without --yes nothing is switched"
    (tried,) = outcome["tried"]
    assert (tried["account"], tried["boundTo"], tried["clientId"]) == ("default/web", "web-1", "client-demo")
    assert tried["objectId"]
    assert "eyJ" not in answer.out + answer.err, "no token is printed"
    cloud.account("nightly")
    cloud.pod("nightly-1", "nightly")
    code, (outcome,) = await outcomes(cloud, "apply", "--yes", *tenant(cloud))
    assert (code, outcome["ending"]) == (3, "left as it was")
    nightly, web = outcome["tried"]
    assert (nightly["account"], web["account"], web["problem"]) == ("default/nightly", "default/web", "")
    trusted = f"issuer {cloud.cloud.api.url}, subject system:serviceaccount:default:nightly, audience api://AzureAD"
    assert trusted in nightly["problem"]
    assert "podidctl migrate plan -o az" in nightly["do"]
    assert cloud.identity() == before
    for pod in ("nightly-1", "web-1"):
        cloud.store.delete("pods", pod, "default", grace_seconds=0)
    cloud.workload()
    code, (outcome,) = await outcomes(cloud, "apply", *tenant(cloud))
    assert (code, outcome["ending"], outcome["tried"][0]["boundTo"]) == (3, "would be changed", ""), "without a pod"


async def test_mic_follows_a_switch_and_its_reversal(cloud: Federation) -> None:
    cloud.trust()
    await cloud.cloud.mic()
    await cloud.cloud.until(lambda: assignments(cloud) == {"web-1": (0, "Assigned")})
    before = cloud.identity()
    plan = await cloud.migrate("plan", *tenant(cloud), "-o", "json")
    assert (plan.code, plan.err) == (3, "")
    (step,) = plan.document["steps"]
    assert (step["state"], [account["pod"] for account in step["accounts"]]) == ("to do", ["web-1"])
    assert cloud.identity() == before, "a plan changes nothing"
    assert "federated" not in [call.proof for call in cloud.cloud.aad.calls], "and requests no token"
    without = pods_without_identity(cloud, "web-1")
    answer = await cloud.migrate("apply", "--yes", *tenant(cloud))
    assert (answer.code, answer.err) == (0, "")
    assert without
    assert not any(without)
    for line in ("default/demo: token obtained for default/web", "default/demo: switched to type 3", "MIC has updated"):
        assert line in answer.out
    assert assignments(cloud) == FOLLOWED
    after = cloud.identity()
    assert after["spec"] == {**before["spec"], "type": 3, "tenantID": cloud.cloud.directory.tenant_id}
    assert json.loads(after["metadata"]["annotations"][NOTE])["spec"] == before["spec"]
    assert (await cloud.migrate("plan", *tenant(cloud))).code == 0
    code, (outcome,) = await outcomes(cloud, "apply", "--yes")
    assert (code, outcome["ending"]) == (0, "as it is")

    code, (outcome,) = await outcomes(cloud, "rollback")
    assert (code, outcome["ending"], cloud.identity()) == (3, "would be changed", after)
    code, (outcome,) = await outcomes(cloud, "rollback", "--yes", "default/demo")
    assert (code, outcome["ending"]) == (0, "changed")
    assert assignments(cloud) == {"web-1": (0, "Assigned")}
    assert cloud.identity()["spec"] == before["spec"]
    assert NOTE not in cloud.identity()["metadata"].get("annotations", {})
    assert await outcomes(cloud, "rollback", "--yes") == (0, [])


@pytest.mark.programs
async def test_pods_of_two_namespaces_keep_one_identity_through_the_switch(tmp_path: Path) -> None:
    """It serves the whole cluster from namespace team, so that what MIC assigns moves into the pods' namespaces."""
    async with federation(tmp_path) as cloud:
        cloud.cloud.node("n0")
        for namespace in ("team", "shop"):
            cloud.store.create("namespaces", {"metadata": {"name": namespace}})
        cloud.cloud.identity(namespace="team")
        for namespace in ("team", "shop"):
            cloud.account("web", namespace)
            cloud.pod(f"of-{namespace}", namespace=namespace)
            cloud.trust(namespace=namespace)
        cloud.nmi("--federated-identities")
        await cloud.cloud.mic()
        await cloud.cloud.until(lambda: assignments(cloud) == dict.fromkeys(("of-team", "of-shop"), (0, "Assigned")))
        code, (results,) = await outcomes(cloud, "apply", "--yes", *tenant(cloud))
        assert (code, results["ending"]) == (3, "left as it was")
        assert "pods of other namespaces have it (shop)" in results["why"]
        printed = await cloud.migrate("plan", "-o", "manifests", *tenant(cloud))
        plurals = {"AzureIdentity": "azureidentities", "AzureIdentityBinding": "azureidentitybindings"}
        without = pods_without_identity(cloud, "of-team", "of-shop")
        for item in yaml.safe_load_all(printed.out):
            cloud.store.create(f"{plurals[item['kind']]}.aadpodidentity.k8s.io", item)
        code, results = await outcomes(cloud, "apply", "--yes", *tenant(cloud))
        assert (code, [(result["about"], result["ending"]) for result in results]) == (
            0,
            [("shop/demo", "changed"), ("team/demo", "changed")],
        )
        await cloud.cloud.until(lambda: assignments(cloud) == dict.fromkeys(("of-team", "of-shop"), (3, "Assigned")))
        assert without
        assert not any(without)


async def test_a_switch_that_mic_does_not_follow_is_reverted_unless_mode_is_managed(cloud: Federation) -> None:
    cloud.trust()
    before = cloud.identity()
    code, (outcome,) = await outcomes(cloud, "apply", "--yes", "--timeout=1", *tenant(cloud))
    assert (code, outcome["ending"]) == (3, "taken back")
    assert "MIC has not updated default/web-1 within 1 s, so it is of type 0 again" in outcome["why"]
    assert cloud.identity()["spec"] == before["spec"]
    # In managed mode no program has to follow.
    cloud.store.delete("pods", "nmi-1", "kube-system", grace_seconds=0)
    cloud.nmi("--federated-identities", "--operation-mode=managed", "--forceNamespaced")
    code, (outcome,) = await outcomes(cloud, "apply", "--yes", "--timeout=1", *tenant(cloud))
    assert (code, outcome["ending"], cloud.identity()["spec"]["type"]) == (0, "changed", 3)


async def test_a_switched_identity_that_was_not_waited_for_is_waited_for(cloud: Federation) -> None:
    """As Ctrl-C right after the patch leaves it."""
    cloud.trust()
    mic = await cloud.cloud.mic()
    await cloud.cloud.until(lambda: assignments(cloud) == {"web-1": (0, "Assigned")})
    await mic.stop()
    note = json.dumps({"spec": cloud.identity()["spec"], "tenantID": "t"})
    change = {"metadata": {"annotations": {NOTE: note}}, "spec": {"type": 3, "tenantID": "t"}}
    cloud.store.patch("azureidentities.aadpodidentity.k8s.io", "demo", change, "default")
    plan = await cloud.migrate("plan", "-o", "json")
    assert (plan.code, plan.document["steps"][0]["state"]) == (3, "not followed yet")
    code, (outcome,) = await outcomes(cloud, "apply")
    assert (code, outcome["ending"]) == (3, "would be changed")
    cloud.cloud.api.requests.clear()
    applying = asyncio.create_task(outcomes(cloud, "apply", "--yes"))
    place = "/namespaces/default/azureassignedidentities"
    await cloud.cloud.until(
        lambda: any(place in request.path for request in cloud.cloud.api.requests), "it waits for MIC"
    )
    await cloud.cloud.mic()
    code, (outcome,) = await applying
    assert (code, outcome["ending"]) == (0, "changed")
    assert assignments(cloud) == FOLLOWED


@pytest.mark.parametrize(
    ("method", "path"),
    [("POST", "/serviceaccounts/web/token"), ("PATCH", "/azureidentities/demo"), ("GET", f"{NAMESPACE}/pods")],
    ids=["at the token", "at the switch", "while MIC follows"],
)
async def test_after_an_interrupt_at_any_step_the_commands_continue_correctly(
    cloud: Federation, method: str, path: str
) -> None:
    cloud.trust()
    before = cloud.identity()
    assert await cloud.interrupted(method, path, "apply", "--yes", *tenant(cloud)) == 130
    switched = cloud.identity()["spec"]["type"] == 3
    assert switched is (NOTE in cloud.identity()["metadata"].get("annotations", {}))
    if not switched:
        assert cloud.identity() == before
    plan = await cloud.migrate("plan", "-o", "json", *tenant(cloud))
    assert plan.document["steps"][0]["state"] == ("not followed yet" if switched else "to do")
    code, results = await outcomes(cloud, "rollback", "--yes", "--timeout=1")
    assert (code, len(results)) == ((3, 1) if switched else (0, 0))  # no MIC follows
    assert cloud.identity()["spec"] == before["spec"]
    assert NOTE not in cloud.identity()["metadata"].get("annotations", {})
