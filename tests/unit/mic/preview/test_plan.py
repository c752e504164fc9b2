"""The reads of a plan, concurrent and omitted after failures; the record of the type upgrade; and the plan's text:
totals, then only changes, and why an object does not change.
"""

import asyncio
import io
from typing import Any

import msgspec
import pytest
from rich.console import Console

from mic.azure.identities import GONE, Attached, HostIdentities
from mic.azure.reading import read_hosts
from mic.decisions.assignments import misconfigured
from mic.decisions.policy import Policy
from mic.preview.dry_run import DryRun, Snapshot
from mic.preview.outcome import AzureReads, preview
from mic.preview.schema import LeftOut, Preview
from mic.preview.survey import survey_by
from mic.preview.text import HOSTS_MOST, OBJECTS_MOST, lines
from mic.startup.settings import parse
from podidctl.commands.plan import show
from podidctl.report.text import Output
from podidentity.azure.errors import AzureError, Refused, Throttled, Unreachable
from podidentity.azure.resource_ids import Host, VirtualMachine
from podidentity.kube.errors import ApiError, Forbidden, NoResponse, NotFound, Unauthorized, api_error_advice
from podidentity.resources import AzureAssignedIdentity, Node
from tests.support.memory_api import MemoryApi
from tests.support.mic.emulated_cloud import BINDINGS, IDENTITIES, StoredObjects
from tests.support.objects import assigned, binding, identity, identity_id, node, pod, set_id, set_node, vm_id

SETTINGS = {"": parse(["--plan"], {}), "default": parse(["--plan"], {"MIC_POD_NAMESPACE": "default"})}
UNREAD = "the record of the type upgrade cannot be read"


def vm(number: int, subscription: str = "sub") -> VirtualMachine:
    return VirtualMachine(vm_id(f"n{number}").replace("/sub/", f"/{subscription}/"), subscription, "rg", f"n{number}")


MANY = [vm(number) for number in range(50)]


class Azure:
    """Answers every host alike, but for those in `failures`."""

    def __init__(self, failures: dict[str, AzureError] | None = None, *, otherwise: AzureError | None = None) -> None:
        self.failures = failures or {}
        self.otherwise = otherwise
        self.reads: list[str] = []
        self.most = self.now = 0

    async def get(self, host: Host) -> HostIdentities:
        self.reads.append(host.key)
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
    assert await read_hosts(azure, MANY, parallel=4) == {host.key: HostIdentities() for host in MANY}
    assert len(azure.reads) == 50
    assert azure.most == 4


@pytest.mark.parametrize("bad", [AzureError("broken", status=500), Refused("no role", status=403)])
async def test_a_failed_read_does_not_suppress_the_results_of_other_hosts(bad: AzureError) -> None:
    azure = Azure({vm(1).key: bad})
    responses = await read_hosts(azure, MANY[:3], parallel=1)
    assert responses == {vm(0).key: HostIdentities(), vm(1).key: bad, vm(2).key: HostIdentities()}


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
    responses = await read_hosts(azure, MANY, parallel=2)
    assert len(azure.reads) <= most
    assert len(responses) == 50
    assert all(isinstance(response, type(error)) for response in responses.values())


async def test_a_throttled_subscription_gets_no_more_reads_and_others_do() -> None:
    error = Throttled("slow down", status=429, retry_after=30.0)
    azure = Azure({vm(0).key: error})
    responses = await read_hosts(azure, [vm(0), vm(1), vm(2, "other")], parallel=1)
    assert responses == {vm(0).key: error, vm(1).key: error, vm(2, "other").key: HostIdentities()}
    assert azure.reads == [vm(0).key, vm(2, "other").key]


async def test_if_one_host_responds_the_silent_ones_are_still_read() -> None:
    azure = Azure({host.key: Unreachable("no answer") for host in MANY[1:]})
    await read_hosts(azure, MANY, parallel=4)
    assert len(azure.reads) == 50


