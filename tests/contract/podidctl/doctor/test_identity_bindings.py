"""Permissions of AKS identity bindings: those that pods need, and those that NMI and MIC must not have."""

from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from podidctl.checks.permissions import check_daemon_uses
from podidctl.evaluation import needs
from podidctl.evaluation.needs import CHECKED_MAX, BindingUse, binding_uses
from podidctl.facts.kinds import Daemon
from podidctl.facts.model import DaemonUse, DaemonUses, Facts, ReadFailure
from podidctl.facts.settings import readable_configurations
from podidctl.reading import reviews
from podidctl.reading.reviews import read_daemon_uses, read_federated_access
from podidctl.report.finding import Finding, Level
from podidentity.resources import AzureIdentity, Pod
from podidentity_sandbox.kubeapi.server import Recorded
from podidentity_sandbox.kubeapi.statuses import StatusError
from tests.support.nmi.tokens.binding_bench import BindingBench, binding_bench
from tests.support.nmi.tokens.sign_in_bench import NAMESPACE
from tests.support.nmi_objects import CLIENT_ID, binding, pod
from tests.support.podidctl.doctor_inputs import bad, cluster_case, examined, mic, nmi, objects
from tests.support.podidctl.prediction_inputs import federated

RBAC = "rbac.authorization.k8s.io"
BINDS = nmi("--federated-identities", "--federated-exchange=identityBindings")
ANNOTATED = nmi("--federated-identities", "--federated-exchange-annotation")
DIRECT = nmi("--federated-identities")
NMI_ACCOUNT = {"kind": "ServiceAccount", "name": "default", "namespace": "kube-system"}
"""The service account of the pods in `doctor_inputs`."""
OTHER = {"kind": "ServiceAccount", "name": "builder", "namespace": NAMESPACE}
UNKNOWN_ID = "d3a0c11e-0000-4000-8000-000000000001"
CONFIGURATIONS = {id(daemon): readable_configurations([daemon]) for daemon in (BINDS, ANNOTATED, DIRECT)}


