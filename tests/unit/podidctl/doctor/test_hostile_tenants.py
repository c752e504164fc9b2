"""A tenant's objects can make no check wrong about others, slow, or unreadable."""

import io
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from podidctl.checks.bindings import check_selectors
from podidctl.evaluation.cluster import ClusterCase
from podidctl.evaluation.needs import served_pairs
from podidctl.facts.kinds import PLACED_NODES
from podidctl.facts.model import Facts, ReadFailure
from podidctl.report.documents import Report, check_result
from podidctl.report.finding import Finding, Level
from podidctl.report.findings_table import FINDINGS_MAX, shortened, show
from podidentity.kube.decoding import Malformed, decode_object
from podidentity.report import TEXT_MAX
from podidentity.resources import (
    ASSIGNED_IDENTITIES,
    BINDINGS,
    EXCEPTIONS,
    IDENTITIES,
    PODS,
    AzureIdentityBinding,
    Kind,
)
from tests.support.nmi_objects import binding, identity, pod
from tests.support.podidctl.doctor_inputs import bad, cluster_case, examined, mic, nmi, objects
from tests.support.work import Work


def text_of(report: Report) -> str:
    output = io.StringIO()
    show(report, Console(width=200, file=output))
    return output.getvalue()


def test_pods_that_are_only_labelled_like_nmi_or_mic_are_not_reported_as_such() -> None:
    (line,) = [finding for finding in examined(nmi=(nmi(host_network=False),)).findings if finding.check == "NMI"]
    assert line.level is Level.PROBLEM
    assert "none of them in the node's network or with files of the node: kube-system/nmi-1" in line.says
    (line,) = [finding for finding in examined(mic=(mic(namespace="tenant"),)).findings if finding.check == "MIC"]
    assert line.level is Level.WARNING
    assert "tenant/mic-1" in line.says
    elsewhere = examined(nmi=(nmi("--MICNamespace=mic-system"),), mic=(mic(namespace="mic-system"),))
    assert bad(elsewhere) == []


def broken(name: str, namespace: str) -> AzureIdentityBinding:
    return binding(name, namespace=namespace, identity_name="absent")


def test_broken_objects_of_one_namespace_do_not_hide_those_of_others() -> None:
    many = tuple(broken(f"b{number:04}", "aaa") for number in range(1000))
    report = examined(objects=objects(bindings=(binding(), *many, broken("mine", "shop"))))
    text = text_of(report)
    assert "AzureIdentityBinding shop/mine" in text
    assert text.count("AzureIdentityBinding aaa/") < 3 * FINDINGS_MAX
    assert f"unusable: {1001 - FINDINGS_MAX} more; -o json has all of them" in text
    assert len([finding for finding in report.findings if finding.check == "unusable"]) == 1001


def test_problems_are_printed_before_other_findings_of_their_check() -> None:
    warnings = [check_result(Finding("selectors", Level.WARNING, f"w{number}", "do")) for number in range(FINDINGS_MAX)]
    problem = check_result(Finding("selectors", Level.PROBLEM, "p", "do"))
    other = check_result(Finding("MIC", Level.OK, "ready"))
    shown, omitted = shortened([*warnings, problem, other])
    assert shown == [*warnings[: FINDINGS_MAX - 1], problem, other]
    assert omitted == {"selectors": 1}


def namespaced(there: Facts) -> ClusterCase:
    """The case in which bindings serve their own namespace only."""
    return cluster_case(objects=there, nmi=(nmi("--forceNamespaced"),))


def work_with(check: Callable[[Facts], object], number: int) -> int:
    """Return the bytecodes of *check* with so many pods, and as many bindings and identities of another tenant."""
    there = objects(
        pods=tuple(pod(f"web-{index}", uid=f"u{index}") for index in range(number)),
        bindings=tuple(binding(f"b{index}", namespace="tenant") for index in range(number)),
        identities=(identity(), *(identity(f"id{index}", namespace="tenant", type_=3) for index in range(number))),
    )
    with Work() as work:
        check(there)
    return work.bytecodes


@pytest.mark.parametrize(
    "check", [lambda there: list(check_selectors(namespaced(there))), served_pairs], ids=["selectors", "served-pairs"]
)
def test_bindings_of_another_tenant_cost_work_in_proportion_to_their_number(
    check: Callable[[Facts], object],
) -> None:
    assert work_with(check, 400) < 3 * work_with(check, 200), "a loop over all pairs takes four times as much"


TEXT = st.text(max_size=30) | st.sampled_from(["web", "ns", "id", "\x1b[2J", "\u202e", "[bold]", "a\nb", "x" * 2000])
VALUES = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXT
NESTED = st.recursive(VALUES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3))
FIELDS = {
    IDENTITIES: ("type", "resourceID", "clientID", "tenantID", "adEndpoint", "adResourceID", "auxiliaryTenantIDs"),
    BINDINGS: ("azureIdentity", "selector", "weight"),
    EXCEPTIONS: ("podLabels",),
    ASSIGNED_IDENTITIES: ("pod", "podNamespace", "nodeName", "azureIdentityRef", "azureBindingRef"),
    PODS: ("nodeName", "hostNetwork", "serviceAccountName"),
    PLACED_NODES: ("providerID",),
}


@st.composite
def anything(draw: st.DrawFn, kind: Kind[Any]) -> Any:
    """Return an object of *kind* with arbitrary content, or None if no program can read it."""
    meta = {
        "name": draw(TEXT),
        "namespace": draw(TEXT),
        "labels": draw(st.just({"aadpodidbinding": "web"}) | st.dictionaries(TEXT, TEXT, max_size=2)),
        "annotations": draw(st.dictionaries(TEXT, TEXT, max_size=2)),
    }
    spec = draw(st.fixed_dictionaries({}, optional=dict.fromkeys(FIELDS[kind], NESTED)))
    document = {"metadata": meta, "spec": spec, "status": {"status": draw(TEXT), "phase": draw(TEXT)}}
    try:
        return decode_object(kind, msgspec.Raw(msgspec.json.encode(document)))
    except Malformed:
        return None


@st.composite
def any_objects(draw: st.DrawFn) -> Facts:
    def several(kind: Kind[Any]) -> tuple[Any, ...]:
        return tuple(item for item in draw(st.lists(anything(kind), max_size=3)) if item is not None)

    return Facts(
        identities=several(IDENTITIES),
        bindings=several(BINDINGS),
        exceptions=several(EXCEPTIONS),
        assigned=several(ASSIGNED_IDENTITIES),
        pods=several(PODS),
        nodes=several(PLACED_NODES),
    )


@given(any_objects())
def test_any_readable_objects_give_printable_findings(there: Facts) -> None:
    report = examined(objects=there)
    for finding in report.findings:
        assert f"{finding.says}{finding.next}".isprintable()
        assert len(finding.says) <= TEXT_MAX
    assert all(line.isprintable() for line in text_of(report).split("\n"))


@pytest.mark.parametrize("check", ["NMI", "flags"])
def test_objects_that_cannot_be_read_are_neither_ok_nor_a_fault(check: str) -> None:
    report = examined(objects=ReadFailure("not allowed: nodes"), mic=(mic(alone=True),))
    levels = {finding.level for finding in report.findings if finding.check == check}
    assert levels == ({Level.UNKNOWN} if check == "NMI" else {Level.OK})