@pytest.mark.parametrize(
    ("error", "cause", "advice"),
    [
        (Unauthorized(401, "Unauthorized", "no"), "rejects the credentials (401", "check those in --kubeconfig"),
        (Forbidden(403, "Forbidden", "cannot list pods"), "cannot list pods", "grant get and list"),
        (NotFound(404, "NotFound", "no such path"), "lacks a kind of aad-pod-identity", "install deploy/crds"),
        (NoResponse("no response from https://a"), "no response from https://a", "that the API server runs"),
        (ApiError(500, "InternalError", "broken"), "the API server failed: 500 InternalError: broken", "try again"),
    ],
)
def test_an_error_of_the_api_server_is_one_line_with_cause_and_advice(error: ApiError, cause: str, advice: str) -> None:
    line = api_error_advice(error)
    assert cause in line
    assert advice in line
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
    recorded: str, readable: bool, namespace: str, created: int
) -> None:
    """Without MIC's namespace, the ConfigMap of any namespace is a record."""
    api = MemoryApi()
    cluster = StoredObjects(api)
    cluster.create(IDENTITIES, "demo", {"type": 0, "ResourceID": identity_id("demo")})
    cluster.create(BINDINGS, "demo", {"AzureIdentity": "demo", "Selector": "demo"})
    cluster.node("n0")
    cluster.pod("web", "n0")
    api.store.create("namespaces", {"metadata": {"name": "team"}})
    if recorded:
        record = {"name": "aad-pod-identity-config", "namespace": recorded}
        api.store.create("configmaps", {"metadata": record, "data": {"type-upgrade-status": "v1.8.17"}})
    if not readable:
        api.refuse(403, "Forbidden", what="configmaps")
    async with api.client("test") as client:
        preview = await survey_by(client, SETTINGS[namespace], ask_azure=False)
    assert preview.summary.objects["create"] == created
    assert preview.upgrade_unknown is not readable
    assert any(UNREAD in line for line in lines(preview)) is not readable
    assert any("Azure was not read" in line for line in lines(preview))
    if namespace:
        assert {request.path for request in api.requests if "configmaps" in request.path} == {
            f"/api/v1/namespaces/{namespace}/configmaps/aad-pod-identity-config"
        }
    settings = msgspec.structs.replace(SETTINGS[namespace], read_old_field_names=True)
    async with api.client("test") as client:
        old_fields_read = await survey_by(client, settings, ask_azure=False)
    assert old_fields_read.summary.objects["create"] == 1


VM = vm_id("n0").lower()


def on(*names: str, type_: str = "UserAssigned") -> HostIdentities:
    attached = {identity_id(name).lower(): Attached(identity_id(name), f"client-{name}") for name in names}
    return HostIdentities(type=type_, attached=attached)


def preview_of(
    snapshot: Snapshot,
    responses: dict[str, HostIdentities | AzureError] | None,
    policy: Policy | None = None,
    *,
    own: str = "",
) -> Preview:
    dry_run = DryRun(snapshot, policy or Policy())
    return preview(snapshot, dry_run, AzureReads(responses=responses, own_identity=own), {})


def text(preview: Preview, *, everything: bool = False) -> list[str]:
    return list(lines(preview, everything=everything))


STORED = assigned(pod(), identity(), binding())
"""The object of a pod that has its identity."""


def of(*pods: str, stored: AzureAssignedIdentity | None = STORED, **parts: Any) -> Snapshot:
    """Return a cluster with these pods and one object; *parts* replace others of Snapshot."""
    usual: dict[str, Any] = {
        "pods": tuple(pod(name) for name in pods),
        "nodes": (node(),),
        "identities": (identity(),),
        "bindings": (binding(),),
        "assigned": (stored,) if stored is not None else (),
    }
    return Snapshot(**(usual | parts))


def on_nodes(count: int) -> Snapshot:
    """Return a cluster with a pod on each of its nodes."""
    names = [f"n{number}" for number in range(count)]
    return of(pods=tuple(pod(f"p-{name}", node=name) for name in names), nodes=tuple(map(node, names)), stored=None)


