"""The reads of a plan: those of Azure, concurrent and omitted after failures; and the record of the type upgrade."""

import asyncio

import pytest

from mic.azure.identities import HostIdentities
from mic.preview.schema import Preview
from mic.preview.survey import api_error_advice, ask, survey
from mic.preview.text import lines
from mic.startup.settings import parse
from podidentity.azure.errors import AzureError, Refused, Throttled, Unreachable
from podidentity.azure.resource_ids import Host, VirtualMachine
from podidentity.kube.errors import ApiError, Forbidden, NoResponse, NotFound, Unauthorized
from podidentity_sandbox.kubeapi.server import Recorded
from podidentity_sandbox.kubeapi.statuses import StatusError
from tests.support.mic.emulated_cloud import BINDINGS, IDENTITIES, EmulatedCloud
from tests.support.objects import identity_id, vm_id

UNREAD = "the record of the type upgrade cannot be read"


def vm(number: int, subscription: str = "sub") -> VirtualMachine:
    return VirtualMachine(vm_id(f"n{number}").replace("/sub/", f"/{subscription}/"), subscription, "rg", f"n{number}")


MANY = [vm(number) for number in range(50)]


class Azure:
    """Answers every host alike, but for those in `failures`."""

    def __init__(self, failures: dict[str, AzureError] | None = None, *, otherwise: AzureError | None = None) -> None:
        self.failures = failures or {}
        self.otherwise = otherwise
        self.asked: list[str] = []
        self.most = self.now = 0

    async def get(self, host: Host) -> HostIdentities:
        self.asked.append(host.key)
        self.now += 1
        self.most = max(self.most, self.now)
        await asyncio.sleep(0)
        self.now -= 1
        error = self.failures.get(host.key, self.otherwise)
        if error is not None:
            raise error
        return HostIdentities()


async def test_each_host_is_read_once_and_few_concurrently() -> None:
    azure = Azure()
    assert await ask(azure, MANY, parallel=4) == {host.key: HostIdentities() for host in MANY}
    assert len(azure.asked) == 50
    assert azure.most == 4


@pytest.mark.parametrize("bad", [AzureError("broken", status=500), Refused("no role", status=403)])
async def test_a_failed_read_does_not_suppress_the_results_of_other_hosts(bad: AzureError) -> None:
    azure = Azure({vm(1).key: bad})
    answers = await ask(azure, MANY[:3], parallel=1)
    assert answers == {vm(0).key: HostIdentities(), vm(1).key: bad, vm(2).key: HostIdentities()}


@pytest.mark.parametrize(
    ("error", "most"),
    [
        (Refused("no token"), 2),
        (Refused("expired", status=401), 2),
        (Refused("bad", status=400), 2),
        (Unreachable("no answer"), 4),
    ],
)
async def test_without_a_token_or_any_response_the_other_hosts_are_not_read(error: AzureError, most: int) -> None:
    azure = Azure(otherwise=error)
    answers = await ask(azure, MANY, parallel=2)
    assert len(azure.asked) <= most
    assert len(answers) == 50
    assert all(isinstance(each, type(error)) for each in answers.values())


async def test_a_throttled_subscription_gets_no_more_reads_and_others_do() -> None:
    error = Throttled("slow down", status=429, retry_after=30.0)
    azure = Azure({vm(0).key: error})
    answers = await ask(azure, [vm(0), vm(1), vm(2, "other")], parallel=1)
    assert answers == {vm(0).key: error, vm(1).key: error, vm(2, "other").key: HostIdentities()}
    assert azure.asked == [vm(0).key, vm(2, "other").key]


async def test_if_one_host_responds_the_silent_ones_are_still_read() -> None:
    azure = Azure({host.key: Unreachable("no answer") for host in MANY[1:]})
    await ask(azure, MANY, parallel=4)
    assert len(azure.asked) == 50


@pytest.mark.parametrize(
    ("error", "says", "then"),
    [
        (Unauthorized(401, "Unauthorized", "no"), "rejects the credentials (401", "check those in --kubeconfig"),
        (Forbidden(403, "Forbidden", "cannot list pods"), "cannot list pods", "grant get and list"),
        (NotFound(404, "NotFound", "no such path"), "lacks a kind of aad-pod-identity", "install deploy/crds"),
        (NoResponse("no response from https://a"), "no response from https://a", "that the API server runs"),
        (ApiError(500, "InternalError", "broken"), "the API server failed: 500 InternalError: broken", "try again"),
    ],
)
def test_an_error_of_the_api_server_is_one_line_with_the_cause_and_the_next_action(
    error: ApiError, says: str, then: str
) -> None:
    line = api_error_advice(error)
    assert says in line
    assert then in line
    assert "\n" not in line


@pytest.mark.parametrize(
    ("recorded", "readable", "namespace", "created"),
    [
        ("default", False, "", 1),
        ("default", False, "default", 1),
        ("", True, "", 1),
        ("", True, "default", 1),
        ("default", True, "", 0),
        ("default", True, "default", 0),
        ("team", True, "default", 1),
    ],
)
async def test_old_field_names_count_unless_the_upgrade_is_recorded_and_an_unreadable_record_is_named(
    cloud: EmulatedCloud, recorded: str, readable: bool, namespace: str, created: int
) -> None:
    """Without MIC's namespace, the ConfigMap of any namespace is a record."""

    def refuse(request: Recorded) -> StatusError | None:
        refused = not readable and "configmaps" in request.path
        return StatusError(403, "Forbidden", "no role") if refused else None

    meta = {"name": "demo", "namespace": "default"}
    cloud.api.store.create(IDENTITIES, {"metadata": meta, "spec": {"type": 0, "ResourceID": identity_id("demo")}})
    cloud.api.store.create(BINDINGS, {"metadata": meta, "spec": {"AzureIdentity": "demo", "Selector": "demo"}})
    cloud.node("n0")
    cloud.pod("web", "n0")
    cloud.api.store.create("namespaces", {"metadata": {"name": "team"}})
    if recorded:
        record = {"name": "aad-pod-identity-config", "namespace": recorded}
        cloud.api.store.create("configmaps", {"metadata": record, "data": {"type-upgrade-status": "v1.8.17"}})
    cloud.api.intercept = refuse
    preview = await plan(cloud, namespace)
    assert preview.summary.objects["create"] == created
    assert preview.upgrade_unknown is not readable
    assert any(UNREAD in line for line in lines(preview)) is not readable
    if namespace:
        assert {each.path for each in cloud.api.requests if "configmaps" in each.path} == {
            f"/api/v1/namespaces/{namespace}/configmaps/aad-pod-identity-config"
        }
    kept = await plan(cloud, namespace, "--read-old-field-names")
    assert kept.summary.objects["create"] == 1


async def plan(cloud: EmulatedCloud, namespace: str, *flags: str) -> Preview:
    environ = {"MIC_POD_NAMESPACE": namespace} if namespace else {}
    given = ["--plan", f"--kubeconfig={cloud.folder / 'kubeconfig'}", *flags]
    settings = await asyncio.to_thread(parse, given, environ)
    return await survey(settings, ask_azure=False)
