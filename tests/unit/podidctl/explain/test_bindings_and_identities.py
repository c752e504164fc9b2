"""Links between label and identity: the first broken one is named with the next action."""

from typing import Any

import msgspec
import pytest

from mic.azure.identities import Attached, HostIdentities
from nmi.identity.managed_mode import BINDINGS_MAX
from nmi.tokens.secrets import CredentialError
from podidctl.checks.bindings import BY_MIC, correct
from podidctl.checks.explanation import explain
from podidctl.commands.token import predict
from podidctl.evaluation.pod import assignments_of
from podidctl.facts.kinds import Variable, VariableContainer, VariablePod, VariablePodSpec
from podidctl.report.documents import Link, LinkState, LoggedDecision, Outcome
from podidentity.kube.ignored_fields import REMEDY
from podidentity.resources import CREATED, AzureIdentity, AzureIdentityBinding, AzureIdentitySpec, SecretReference
from tests.support.nmi_objects import (
    CLIENT_ID,
    NODE,
    OTHER_ID,
    RESOURCE,
    assigned_identity,
    binding,
    exception,
    identity,
    pod,
    resource_id,
)
from tests.support.podidctl.prediction_inputs import broken, explain_pod, facts, labelled, only, rules, states
from tests.support.work import Work

NAMESPACED = {"aadpodidentity.k8s.io/Behavior": "namespaced"}


def test_a_missing_label_and_a_similar_selector_are_reported() -> None:
    explanation = explain_pod(pod=pod(label=None), assigned=())
    assert only(explanation).link == "label"
    assert (explanation.answer.outcome, explanation.answer.status) == (Outcome.REFUSED, 400)
    explanation = explain_pod(bindings=(binding(selector="Web"), binding("far", selector="payments")), assigned=())
    link = only(explanation)
    assert link.link == "binding"
    assert "ns/b selects 'Web'" in link.next
    assert "far" not in link.next
    assert (explanation.answer.outcome, explanation.answer.status) == (Outcome.WAITS, 404)


def test_an_identity_that_is_missing_malformed_or_not_named_is_reported() -> None:
    explanation = explain_pod(identities=(identity(namespace="elsewhere"),), assigned=())
    link = only(explanation)
    assert (link.link, link.about) == ("identity", "ns/id")
    assert "one of that name exists in elsewhere" in link.says
    spec = AzureIdentitySpec(type=0, resource_id="/subscriptions/s/typo")
    explanation = explain_pod(identities=(msgspec.structs.replace(identity(), spec=spec),), assigned=())
    assert "'/subscriptions/s/typo'" in only(explanation).says
    link = only(explain_pod(assigned=(), bindings=(binding(identity_name=""),)))
    assert link.next == "set spec.azureIdentity of binding ns/b"


def test_an_identity_of_another_namespace_counts_unless_namespaces_are_enforced() -> None:
    far = {"bindings": (binding(namespace="far"),), "identities": (identity(namespace="far"),)}
    serves = labelled(assigned_identity(namespace="far"))
    assert broken(explain_pod(**far, assigned=(serves,))) == []
    forced = explain_pod(**far, assigned=(), configuration=rules(force_namespaced=True))
    assert "--forceNamespaced" in only(forced).says
    annotated = {"aadpodidentity.k8s.io/Behavior": "namespaced"}
    own = explain_pod(
        bindings=far["bindings"], identities=(identity(namespace="far", annotations=annotated),), assigned=()
    )
    assert "annotation" in only(own).says
    explanation = explain_pod(
        configuration=rules(managed=True), bindings=(binding(namespace="far"),), identities=(identity(namespace="far"),)
    )
    assert "of namespace ns (managed mode)" in only(explanation).says
    explanation = explain_pod(configuration=rules(managed=True), bindings=(binding(deleting=True),))
    assert [link.link for link in broken(explanation)] == ["binding", "served"]


