"""Pods that bindings of another namespace select, and pods with several identities and no client id, are named."""

from typing import Any

import msgspec
import pytest

from podidctl.facts.kinds import Variable, VariableContainer, VariablePod, VariablePodSpec, VariableSource
from podidctl.report.documents import CheckResult
from podidctl.report.finding import Level
from tests.support.nmi_objects import assigned_identity, binding, exception, identity, pod
from tests.support.podidctl.doctor_inputs import bad, examined, mic, nmi, objects

CHECKS = {"other namespaces", "several identities"}
FAR = {
    "bindings": (binding(), binding("a", "far", namespace="far")),
    "identities": (identity(), identity("far", namespace="far", client_id="another")),
    "assigned": (assigned_identity(), assigned_identity("far", namespace="far")),
}
NEAR = {
    "bindings": (binding(), binding("a", "near")),
    "identities": (identity(), identity("near", client_id="another")),
    "assigned": (assigned_identity(), assigned_identity("near")),
}
CHANGED = {
    "bindings": (binding("a0"), binding("a1", "near"), binding("a2")),
    "identities": NEAR["identities"],
    "assigned": (assigned_identity(binding="a2"), assigned_identity("near", binding="a1")),
}
"""The pod got its identities through a1 and a2 before a0 existed."""


def choice_findings(*flags: str, **changes: Any) -> list[CheckResult]:
    report = examined(objects=objects(**changes), nmi=(nmi(*flags),), mic=(mic(*flags),))
    return [finding for finding in report.findings if finding.check in CHECKS]


def test_a_pod_that_gets_a_further_identity_from_another_namespace_is_named() -> None:
    further, several = choice_findings(**FAR)
    assert (further.check, further.level) == ("other namespaces", Level.WARNING)
    assert "further identities to 1 pod: ns/web (far/far)" in further.says
    assert (several.check, several.level) == ("several identities", Level.WARNING)
    assert several.says.endswith("ns/web (ns/id)"), "its own namespace's is the one that it gets"
    pods = (pod(), pod("other", uid="uid-2", namespace="shop", label="shop"))
    bindings = (binding(), binding("a", "far", selector="shop", namespace="far"))
    only = choice_findings(bindings=bindings, identities=FAR["identities"], pods=pods)
    assert [(finding.level, finding.check) for finding in only] == [(Level.OK, "other namespaces")]
    assert "1 pod gets identities of other namespaces only: shop/other (far/far)" in only[0].says


def test_a_pod_with_several_identities_and_no_client_id_is_named_with_the_one_that_it_gets() -> None:
    (several,) = choice_findings(**NEAR)
    assert several.level is Level.WARNING
    assert several.says.startswith("1 pod has several identities")
    assert several.says.endswith("ns/web (ns/near)")
    assert "AZURE_CLIENT_ID" in several.next


def test_the_identity_is_named_that_nmi_grants_which_reads_the_binding_from_the_assigned_identity() -> None:
    (several,) = choice_findings(**CHANGED)
    assert several.says.endswith("ns/web (ns/near)")
    (several,) = choice_findings(**CHANGED, pods=(pod(), pod("new", uid="uid-2")))
    assert several.says.endswith("ns/new (ns/id), ns/web (ns/near)")
    revoked = (assigned_identity(binding="a2", deleting=True), assigned_identity("near", binding="a1"))
    (several,) = choice_findings(**CHANGED | {"assigned": revoked})
    assert several.says.endswith("ns/web (ns/id)")


def test_a_pod_that_sets_its_client_id_has_no_finding_and_one_with_another_variable_has() -> None:
    for name, level in (("AZURE_CLIENT_ID", Level.OK), ("CLIENT", Level.WARNING)):
        second = VariableContainer(env=[Variable(name)])
        assert [
            finding.level for finding in choice_findings(pods=(containing(VariableContainer(), second),), **NEAR)
        ] == [level]
    sidecar = containing(VariableContainer(), init_containers=[VariableContainer(env=[Variable("AZURE_CLIENT_ID")])])
    assert [finding.level for finding in choice_findings(pods=(sidecar,), **NEAR)] == [Level.OK]


def containing(*containers: VariableContainer, **more: Any) -> VariablePod:
    of = pod()
    spec = VariablePodSpec(node_name=of.spec.node_name, containers=list(containers), **more)
    return VariablePod(metadata=of.metadata, spec=spec, status=of.status)


@pytest.mark.parametrize(
    ("prefix", "level"), [("", Level.UNKNOWN), ("AZURE_", Level.UNKNOWN), ("DATABASE_", Level.WARNING)]
)
def test_variables_from_a_config_map_are_unknown_unless_their_prefix_is_another_one(prefix: str, level: Level) -> None:
    (several,) = choice_findings(pods=(containing(VariableContainer(env_from=[VariableSource(prefix)])),), **NEAR)
    assert several.level is level
    assert several.says.endswith("ns/web (ns/near)")
    assert ("ConfigMap or a Secret" in several.says) is (level is Level.UNKNOWN)


def test_bindings_that_do_not_reach_the_pod_are_no_finding() -> None:
    assert [finding.level for finding in choice_findings("--forceNamespaced", **FAR)] == [Level.OK]
    fenced = {**FAR, "identities": (identity(), identity("far", namespace="far", type_=3))}
    assert [finding.level for finding in choice_findings(**fenced)] == [Level.OK]
    exempt = {"pods": (pod(labels={"app": "x"}),), "exceptions": (exception(labels={"app": "x"}),)}
    assert [finding.level for finding in choice_findings(**FAR, **exempt)] == [Level.OK]
    assert [finding.level for finding in choice_findings(**FAR, pods=(pod(host_network=True),))] == [Level.OK]


def test_the_finding_on_many_pods_is_short_and_each_namespace_is_in_it() -> None:
    many = tuple(pod(f"p{number}", uid=f"u{number}", namespace="busy", label="web") for number in range(2000))
    report = examined(objects=objects(**{**FAR, "pods": (*many, pod())}))
    several = next(finding for finding in bad(report) if finding.check == "several identities")
    assert several.says.startswith("2001 pods have several identities")
    assert "ns/web (ns/id)" in several.says
    assert len(several.says) < 500


def test_a_pod_as_the_api_server_sends_it_shows_its_variables() -> None:
    raw: dict[str, Any] = {
        "spec": {"containers": [{"name": "app", "env": [{"name": "AZURE_CLIENT_ID", "value": "x"}]}]}
    }
    raw["spec"]["initContainers"] = [{"name": "init", "envFrom": [{"secretRef": {"name": "x"}}]}]
    read = msgspec.convert(raw, VariablePod)
    assert read.spec.containers == [VariableContainer(env=[Variable("AZURE_CLIENT_ID")])]
    assert read.spec.init_containers == [VariableContainer(env_from=[VariableSource()])]
