"""The doctor compares client ids with Azure's if it may read Azure."""

from dataclasses import replace

from mic.azure.identities import Attached, HostIdentities
from podidctl.doctor.client_ids import check_client_ids, used_hosts
from podidctl.doctor.schema import Level
from podidentity.azure.errors import AzureError
from tests.mic.emulated_cloud import IDENTITIES, EmulatedCloud
from tests.mic.preview.run_programs import run
from tests.podidctl.doctor_inputs import examined, objects, one
from tests.podidctl.explain.test_the_real_program import running
from tests.podidctl.prediction_inputs import VM
from tests.support.nmi_objects import CLIENT_ID, identity, resource_id

KEY = resource_id("id").lower()


def on_azure(client_id: str) -> dict[str, HostIdentities | AzureError]:
    (host,) = used_hosts(objects())
    return {host.key: HostIdentities(attached={KEY: Attached(resource_id("id"), client_id)})}


def test_another_client_id_is_a_problem_and_the_same_one_is_not() -> None:
    line = one(examined(azure=on_azure("00000000-0000-0000-0000-0000000000ff")))
    assert (line.check, line.level, line.next) == ("client ids", Level.PROBLEM, "correct AzureIdentity ns/id")
    assert "Azure reports client id" in line.says
    found = list(check_client_ids(objects(), on_azure(CLIENT_ID.upper())))
    assert [each.level for each in found] == [Level.OK]
    assert "1 identity" in found[0].says


def test_an_unreported_host_is_unknown() -> None:
    found = list(check_client_ids(objects(), {"/x/vm-1": AzureError("no")}))
    assert Level.UNKNOWN in {each.level for each in found}


def test_hosts_beyond_the_limit_are_unknown() -> None:
    levels = [(each.level, each.says) for each in check_client_ids(objects(), {})]
    assert levels[0] == (Level.UNKNOWN, "1 more VM or scale set was not read")


def test_only_hosts_of_labelled_pods_are_read_once() -> None:
    assert [each.text for each in used_hosts(objects())] == [VM]
    assert used_hosts(replace(objects(), pods=())) == []
    assert "client ids" not in {each.check for each in examined().findings}
    assert identity().spec.client_id == CLIENT_ID


async def test_the_command_reads_azure_with_a_cloudconfig(cloud: EmulatedCloud) -> None:
    cloud.node("n0")
    cloud.identity()
    running(cloud)
    await cloud.mic()
    await cloud.until(lambda: cloud.assigned() == {"web-default-demo": "Assigned"})
    await cloud.running[0].stop()
    changed = cloud.api.store.get(IDENTITIES, "demo", "default")
    changed["spec"]["clientID"] = "client-of-another"
    cloud.api.store.replace(IDENTITIES, changed)
    answer = await run(cloud.folder, "podidctl", "doctor", "-o", "json")
    lines = [each for each in answer.document["findings"] if each["check"] == "client ids"]
    assert [each["level"] for each in lines] == ["problem"], answer.out
    assert "'client-of-another'" in lines[0]["says"]
