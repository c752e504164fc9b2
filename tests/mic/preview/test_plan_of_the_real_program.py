"""`python -m mic --plan` as a process in the sandbox: output, exit code, and no writes."""

import random
from collections import Counter
from collections.abc import Iterable
from typing import Any

import pytest

from podidentity_sandbox.kubeapi.server import Recorded
from tests.mic.emulated_cloud import EmulatedCloud
from tests.mic.preview.run_programs import Answer, run
from tests.support.objects import identity_id, set_id, vm_id


async def plan(cloud: EmulatedCloud, *flags: str, **more: Any) -> Answer:
    return await run(cloud.folder, "mic", "--plan", *flags, **more)


async def test_the_plan_prints_the_effects_of_a_new_pod_and_changes_nothing(cloud: EmulatedCloud) -> None:
    cloud.node("n0")
    cloud.identity()
    cloud.pod("web", "n0")
    requests: list[Recorded] = []
    cloud.api.intercept = requests.append
    answer = await plan(cloud)
    assert answer.code == 3
    assert answer.err == ""
    assert "1 to create" in answer.out
    assert f"+ identity {identity_id('demo')}" in answer.out
    assert "+ create default/web-default-demo: pod default/web on n0, identity default/demo: Assigned" in answer.out
    assert {each.method for each in requests} == {"GET"}
    assert not [each for each in requests if "watch=" in each.path or "/leases" in each.path]
    assert {each.method for each in cloud.arm.calls} == {"GET"}
    assert len(cloud.arm.calls) == 1
    assert cloud.assigned() == {}
    assert cloud.on(vm_id("n0")) == set()


async def test_next_to_a_leader_without_open_work_the_plan_is_empty(cloud: EmulatedCloud) -> None:
    cloud.node("n0")
    cloud.identity()
    mic = await cloud.mic()
    cloud.pod("web", "n0")
    await cloud.until(lambda: cloud.assigned() == {"web-default-demo": "Assigned"})
    lease = cloud.api.store.get("leases.coordination.k8s.io", "aad-pod-identity-mic", "default")["spec"][
        "holderIdentity"
    ]
    before = len(cloud.arm.writes())
    answer = await plan(cloud)
    assert (answer.code, answer.err) == (0, "")
    assert "Nothing to do." in answer.out
    assert "1 of 1 need no change" in answer.out
    assert "in sync" not in answer.out
    assert "1 object is in sync" in (await plan(cloud, "--plan-all")).out
    assert len(cloud.arm.writes()) == before
    after = cloud.api.store.get("leases.coordination.k8s.io", "aad-pod-identity-mic", "default")["spec"][
        "holderIdentity"
    ]
    assert after == lease
    assert await mic.page("/healthz") == "Active"


async def test_a_federated_identity_results_in_an_object_and_no_azure_change(cloud: EmulatedCloud) -> None:
    cloud.node("n0")
    cloud.identity(type=3, tenantID="t")
    cloud.pod("web", "n0")
    answer = await plan(cloud)
    assert (answer.code, answer.err) == (3, "")
    assert "+ create default/web-default-demo: pod default/web on n0, identity default/demo: Assigned" in answer.out
    assert "+ identity" not in answer.out
    assert cloud.arm.calls == []


HOSTS = (vm_id("n0"), vm_id("n1"), set_id())
NODES = ("n0", "n1", "s0", "s1")
NAMES = ("one", "two", "three", "four")


@pytest.mark.parametrize("seed", range(3))
async def test_mic_then_makes_the_planned_changes(cloud: EmulatedCloud, seed: int) -> None:
    await half_changed(cloud, random.Random(seed))
    await planned_and_executed(cloud, HOSTS)


async def planned_and_executed(cloud: EmulatedCloud, hosts: Iterable[str]) -> Any:
    """Get the plan, run MIC, compare every write with the plan, and return the plan."""
    document = (await plan(cloud, "--plan-output=json")).document
    requests: list[tuple[str, str]] = []

    def note(request: Recorded) -> None:
        if request.method != "GET" and "azureassignedidentities" in request.path:
            requests.append((request.method, request.path.partition("?")[0].rpartition("/")[2]))

    cloud.api.intercept = note
    writes = {host: len(cloud.arm.writes(host)) for host in hosts}
    expected = {host: cloud.arm.vm(host).identities for host in hosts}
    objects = [each for host in document["hosts"] for each in host["objects"]]
    methods = {"create": "POST", "revoke": "DELETE"}
    steps = [
        (methods.get(step, "PATCH"), "azureassignedidentities" if step == "create" else each["name"])
        for each in objects
        for step in each["steps"]
    ]
    assert steps
    for host in document["hosts"]:
        if host["host"] in expected:
            expected[host["host"]] |= {key.lower() for key in host["add"]}
            expected[host["host"]] -= {key.lower() for key in host["remove"]}
    await cloud.mic()
    then = {each["name"]: each["becomes"] for each in objects}
    await cloud.until(lambda: {name: cloud.assigned().get(name, "") for name in then} == then)
    await cloud.until(lambda: {host: cloud.arm.vm(host).identities for host in expected} == expected)
    await cloud.until(lambda: len(requests) >= len(steps), "every planned write")
    after = await plan(cloud)
    assert after.code == 0, after.out
    assert Counter(requests) == Counter(steps)
    changed = {host for host in expected if len(cloud.arm.writes(host)) > writes[host]}
    assert changed == {host["host"] for host in document["hosts"] if host["updates"]}
    return document


