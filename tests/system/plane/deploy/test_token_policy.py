"""The chart's ValidatingAdmissionPolicy for federated identities on the real API server: the tokens that NMI may get.

Each clause refuses a request that is accepted without this clause.
"""

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.support.testplane import up
from tests.system.plane.deploy.token_clients import (
    AUDIENCE,
    BINDING,
    NAMED,
    NMI,
    NODE,
    OPEN,
    OTHER,
    OWN,
    WIDE,
    Bound,
    Caller,
    Minting,
)

pytestmark = pytest.mark.plane

BY_POLICY = "ValidatingAdmissionPolicy 'pod-identity-aad-pod-identity-federated'"
Spec = dict[str, Any]


@pytest.fixture(scope="module")
def minting(plane: up.Plane) -> Iterator[Minting]:
    """The chart's roles and policy, and other roles that give NMI more permissions."""
    made = Minting(plane)
    try:
        made.apply_roles()
        made.grant_more()
        made.apply_policy()
        yield made
    finally:
        made.close()


@pytest.fixture(scope="module")
def callers(minting: Minting) -> dict[str, Caller]:
    """Clients with other tokens of NMI's service account than the one that the kubelet mounts."""
    return {
        "unbound": minting.caller(OWN, NMI, None),
        "pod without node": minting.caller(OWN, NMI, minting.pod(OWN, "waits", NMI, node="")),
        "node without pod": minting.caller(OWN, NMI, minting.node),
    }


@pytest.fixture(scope="module")
def secret(minting: Minting) -> Bound:
    return minting.secret(OPEN, "bound")


@dataclasses.dataclass(frozen=True)
class Wrong:
    """A request that one clause refuses."""

    clause: int
    message: str
    change: Callable[[Spec, Bound], Spec] = lambda right, _: right
    """Function that derives it from NMI's own request, or from an object of another kind."""
    namespace: str = OPEN
    account: str = "web"
    caller: str = ""
    """The client, if it is not NMI with its mounted token."""


def without(spec: Spec, *names: str) -> Spec:
    return {name: value for name, value in spec.items() if name not in names}


def unbound_uid(spec: Spec) -> Spec:
    return {**spec, "boundObjectRef": without(spec["boundObjectRef"], "uid")}


WRONG = {
    "a namespace that is not listed": Wrong(0, "not in the chart's value federated.namespaces", namespace=OTHER),
    "a service account that is not": Wrong(0, "a service account that is not in", namespace=WIDE, account="worker"),
    "another audience": Wrong(1, "one audience", lambda right, _: {**right, "audiences": ["api://other"]}),
    "an additional audience": Wrong(
        1, "one audience", lambda right, _: {**right, "audiences": [AUDIENCE, "api://other"]}
    ),
    "the same audience twice": Wrong(1, "one audience", lambda right, _: {**right, "audiences": [AUDIENCE] * 2}),
    "the API server's own audiences": Wrong(1, "one audience", lambda right, _: without(right, "audiences")),
    "a second more": Wrong(2, "exactly 600 seconds", lambda right, _: {**right, "expirationSeconds": 601}),
    "the life that is the default": Wrong(
        2, "exactly 600 seconds", lambda right, _: without(right, "expirationSeconds")
    ),
    "bound to nothing": Wrong(3, "bound to a Pod", lambda right, _: without(right, "boundObjectRef")),
    "bound to a Secret": Wrong(3, "bound to a Pod", lambda right, secret: {**right, "boundObjectRef": secret}),
    "bound to a pod without its uid": Wrong(3, "bound to a Pod", lambda right, _: unbound_uid(right)),
    "by a token bound to a pod that is on no node": Wrong(4, "not bound to a node", caller="pod without node"),
    "by a token bound to a node and no pod": Wrong(5, "not bound to a pod", caller="node without pod"),
}


@pytest.mark.parametrize("wrong", WRONG.values(), ids=WRONG)
def test_requests_that_nmi_never_sends_are_refused_and_similar_valid_ones_are_not(
    minting: Minting, callers: dict[str, Caller], secret: Bound, wrong: Wrong
) -> None:
    caller = callers[wrong.caller] if wrong.caller else minting.nmi
    spec = wrong.change(minting.right(wrong.namespace, wrong.account), secret)
    refusal = caller.refusal(wrong.namespace, spec, account=wrong.account)
    assert refusal.startswith("403 ")
    assert BY_POLICY in refusal
    assert refusal.endswith(minting.policy["spec"]["validations"][wrong.clause]["message"])
    assert wrong.message in refusal
    assert minting.nmi.refusal(OPEN, minting.right()) == ""
    assert minting.nmi.refusal(WIDE, minting.right(WIDE)) == ""