@pytest.fixture
async def bound(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[BindingBench]:
    """An API server with RBAC, which lets `builder` use one identity."""

    # The parser of flags reads files, which a command may do in its loop and a test may not.
    def configurations(daemons: Sequence[Daemon]) -> list[Any]:
        return [configuration for daemon in daemons for configuration in CONFIGURATIONS[id(daemon)]]

    for module in (reviews, needs):
        monkeypatch.setattr(module, "readable_configurations", configurations)
    async with binding_bench(tmp_path, loopback=True) as made:
        yield made


def permit(
    bound: BindingBench,
    *subjects: dict[str, str],
    name: str = "team-ids",
    resources: Sequence[str] = (UNKNOWN_ID,),
    groups: Sequence[str] = ("cid.wi.aks.azure.com",),
    verbs: Sequence[str] = ("use-managed-identity",),
    namespace: str = "",
) -> None:
    store = bound.bench.kube.store
    rule = {"verbs": list(verbs), "apiGroups": list(groups), "resources": list(resources)}
    store.create(f"clusterroles.{RBAC}", {"metadata": {"name": f"{name}-role"}, "rules": [rule]})
    meta = {"name": name} | ({"namespace": namespace} if namespace else {})
    reference = {"apiGroup": RBAC, "kind": "ClusterRole", "name": f"{name}-role"}
    kind = "rolebindings" if namespace else "clusterrolebindings"
    store.create(f"{kind}.{RBAC}", {"metadata": meta, "subjects": list(subjects), "roleRef": reference})


def group(name: str) -> dict[str, str]:
    return {"kind": "Group", "name": name, "apiGroup": RBAC}


async def uses(bound: BindingBench, *daemons: Daemon, controllers: Sequence[Daemon] = ()) -> DaemonUses:
    its = objects(identities=(federated(namespace=NAMESPACE, client_id=bound.managed.client_id),))
    facts = replace(its, nmi=daemons or (BINDS,), mic=tuple(controllers))
    return await read_daemon_uses(bound.bench.client, facts)


async def findings(bound: BindingBench, *daemons: Daemon, controllers: Sequence[Daemon] = ()) -> list[Finding]:
    return list(check_daemon_uses(cluster_case(daemon_uses=await uses(bound, *daemons, controllers=controllers))))


async def test_without_the_permission_there_is_no_finding(bound: BindingBench) -> None:
    assert await findings(bound, BINDS, controllers=(mic(namespace="other"),)) == []
    sent: list[Recorded] = []
    bound.bench.kube.intercept = sent.append
    failure = ReadFailure("no")
    assert await read_daemon_uses(bound.bench.client, Facts(nmi=failure, mic=failure)) == DaemonUses()
    assert not sent


async def test_a_binding_of_nmis_service_account_is_named_with_the_command_that_deletes_it(bound: BindingBench) -> None:
    permit(bound, NMI_ACCOUNT)
    (line,) = await findings(bound)
    assert (line.check, line.level) == ("rights", Level.PROBLEM)
    assert line.message == (
        "NMI's own service account kube-system/default may use the identity with client id "
        "d3a0c11e-0000-4000-8000-000000000001 (use-managed-identity), by ClusterRoleBinding team-ids of ClusterRole "
        "team-ids-role: a process with a token of this service account can use it for itself"
    )
    assert line.next == "delete the binding: kubectl delete clusterrolebinding team-ids"


async def test_other_subjects_of_the_binding_keep_it(bound: BindingBench) -> None:
    permit(bound, OTHER, NMI_ACCOUNT)
    (line,) = await findings(bound)
    assert line.next == (
        "remove this service account from the binding's subjects: kubectl edit clusterrolebinding team-ids"
    )


@pytest.mark.parametrize(
    "name", ["system:serviceaccounts", "system:serviceaccounts:kube-system", "system:authenticated"]
)
async def test_a_group_that_includes_the_service_account_is_named(bound: BindingBench, name: str) -> None:
    permit(bound, group(name))
    (line,) = await findings(bound)
    assert f"NMI's own service account kube-system/default, as a member of group {name}, may use" in line.message
    assert f"one by one in place of group {name} (kubectl edit clusterrolebinding team-ids)" in line.next


@pytest.mark.parametrize(
    "subject", [OTHER, group("system:serviceaccounts:team-b"), group("system:nodes"), NMI_ACCOUNT | {"name": "other"}]
)
async def test_subjects_without_the_daemons_are_no_finding(bound: BindingBench, subject: dict[str, str]) -> None:
    permit(bound, subject)
    assert await findings(bound) == []


async def test_mics_service_account_is_checked_too(bound: BindingBench) -> None:
    permit(bound, {"kind": "User", "name": "system:serviceaccount:podid:default"})
    (line,) = await findings(bound, BINDS, controllers=(mic(namespace="podid"),))
    assert line.message.startswith("MIC's own service account podid/default may use the identity")


async def test_all_identities_and_general_roles_are_reported_as_such(bound: BindingBench) -> None:
    permit(bound, NMI_ACCOUNT, resources=["*"], groups=["*"], verbs=["*"])
    (line,) = await findings(bound)
    assert "may use all identities (use-managed-identity)" in line.message
    assert line.next.startswith("NMI needs only the ClusterRole of the chart or the manifests: remove")
    assert "kubectl delete clusterrolebinding team-ids" in line.next


@pytest.mark.parametrize(
    "rule",
    [
        {"verbs": ["get"]},
        {"groups": ["aadpodidentity.k8s.io"]},
        {"groups": ["*"], "verbs": ["*"], "resources": ["pods"]},
        {"namespace": NAMESPACE},
    ],
    ids=["verb", "group", "other-resources", "one-namespace"],
)
async def test_a_rule_without_effect_at_the_token_proxy_is_no_finding(bound: BindingBench, rule: Any) -> None:
    permit(bound, NMI_ACCOUNT, **rule)
    assert await findings(bound) == []


@pytest.mark.parametrize(
    ("daemon", "number"), [(BINDS, 1), (ANNOTATED, 1), (DIRECT, 0)], ids=["bindings", "annotation", "direct"]
)
async def test_only_an_installation_with_identity_bindings_is_checked(
    bound: BindingBench, daemon: Daemon, number: int
) -> None:
    permit(bound, NMI_ACCOUNT)
    assert len(await findings(bound, daemon)) == number


def forbid(bound: BindingBench, *parts: str) -> None:
    def refuse(request: Recorded) -> StatusError | None:
        return StatusError(403, "Forbidden", "no") if any(part in request.path for part in parts) else None

    bound.bench.kube.intercept = refuse


async def test_without_access_reviews_the_bindings_are_checked_and_the_rest_is_unknown(bound: BindingBench) -> None:
    permit(bound, NMI_ACCOUNT)
    forbid(bound, "subjectaccessreviews")
    problem, unknown = await findings(bound)
    assert (problem.level, unknown.level) == (Level.PROBLEM, Level.UNKNOWN)
    assert "could not be reviewed" in unknown.message
    assert "create on subjectaccessreviews of authorization.k8s.io" in unknown.next


async def test_without_the_bindings_the_api_servers_decision_is_reported(bound: BindingBench) -> None:
    permit(bound, NMI_ACCOUNT, resources=[bound.managed.client_id])
    forbid(bound, "clusterrolebindings")
    unknown, problem = await findings(bound)
    assert (unknown.level, problem.level) == (Level.UNKNOWN, Level.PROBLEM)
    assert "list on clusterroles and clusterrolebindings" in unknown.next
    assert "NMI's own service account kube-system/default may use the identity with client id" in problem.message
    assert "the binding that the reason names" in problem.next


async def test_one_run_reviews_a_limited_number_of_identities(bound: BindingBench) -> None:
    client_ids = [f"d3a0c11e-0000-4000-8000-{number:012}" for number in range(CHECKED_MAX + 6)]
    its = objects(identities=tuple(federated(f"i{at}", client_id=client_id) for at, client_id in enumerate(client_ids)))
    sent: list[Recorded] = []
    bound.bench.kube.intercept = sent.append
    uses = await read_daemon_uses(bound.bench.client, replace(its, nmi=(BINDS,)))
    assert sum("subjectaccessreviews" in request.path for request in sent) == CHECKED_MAX
    (line,) = check_daemon_uses(cluster_case(daemon_uses=uses))
    assert (line.level, line.message.partition(" of ")[0]) == (Level.UNKNOWN, "7 more permissions")


def test_doctor_reports_it_and_is_silent_without_it() -> None:
    use = DaemonUse(program="NMI", account="kube-system/nmi", binding="b", role="r")
    (line,) = bad(examined(daemon_uses=DaemonUses((use,))))
    assert line.check == "rights"
    assert bad(examined()) == []


SHOP = BindingUse("ns/shop", CLIENT_ID)


def pairs(*identities: AzureIdentity, account: str = "shop") -> list[tuple[Pod, AzureIdentity]]:
    return [(pod(service_account=account), identity) for identity in identities or (federated(),)]


@pytest.mark.parametrize(
    ("daemons", "uses"),
    [((BINDS,), [SHOP]), ((DIRECT,), []), ((DIRECT, BINDS), [SHOP]), ((nmi(),), []), ((), [])],
    ids=["bindings", "direct", "during-a-rollout", "not-enabled", "no-nmi"],
)
def test_only_an_nmi_with_identity_bindings_needs_the_permission(daemons: tuple[object, ...], uses: object) -> None:
    assert binding_uses(pairs(), daemons) == uses  # type: ignore[arg-type]


def test_two_identities_with_one_client_id_are_one_use() -> None:
    assert binding_uses(pairs(federated(), federated("twin", client_id=CLIENT_ID.upper())), (BINDS,)) == [SHOP]
    assert binding_uses(pairs(account=""), (BINDS,)) == []


def used_by(bound: BindingBench, number: int) -> Facts:
    """The pods of `builder` and of other service accounts, with one identity."""
    names = ["builder", *(f"account-{index}" for index in range(number - 1))]
    return objects(
        nmi=(BINDS,),
        identities=(federated(namespace=NAMESPACE, client_id=bound.managed.client_id),),
        bindings=(binding(namespace=NAMESPACE),),
        assigned=(),
        pods=tuple(pod(name, namespace=NAMESPACE, uid=name, service_account=name) for name in names),
    )


async def test_the_api_server_decides_a_limited_number_of_uses(bound: BindingBench) -> None:
    access = await read_federated_access(bound.bench.client, used_by(bound, 2))
    assert access.unpermitted == {bound.managed.client_id: (f"{NAMESPACE}/account-0",)}
    every = tuple(f"{NAMESPACE}/{name}" for name in ("account-0", "builder"))
    assert access.forbidden == {"kube-system/default": every}
    accounts = access.accounts[NAMESPACE]
    assert isinstance(accounts, frozenset)
    assert accounts & {"builder", "account-0"} == {"builder"}
    rule = {"resources": ["serviceaccounts/token"], "groups": [""], "verbs": ["create"]}
    permit(bound, NMI_ACCOUNT, name="nmi", namespace=NAMESPACE, **rule)
    access = await read_federated_access(bound.bench.client, used_by(bound, 2))
    assert access.forbidden == {"kube-system/default": ()}
    assert access.unchecked_uses == 0
    access = await read_federated_access(bound.bench.client, used_by(bound, CHECKED_MAX + 7))
    assert access.unchecked_uses == 7
    assert isinstance(access.unpermitted, dict)
    assert sum(map(len, access.unpermitted.values())) in {CHECKED_MAX - 1, CHECKED_MAX}