async def half_changed(cloud: EmulatedCloud, draw: random.Random) -> None:
    """A cluster in which a MIC has assigned everything, and which has changed since that MIC ended."""
    for name in ("n0", "n1"):
        cloud.node(name)
    for number in range(2):
        cloud.node(f"s{number}", f"azure://{set_id()}/virtualMachines/{number}")
    cloud.node("bare", "kind://bare")
    for name in NAMES:
        cloud.identity(name)
    cloud.arm.vm(vm_id("n1")).attach(cloud.directory.add_identity(identity_id("one"), client_id="client-one"))
    mic = await cloud.mic()
    for number in range(12):
        cloud.pod(f"p{number}", draw.choice(NODES), label=draw.choice(NAMES))
    await cloud.until(lambda: list(cloud.assigned().values()) == ["Assigned"] * 12)
    assert await mic.stop() == 0
    for number in draw.sample(range(12), 6):
        cloud.remove_pod(f"p{number}")
        if draw.random() < 0.5:  # under the same name, perhaps on another node
            cloud.pod(f"p{number}", draw.choice((*NODES, "bare")), label=draw.choice(NAMES))
    for number in range(12, 16):
        cloud.pod(f"p{number}", draw.choice(NODES), label=draw.choice(NAMES))
    on_set = cloud.arm.vm(set_id()).user_assigned
    del on_set[draw.choice(sorted(on_set))]


async def test_a_host_without_a_response_is_reported_and_the_exit_code_is_1(cloud: EmulatedCloud) -> None:
    cloud.node("n0")
    cloud.node("n1")
    cloud.node("lost", f"azure://{vm_id('lost')}")
    cloud.identity()
    cloud.pod("web", "n0")
    cloud.pod("lonely", "lost")
    (cloud.folder / "azure.json").write_text(
        (cloud.folder / "azure.json").read_text().replace('"aadClientSecret": "', '"aadClientSecret": "wrong')
    )
    answer = await plan(cloud)
    assert answer.code == 1, answer.out
    assert "Changes that MIC would make" in answer.out, "the known part is printed"
    assert answer.err.startswith("mic: the plan is not complete: Azure did not answer for /subscriptions/")
    assert "check MIC's credentials in the cloud config" in answer.err
    assert len(cloud.arm.calls) == 0
    assert answer.err.count("\n") == 1
    secret = cloud.directory.add_principal().secret
    assert secret not in answer.out + answer.err


async def test_pods_on_an_unknown_vm_stay_waiting(cloud: EmulatedCloud) -> None:
    cloud.node("lost", f"azure://{vm_id('lost')}")
    cloud.identity()
    cloud.pod("web", "lost")
    answer = await plan(cloud)
    assert answer.code == 0, "nothing can be done for it"
    assert "waits: pod default/web, identity default/demo: Azure has no" in answer.out


async def test_the_output_repeats_the_relevant_flags(cloud: EmulatedCloud) -> None:
    cloud.node("n0")
    cloud.identity()
    cloud.api.store.create("namespaces", {"metadata": {"name": "elsewhere"}})
    cloud.pod("web", "n0", namespace="elsewhere")
    answer = await plan(cloud, "--forceNamespaced", "--immutable-user-msis=0123-secret-4567")
    assert answer.code == 0
    assert "with --forceNamespaced=true, --immutable-user-msis=(1 client id)" in answer.out
    assert "0123-secret-4567" not in answer.out
    assert (await plan(cloud)).code == 3


async def test_a_failure_of_the_plan_is_one_line(cloud: EmulatedCloud) -> None:
    missing = await plan(cloud, cloudconfig=False)
    assert (missing.code, missing.out) == (1, "")
    assert missing.err.startswith("mic: the environment lacks TENANT_ID, CLIENT_ID, CLIENT_SECRET: set them")
    await cloud.api.stop()
    gone = await plan(cloud)
    assert (gone.code, gone.out, gone.err.count("\n")) == (1, "", 1)
    assert "check --kubeconfig, or that the API server runs" in gone.err