def test_without_findings_only_numbers_are_printed() -> None:
    plan = preview_of(of("web"), {VM: on("demo")})
    assert text(plan) == [
        "Changes that MIC would make; no change was made.",
        "  Nothing to do.",
        "  pods that a binding selects: 1 of 1 need no change",
    ]
    assert text(plan, everything=True)[-2:] == [f"{vm_id('n0')} (1 node)", "    1 object is in sync"]


def test_while_azure_does_not_respond_the_plan_does_not_claim_that_nothing_is_to_do() -> None:
    output = text(preview_of(of("web"), {VM: Unreachable("no response")}))
    assert output[1] == "  Nothing to do, as far as is known."


def test_an_unneeded_assignment_is_revoked_and_its_identity_detached() -> None:
    output = text(preview_of(of(), {VM: on("demo", type_="SystemAssigned, UserAssigned")}))
    assert output[1:3] == [
        "  AzureAssignedIdentities: 1 to revoke and remove",
        "  Azure: 1 update, on 1 of 1 VM or scale set; 0 identities to attach, 1 to detach",
    ]
    assert output[5:] == [
        f"{vm_id('n0')} (1 node)",
        "  ~ type SystemAssigned, UserAssigned → SystemAssigned",
        f"  - identity {identity_id('demo')}",
        "  - remove default/web-default-demo: pod default/web on n0, identity default/demo: revoked, then removed",
    ]


@pytest.mark.parametrize(
    ("policy", "own", "reason"),
    [
        (Policy(frozenset({"client-demo"})), "", "--immutable-user-msis names it"),
        (Policy(frozenset({"client-demo"})), "CLIENT-demo", "it is the cluster's own identity"),
        (Policy(frozenset({identity_id("demo").lower()})), identity_id("demo"), "it is the cluster's own identity"),
    ],
)
def test_an_immutable_identity_stays_attached_and_is_listed(policy: Policy, own: str, reason: str) -> None:
    output = text(preview_of(of(), {VM: on("demo")}, policy, own=own))
    assert f"  = identity {identity_id('demo')} stays: {reason}" in output
    assert "  AzureAssignedIdentities: 1 to revoke and remove" in output


def test_an_identity_attached_before_mic_stays_attached_and_is_listed() -> None:
    foreign = assigned(pod(), identity(), binding(), attached_by="foreign")
    output = text(preview_of(of(stored=foreign), {VM: on("demo")}))
    assert any("stays: it was on the host before MIC" in line for line in output)
    adopted = text(preview_of(of(stored=foreign), {VM: on("demo")}, Policy(adopt_existing=True)))
    assert f"  - identity {identity_id('demo')}" in adopted


def test_an_identity_missing_on_its_host_is_attached_without_a_change_of_the_object() -> None:
    output = text(preview_of(of("web"), {VM: on()}))
    assert f"  + identity {identity_id('demo')}" in output
    assert "  AzureAssignedIdentities: no change" in output


def test_an_update_in_place_names_the_difference() -> None:
    moved = of(pods=(pod(node="s0", uid="another"),), nodes=(node(), set_node("s0", 0)))
    output = text(preview_of(moved, {VM: on("demo"), set_id().lower(): on(type_="None")}))
    assert "  AzureAssignedIdentities: 1 to update in place, 1 to annotate" in output
    assert any(line.endswith("Assigned (node n0 → s0; another pod of that name)") for line in output)
    assert f"  - identity {identity_id('demo')}" in output


def test_of_many_objects_the_first_are_listed_and_the_others_counted() -> None:
    names = [f"p{number:03}" for number in range(OBJECTS_MOST + 5)]
    snapshot = of(*names, stored=None)
    few = text(preview_of(snapshot, {VM: on()}))
    assert sum("+ create" in line for line in few) == OBJECTS_MOST
    assert "    … and 5 more to create (--plan-all lists them)" in few
    every = text(preview_of(snapshot, {VM: on()}), everything=True)
    assert sum("+ create" in line for line in every) == len(names)


def test_of_many_hosts_the_first_are_listed_and_the_others_counted() -> None:
    count = HOSTS_MOST + 3
    plan = preview_of(on_nodes(count), {vm_id(f"n{number}").lower(): on(type_="None") for number in range(count)})
    few = text(plan)
    assert sum(line.startswith("/subscriptions/") for line in few) == HOSTS_MOST
    assert few[-1] == "… and 3 more VMs and scale sets (--plan-all lists them)"
    assert sum(line.startswith("/subscriptions/") for line in text(plan, everything=True)) == count