def test_in_managed_mode_the_first_bindings_by_name_count_up_to_nmis_limit() -> None:
    names = [f"b{number:03}" for number in range(BINDINGS_MAX + 1)]
    bindings = [binding(name, name) for name in reversed(names)]
    settings = rules(managed=True).settings
    given = assignments_of(settings, pod(), (), bindings, [identity(name) for name in names])
    assert [assignment.binding for assignment in given] == names[:-1]


def test_an_identity_of_two_bindings_is_printed_once() -> None:
    links = states(explain_pod(bindings=(binding(), binding("twin"))))
    assert [links.count((name, "ok")) for name in ("binding", "identity", "assigned identity")] == [2, 1, 1]
    explanation = explain_pod(bindings=(binding(), binding("c", "missing")))
    assert explanation.answer.outcome is Outcome.GRANTED
    assert (only(explanation).link, only(explanation).about) == ("identity", "ns/missing")
    assert states(explanation).count(("identity", "ok")) == 1


@pytest.mark.parametrize("how", ["flag", "annotation"])
def test_a_binding_of_another_team_for_the_same_label_is_no_fault_if_the_pod_is_served(how: str) -> None:
    annotations = NAMESPACED if how == "annotation" else None
    explanation = explain_pod(
        configuration=rules(force_namespaced=how == "flag"),
        bindings=(binding(), binding(namespace="far")),
        identities=(identity(), identity(namespace="far", annotations=annotations)),
    )
    assert broken(explanation) == []
    (link,) = [link for link in explanation.links if link.about == "far/b"]
    assert (link.link, link.state) == ("binding", LinkState.OK)
    assert "it does not serve this namespace" in link.says


def test_a_binding_of_another_team_is_not_the_reason_if_the_pods_own_is_broken() -> None:
    explanation = explain_pod(
        configuration=rules(force_namespaced=True),
        bindings=(binding(), binding(namespace="far")),
        identities=(identity(namespace="far"),),
        assigned=(),
    )
    assert only(explanation).about == "ns/id"


MALFORMED = msgspec.structs.replace(identity("bad", namespace="far"), spec=AzureIdentitySpec(type=0, resource_id="/x"))
NAMES_ITS_IDENTITY = VariablePod(
    metadata=pod().metadata,
    spec=VariablePodSpec(node_name=NODE, containers=[VariableContainer(env=[Variable("AZURE_CLIENT_ID")])]),
    status=pod().status,
)
PRINCIPAL = AzureIdentitySpec(
    type=1, tenant_id="t", client_id="c", client_password=SecretReference(name="s", namespace="far")
)
ATTACHED = Attached(resource_id("id"), CLIENT_ID)
ON_HOST = {"azure": HostIdentities(attached={resource_id("id").lower(): ATTACHED})}
FAULTY = {
    "missing": (binding(namespace="far", identity_name="nothing"),),
    "unnamed": (binding(namespace="far", identity_name=""),),
    "malformed": (binding(namespace="far", identity_name="bad"),),
    "unassigned": (binding(namespace="far", identity_name="other"),),
}


@pytest.mark.parametrize("foreign", FAULTY.values(), ids=FAULTY)
@pytest.mark.parametrize("bindings", [(binding(),), ()], ids=["own", "assigned-only"])
def test_a_faulty_binding_of_another_namespace_is_no_fault_of_a_granted_pod(
    foreign: tuple[AzureIdentityBinding, ...], bindings: tuple[AzureIdentityBinding, ...]
) -> None:
    identities = (identity(), MALFORMED, identity("other", namespace="far"))
    explanation = explain_pod(bindings=(*foreign, *bindings), identities=identities)
    assert broken(explanation) == []
    assert explanation.answer.outcome is Outcome.GRANTED
    assert "create" not in "".join(link.next for link in explanation.links)
    assert any("the pod does not depend on it: " in link.says for link in explanation.links)