@pytest.mark.parametrize("wrong", WRONG.values(), ids=WRONG)
def test_no_other_clause_refuses_it(minting: Minting, callers: dict[str, Caller], secret: Bound, wrong: Wrong) -> None:
    caller = callers[wrong.caller] if wrong.caller else minting.nmi
    spec = wrong.change(minting.right(wrong.namespace, wrong.account), secret)
    less = minting.policy
    del less["spec"]["validations"][wrong.clause]
    with minting.changed(less):
        minting.until_given(caller, wrong.namespace, spec, wrong.account)
    minting.until_refused(caller, wrong.namespace, spec, wrong.account)


@pytest.mark.parametrize(
    ("values", "given", "refused"),
    [
        ({"exchange": "identityBindings"}, [[BINDING]], [[AUDIENCE], [AUDIENCE, BINDING]]),
        ({"exchangeAnnotation": True}, [[AUDIENCE], [BINDING]], [[AUDIENCE, BINDING], ["api://other"]]),
    ],
    ids=["identity bindings", "by annotation"],
)
def test_the_audience_follows_the_exchange(
    minting: Minting, values: Spec, given: list[list[str]], refused: list[list[str]]
) -> None:
    """The installation's own policy refuses tokens for identity bindings, as `WRONG` shows for any other audience."""
    with minting.changed(minting.policy_of(**values)):
        for audiences in given:
            minting.until_given(minting.nmi, OPEN, {**minting.right(), "audiences": audiences})
        for audiences in refused:
            minting.until_refused(minting.nmi, OPEN, {**minting.right(), "audiences": audiences})
    minting.until_given(minting.nmi, OPEN, minting.right())
    minting.until_refused(minting.nmi, OPEN, {**minting.right(), "audiences": [BINDING]})


def test_every_clause_has_a_case(minting: Minting) -> None:
    assert {wrong.clause for wrong in WRONG.values()} == set(range(len(minting.policy["spec"]["validations"])))


# Requests that the API server also refuses without the policy: the policy is evaluated first and must have a result.
ODD: dict[str, Callable[[Spec], Spec]] = {
    "a reference that is empty": lambda _: {},
    "a reference without a kind": lambda pod: without(pod, "kind"),
    "a Pod of no version": lambda pod: without(pod, "apiVersion"),
    "a Pod of another version": lambda pod: {**pod, "apiVersion": "v2"},
    "a Pod without a name": lambda pod: without(pod, "name"),
}


@pytest.mark.parametrize("change", ODD.values(), ids=ODD)
def test_an_odd_request_is_refused_by_a_clause_and_not_by_accident(
    minting: Minting, change: Callable[[Spec], Spec]
) -> None:
    right = minting.right()
    refusal = minting.nmi.refusal(OPEN, {**right, "boundObjectRef": change(right["boundObjectRef"])})
    assert BY_POLICY in refusal
    assert "bound to a Pod" in refusal


def test_an_empty_request_is_refused_by_a_clause_and_not_by_accident(minting: Minting) -> None:
    refusal = minting.nmi.refusal(OPEN, {})
    assert BY_POLICY in refusal
    assert "one audience" in refusal


def test_a_token_that_is_bound_to_nothing_gets_none(minting: Minting, callers: dict[str, Caller]) -> None:
    assert "not bound to a node" in callers["unbound"].refusal(OPEN, minting.right())


def test_requests_that_cannot_be_evaluated_are_refused_for_nmi_only(minting: Minting) -> None:
    broken = minting.policy
    broken["spec"]["validations"].insert(0, {"expression": "object.spec.missing == 1"})
    admin = Caller(minting.plane, minting.plane.token)
    with minting.changed(broken):
        minting.until_refused(minting.nmi, OPEN, minting.right())
        assert "no such key: missing" in minting.nmi.refusal(OPEN, minting.right())
        assert admin.refusal(OPEN, minting.right()) == ""
    admin.api.close()
    minting.until_given(minting.nmi, OPEN, minting.right())