def test_hosts_without_a_response_are_grouped_by_reason() -> None:
    responses: dict[str, HostIdentities | AzureError] = {
        vm_id(f"n{number}").lower(): Refused("no role", status=403, code="AuthorizationFailed") for number in range(5)
    }
    responses[vm_id("n5").lower()] = Unreachable("no answer")
    plan = preview_of(on_nodes(6), responses)
    output = [line for line in text(plan) if "did not answer for" in line]
    assert len(output) == 2
    assert (
        f"{vm_id('n2')} and 2 more: check MIC's credentials in the cloud config, and its role there: 403" in output[0]
    )
    assert output[1] == f"  Azure did not answer for {vm_id('n5')}: no answer"
    assert [host.host for host in plan.unread_hosts] == [vm_id(f"n{number}") for number in range(6)]


def test_pods_on_a_host_that_azure_lacks_wait_and_nothing_is_to_do() -> None:
    plan = preview_of(of("web", stored=None), {VM: GONE})
    assert any("waits: pod default/web, identity default/demo: Azure has no" in line for line in text(plan))
    assert not plan.changes


def test_objects_that_mic_cannot_process_are_listed_with_the_reason() -> None:
    snapshot = Snapshot(
        pods=(pod("a"), pod("b", node="bare"), pod("c", node="gone"), pod("d", label="bad"), pod("e", label="none")),
        nodes=(node(), Node(metadata=node("bare").metadata), node("kind", "kind://x")),
        identities=(identity(), identity("bad", resource_id="/wrong")),
        bindings=(
            binding(),
            binding("bad", identity="bad", selector="bad"),
            binding("none", identity="none", selector="none"),
        ),
    )
    output = text(preview_of(snapshot, {VM: on()}))
    assert output[output.index("ignored until they are corrected:") + 1 :] == [
        f"  AzureIdentity default/bad (1 pod): {misconfigured(snapshot.identities[1])}",
        "  AzureIdentityBinding default/none (1 pod): there is no AzureIdentity default/none",
        "  Node bare (1 pod): it has no providerID, so its VM or scale set is not known",
        "  Node gone (1 pod): the cluster has no such node, so nothing is assigned to its pods",
    ]


def test_azures_refusal_of_an_identity_is_printed_with_the_waiting_object() -> None:
    refused = assigned(pod(), identity(), binding(), status="Created", message="grant it the role client_secret=hush")
    output = text(preview_of(of("web", stored=refused), {VM: on()}))
    (line,) = [entry for entry in output if "assign default/web-default-demo" in entry]
    assert line.endswith("Created → Assigned (until now: grant it the role client_secret=<redacted>)")


def test_assignments_of_the_go_implementation_require_no_change() -> None:
    """Objects without any annotation of ours, as the Go implementation leaves them."""
    bare = msgspec.structs.replace(STORED, metadata=msgspec.structs.replace(STORED.metadata, annotations=None))
    plan = preview_of(of("web", stored=bare), {VM: on("demo")})
    assert not plan.changes
    assert plan.summary.pods_as_they_should_be == 1


def test_text_of_an_objects_author_cannot_control_the_terminal_in_lines_or_tables() -> None:
    evil = "\x1b]0;owned\x07[bold]x[/bold]\\[x]\u202e"
    named = preview_of(of("web"), {VM: Refused(evil, status=403)})
    left_out = [LeftOut(kind="AzureIdentityBinding", name=f"default/{evil}", why=evil, pods=1)]
    shown = msgspec.structs.replace(named, left_out=left_out)
    console = Console(file=io.StringIO(), width=400, color_system=None)
    show(shown, Output.TABLE, console, everything=True)
    assert isinstance(console.file, io.StringIO)
    for line in (*text(shown), *console.file.getvalue().split("\n")):
        assert line.isprintable()
    assert console.file.getvalue().count(r"[bold]x[/bold]\[x]") == 4