@pytest.mark.parametrize(
    ("foreign", "state"),
    [
        (
            msgspec.structs.replace(identity("other", namespace="far"), spec=PRINCIPAL),
            {"secrets": {("far", "other"): CredentialError("Secret far/s does not exist: create it", code="x")}},
        ),
        (identity("other", namespace="far"), ON_HOST),
        (
            msgspec.structs.replace(
                identity("other", namespace="far"),
                spec=AzureIdentitySpec(type=0, resource_id=resource_id("id"), client_id=OTHER_ID),
            ),
            ON_HOST,
        ),
    ],
    ids=["without-secret", "not-on-azure", "other-client-id"],
)
@pytest.mark.parametrize("own", [True, False], ids=["own", "foreign-only"])
def test_an_unusable_identity_of_another_namespace_is_a_fault_only_of_a_pod_without_its_own(
    foreign: AzureIdentity, state: dict[str, Any], own: bool
) -> None:
    far = assigned_identity("other", namespace="far")
    embedded = msgspec.structs.replace(far.spec, azure_identity_ref=foreign)
    bindings = (binding("far", "other", namespace="far"), *([binding()] if own else ()))
    usual: dict[str, Any] = {
        "bindings": bindings,
        "identities": (foreign, *([identity()] if own else ())),
        "assigned": (
            labelled(msgspec.structs.replace(far, spec=embedded)),
            *([labelled(assigned_identity())] if own else ()),
        ),
        **state,
    }
    explanation = explain_pod(**usual)
    if not own:
        only(explanation)
        return
    assert broken(explanation) == []
    assert any("the pod does not depend on it: " in link.says for link in explanation.links)
    # An application can name the identity in its requests.
    named = explain_pod(**usual, pod=NAMES_ITS_IDENTITY)
    assert broken(named) == []
    (unknown,) = [link for link in named.links if "only requests that name this identity need it: " in link.says]
    assert (unknown.state, bool(unknown.next)) == (LinkState.UNKNOWN, True)
    logged = LoggedDecision(at="01-01 00:00:00", outcome="refused", identity="far/other")
    only(explain_pod(**usual, decisions=(logged,)))


def test_many_bindings_of_another_namespace_cause_no_quadratic_work() -> None:
    """Any tenant can create bindings that select the pods of others."""

    def explained(number: int) -> int:
        names = [f"i{index}" for index in range(number)]
        made = facts(
            bindings=(binding(), *(binding(name, name, namespace="far") for name in names)),
            identities=(identity(), *(identity(name, namespace="far") for name in names)),
            assigned=(
                labelled(assigned_identity()),
                *(labelled(assigned_identity(name, namespace="far")) for name in names),
            ),
        )
        with Work() as work:
            explain(made)
        return work.bytecodes

    few, many = explained(50), explained(200)
    assert many <= 5 * few, "quadratic work would be sixteen times as much"


@pytest.mark.parametrize("foreign", FAULTY.values(), ids=FAULTY)
def test_a_faulty_binding_of_another_namespace_does_not_hide_the_fault_of_the_pods_own(
    foreign: tuple[AzureIdentityBinding, ...],
) -> None:
    identities = (MALFORMED, identity("other", namespace="far"))
    explanation = explain_pod(bindings=(*foreign, binding()), identities=identities, assigned=())
    assert only(explanation).about == "ns/id"


@pytest.mark.parametrize("name", ["missing", "malformed"])
def test_of_several_bindings_of_other_namespaces_the_one_with_an_identity_counts(name: str) -> None:
    usable = binding("z", namespace="zzz")
    identities = (identity(namespace="zzz"), MALFORMED)
    explanation = explain_pod(bindings=(*FAULTY[name], usable), identities=identities, assigned=())
    assert only(explanation).about == "for zzz/id"


def test_the_only_binding_is_a_fault_also_if_it_is_of_another_namespace_but_no_one_creates_its_identity() -> None:
    link = only(explain_pod(bindings=FAULTY["missing"], assigned=()))
    assert link.about == "far/nothing"
    assert link.next == (
        "create an AzureIdentity and its binding in namespace ns, or let the authors of binding far/b correct it"
    )
    link = only(explain_pod(bindings=(binding(),), identities=(), assigned=()))
    assert link.next.startswith("create AzureIdentity id in namespace ns")