def test_the_policy_applies_to_a_dry_run_too(minting: Minting) -> None:
    assert BY_POLICY in minting.nmi.refusal(OPEN, {**minting.right(), "expirationSeconds": 601}, query="?dryRun=All")


def test_token_requests_of_other_clients_are_not_affected(minting: Minting) -> None:
    minting.grant(OPEN, "ServiceAccount", "worker", namespace=OPEN)
    worker = minting.caller(OPEN, "worker", None)
    minting.until_given(worker, OPEN, {})
    admin = Caller(minting.plane, minting.plane.token)
    for caller in (worker, admin):
        assert caller.refusal(OPEN, {}) == ""
        assert caller.refusal(OPEN, {"audiences": ["a", "b"], "expirationSeconds": 7200}) == ""
    assert admin.refusal(OWN, {}, account=NMI) == ""
    admin.api.close()


def test_a_kubelet_continues_to_mount_tokens(minting: Minting) -> None:
    kubelet = f"system:node:{NODE}"
    minting.grant(OPEN, "User", kubelet)
    reference = [f"--bound-object-{name}={minting.pods[OPEN, 'web'][name]}" for name in ("kind", "name", "uid")]
    who = [f"--as={kubelet}", "--as-group=system:nodes"]
    token = minting.cluster.kubectl("create", "token", "web", f"-n={OPEN}", "--duration=3607s", *reference, *who)
    assert token.count(".") == 2


def impersonated(minting: Minting, *extra: str) -> str:
    """Return the refusal for an administrator who impersonates NMI."""
    pod = minting.pods[OPEN, "web"]
    options = [f"--audience={AUDIENCE}", "--duration=600s", f"--namespace={OPEN}"]
    options += ["--bound-object-kind=Pod", f"--bound-object-name={pod['name']}", f"--bound-object-uid={pod['uid']}"]
    who = [f"--as=system:serviceaccount:{OWN}:{NMI}", *(f"--as-user-extra={value}" for value in extra)]
    return minting.cluster.done("kubectl", "create", "token", "web", *options, *who).stderr


def test_a_user_who_impersonates_nmi_must_forge_its_node_and_pod_too(minting: Minting) -> None:
    """A user who may impersonate these extras passes: docs/security.md states that the policy does not prevent this."""
    node, pod = (f"authentication.kubernetes.io/{part}-name=made-up" for part in ("node", "pod"))
    assert "not bound to a node" in impersonated(minting)
    assert "not bound to a node" in impersonated(minting, pod)
    assert "not bound to a pod" in impersonated(minting, node)
    assert impersonated(minting, node, pod) == ""


# Requests that the policy accepts, and RBAC or the API server itself refuses.


@pytest.mark.parametrize(
    ("namespace", "account", "given"), [(NAMED, "web", True), (NAMED, "worker", False), (OPEN, "worker", True)]
)
def test_rbac_alone_refuses_service_accounts_that_are_not_listed(
    minting: Minting, namespace: str, account: str, given: bool
) -> None:
    refusal = minting.nmi.refusal(namespace, minting.right(namespace, account), account=account)
    if given:
        assert refusal == ""
    else:
        assert "cannot create resource" in refusal
        assert BY_POLICY not in refusal


def test_rbac_alone_refuses_a_namespace_that_is_not_listed(minting: Minting) -> None:
    minting.create(f"/api/v1/namespaces/{OWN}/serviceaccounts", {"metadata": {"name": "web"}})
    pod = minting.pod(OWN, "web", "web")
    refusal = minting.nmi.refusal(OWN, {**minting.right(), "boundObjectRef": pod})
    assert "cannot create resource" in refusal
    assert BY_POLICY not in refusal


def test_a_pods_successor_or_a_pod_of_another_service_account_gets_none_from_the_api_server_itself(
    minting: Minting,
) -> None:
    successor = {**minting.pods[OPEN, "web"], "uid": "00000000-0000-0000-0000-000000000000"}
    assert minting.nmi.refusal(OPEN, {**minting.right(), "boundObjectRef": successor}).startswith("409 ")
    refusal = minting.nmi.refusal(OPEN, minting.right(), account="worker")
    assert "cannot bind token" in refusal
