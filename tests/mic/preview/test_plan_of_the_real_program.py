"""`python -m mic --plan` as a process in the sandbox: output, exit code, and no writes."""

from typing import Any

from podidentity_sandbox.kubeapi.server import Recorded
from tests.mic.emulated_cloud import EmulatedCloud
from tests.mic.preview.run_programs import Answer, run
from tests.support.objects import identity_id, vm_id


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