def test_in_standard_mode_an_object_being_deleted_still_counts_and_the_revoking_program_is_named() -> None:
    meta = msgspec.structs.replace(binding(deleting=True).metadata, finalizers=["team.example/hold"])
    explanation = explain_pod(
        bindings=(msgspec.structs.replace(binding(), metadata=meta),), identities=(identity(deleting=True),)
    )
    assert explanation.answer.outcome is Outcome.GRANTED
    assert broken(explanation) == []
    says = {link.link: link.says for link in explanation.links}
    assert "pods keep its access until the deletion is complete" in says["identity"]
    assert "(team.example/hold)" in says["binding"]


@pytest.mark.parametrize(
    ("spec", "managed", "then"),
    [
        (AzureIdentitySpec(type=1, client_id="c", tenant_id="t"), False, "names no Secret"),
        (
            AzureIdentitySpec(
                type=1, client_id="c", tenant_id="t", client_password=SecretReference(name="s", namespace="far")
            ),
            False,
            "Secret far/s, which was not read",
        ),
        (AzureIdentitySpec(type=7, client_id="c"), True, "correct spec.type of the AzureIdentity"),
        (AzureIdentitySpec(type=0), True, "clientID"),
    ],
    ids=["no-secret", "foreign-secret", "unknown-type", "no-ids"],
)
def test_an_identity_without_a_permitted_endpoint_is_a_broken_link_and_a_refusal(
    spec: AzureIdentitySpec, managed: bool, then: str
) -> None:
    changed = msgspec.structs.replace(identity(), spec=spec)
    standing = assigned_identity()
    embedded = msgspec.structs.replace(standing.spec, azure_identity_ref=changed)
    explanation = explain_pod(
        configuration=rules(managed=managed),
        identities=(changed,),
        assigned=(labelled(msgspec.structs.replace(standing, spec=embedded)),),
    )
    assert (explanation.answer.outcome, explanation.answer.status) == (Outcome.REFUSED, 403)
    assert explanation.answer.identity == "ns/id"
    assert then in only(explanation).next


def test_an_assignment_that_is_missing_unlabelled_or_refused_is_reported() -> None:
    explanation = explain_pod(assigned=())
    assert only(explanation).link == "assigned identity"
    assert "podidctl plan" in explanation.next
    assert explanation.answer.outcome is Outcome.WAITS
    link = only(explain_pod(assigned=(assigned_identity(),)))
    assert "label nodename" in link.says
    message = "MIC may not assign it: grant it the role Managed Identity Operator"
    own = {"aadpodidentity.k8s.io/message": message}
    link = only(explain_pod(assigned=(labelled(assigned_identity(status="Created", own_annotations=own)),)))
    assert message in link.says
    assert link.next == message


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"status": "Created"}, "not attached to the VM or scale set yet"),
        ({"status": "Unassigned"}, "its status is 'Unassigned'"),
        ({"deleting": True}, "it is being deleted and is not served"),
        ({"pod_uid": "uid-0"}, "an earlier pod of this name"),
        ({"selector": "other"}, "selects 'other'"),
        ({"nodename": "node-2"}, "it is for node node-2"),
    ],
)
def test_an_assignment_that_cannot_be_used_states_the_reason(changes: dict[str, Any], says: str) -> None:
    explanation = explain_pod(assigned=(labelled(assigned_identity(**changes)),))
    links = [link for link in explanation.links if link.link == "assigned identity"]
    assert [link.state for link in links] == [LinkState.BROKEN]
    assert says in links[0].says
    assert explanation.answer.outcome is not Outcome.GRANTED


def test_an_assignment_without_a_binding_that_nmi_still_uses_is_reported() -> None:
    explanation = explain_pod(assigned=(labelled(assigned_identity()), labelled(assigned_identity("old"))))
    (link,) = [link for link in explanation.links if link.about == "default/web-ns-old"]
    assert link.state is LinkState.UNKNOWN
    assert "no binding requires it for the pod any more" in link.says


@pytest.mark.parametrize(
    "changes",
    [
        {"deleting": True},
        {"pod_uid": "uid-0"},
        {"selector": "other"},
        {"nodename": "node-2"},
        {"status": "Created"},
        {"namespace": "far", "annotations": {"aadpodidentity.k8s.io/Behavior": "namespaced"}},
    ],
)
def test_an_assignment_without_a_binding_that_nmi_does_not_use_is_ok(changes: dict[str, Any]) -> None:
    explanation = explain_pod(assigned=(labelled(assigned_identity()), labelled(assigned_identity("old", **changes))))
    assert broken(explanation) == []
    (link,) = [link for link in explanation.links if link.about == "default/web-ns-old"]
    assert link.state is LinkState.OK
    assert "no binding requires it" in link.says


def two(namespace: str, *, status: str = "Assigned") -> dict[str, Any]:
    """The pod's identity ns/id, in this *status*, and another one whose binding has the first name."""
    return {
        "bindings": (binding(), binding("a", "any", namespace=namespace)),
        "identities": (identity(), identity("any", namespace=namespace)),
        "assigned": (
            labelled(assigned_identity(binding="b", status=status)),
            labelled(assigned_identity("any", binding="a", namespace=namespace)),
        ),
    }


def links(name: str, **changes: Any) -> list[Link]:
    return [link for link in explain_pod(**changes).links if link.link == name]


def test_the_binding_of_another_namespace_is_named_as_such_and_that_of_its_own_is_not() -> None:
    foreign, own = links("binding", **two("evil"))
    assert (foreign.about, foreign.state) == ("evil/a", LinkState.OK)
    assert "of another namespace" in foreign.says
    assert "of another namespace" not in own.says


def test_the_identity_of_the_pods_namespace_is_the_one_that_a_request_gets() -> None:
    explanation = explain_pod(**two("evil"))
    assert (explanation.answer.outcome, explanation.answer.identity) == (Outcome.GRANTED, "ns/id")
    assert predict(facts(**two("evil")), RESOURCE).identity == "ns/id"
    (choice,) = (link for link in explanation.links if link.link == "choice")
    assert (choice.about, choice.state) == ("evil/any, ns/id", LinkState.UNKNOWN)
    assert choice.says == "a request that names none gets ns/id"
    assert "AZURE_CLIENT_ID" in choice.next


def test_the_choice_is_named_unless_there_is_nothing_to_choose() -> None:
    (choice,) = links("choice", **two("ns"))
    assert choice.says == "a request that names none gets ns/any"
    changes = two("evil", status=CREATED)
    assert explain_pod(**changes).answer.outcome is Outcome.WAITS
    (choice,) = links("choice", **changes)
    assert choice.says == "a request that names none waits until one is assigned"
    (choice,) = links("choice", pod=NAMES_ITS_IDENTITY, **two("ns"))
    assert choice.state is LinkState.OK
    assert links("choice") == []
    assert links("choice", configuration=rules(force_namespaced=True), **two("evil")) == []


def ignored(plural: str, name: str, *fields: str, namespace: str = "ns") -> dict[str, Any]:
    return {"ignored_fields": {(plural, namespace, name): fields}}


def test_a_binding_whose_selector_is_ignored_is_named_with_the_remedy() -> None:
    unselecting = binding(selector="")
    link = only(
        explain_pod(bindings=(unselecting,), assigned=(), **ignored("azureidentitybindings", "b", "spec.Selector"))
    )
    assert link.link == "binding"
    assert f"fields spelled as before v1.6.0 are ignored{BY_MIC}: ns/b (spec.Selector)" in link.says
    assert link.next.endswith(REMEDY)
    bindings = (binding(selector="wbe"), binding("old", selector=""))
    link = only(explain_pod(bindings=bindings, assigned=(), **ignored("azureidentitybindings", "old", "spec.Selector")))
    assert "ns/b selects 'wbe'; " in link.says
    assert f"{BY_MIC}: ns/old (spec.Selector)" in link.says
    assert link.next.startswith("set spec.selector of the binding or the pod's label to the same value: ns/b")
    assert link.next.endswith(correct("the binding that is to select this pod"))


def test_a_binding_or_identity_with_an_ignored_field_is_named_with_the_remedy() -> None:
    there = {"bindings": (binding(identity_name=""),), **ignored("azureidentitybindings", "b", "spec.AzureIdentity")}
    explanation = explain_pod(assigned=(), **there)
    (says,) = [link.says for link in explanation.links if link.link == "binding"]
    assert says.endswith(
        f"it names no AzureIdentity; fields spelled as before v1.6.0 are ignored{BY_MIC}: spec.AzureIdentity"
    )
    link = only(explanation)
    assert (link.link, link.about, link.says) == ("identity", "none", "binding ns/b names no AzureIdentity")
    assert link.next == correct("AzureIdentityBinding ns/b")
    empty = msgspec.structs.replace(identity(), spec=AzureIdentitySpec(type=0))
    link = only(explain_pod(identities=(empty,), assigned=(), **ignored("azureidentities", "id", "spec.ResourceID")))
    assert (link.link, link.about) == ("identity", "ns/id")
    assert f"{BY_MIC}: spec.ResourceID" in link.says
    assert link.next.startswith("correct the fields of AzureIdentity ns/id")
    explanation = explain_pod(**ignored("azureidentities", "id", "spec.ClientID"))
    assert broken(explanation) == []
    (says,) = [link.says for link in explanation.links if link.link == "identity"]
    assert says.endswith(f"{BY_MIC}: spec.ClientID")


def test_a_binding_of_another_namespace_is_named_after_those_of_the_pods_unless_it_cannot_select_it() -> None:
    bindings = (binding(selector="", namespace="default"), binding(selector=""))
    fields = {("azureidentitybindings", binding.metadata.namespace, "b"): ("spec.Selector",) for binding in bindings}
    there = {"bindings": bindings, "assigned": (), "ignored_fields": fields}
    assert f"{BY_MIC}: ns/b (spec.Selector), default/b (spec.Selector)" in only(explain_pod(**there)).says
    for configuration in (rules(managed=True), rules(force_namespaced=True)):
        link = only(explain_pod(configuration=configuration, **there))
        assert link.says.endswith(": ns/b (spec.Selector)")
        assert (BY_MIC in link.says) is (configuration == rules(force_namespaced=True)), (
            "MIC does not run in managed mode"
        )


@pytest.mark.parametrize(
    ("selector", "fields"), [("", ("spec.AzureIdentity",)), ("other", ("spec.Selector",))], ids=["another field", "set"]
)
def test_a_binding_that_the_field_does_not_hinder_is_not_named(selector: str, fields: tuple[str, ...]) -> None:
    there = ignored("azureidentitybindings", "b", *fields)
    link = only(explain_pod(bindings=(binding(selector=selector),), assigned=(), **there))
    assert "ignored" not in link.says


def test_a_pod_without_a_label_may_need_the_exception_whose_labels_are_ignored() -> None:
    there = {"exceptions": (exception(labels=None),), **ignored("azurepodidentityexceptions", "ex", "spec.PodLabels")}
    explanation = explain_pod(pod=pod(label=None), assigned=(), **there)
    (link,) = [link for link in explanation.links if link.link == "exception"]
    assert link.state is LinkState.UNKNOWN
    assert "are ignored: ns/ex (spec.PodLabels)" in link.says
    (link,) = [link for link in explain_pod(**there).links if link.link == "exception"]
    assert (link.state, link.next) == (LinkState.OK, "")
