"""The Secret of a service principal is a link: missing, without its keys, or unreadable."""

import base64

import msgspec
import pytest

from nmi.tokens.secrets import CredentialError
from podidctl.diagnosis.decision import MANAGEMENT_RESOURCE, Outcome
from podidctl.diagnosis.input import ReadFailure, SecretCheck
from podidctl.diagnosis.secrets import read_secret_checks
from podidctl.explain.schema import LinkState
from podidctl.token.prediction import predict
from podidentity.kube import access
from podidentity.kube.client import Client
from podidentity.resources import AzureIdentity, SecretReference
from podidentity_sandbox.kubeapi.server import Recorded
from podidentity_sandbox.kubeapi.statuses import StatusError
from tests.mic.emulated_cloud import EmulatedCloud
from tests.podidctl.prediction_inputs import explain_pod, facts, labelled, only, rules
from tests.support.nmi_objects import assigned_identity, identity

MISSING = CredentialError("Secret ns/s does not exist: create it", code="secret_missing")


def principal(type_: int = 1) -> AzureIdentity:
    made = identity(type_=type_)
    spec = msgspec.structs.replace(
        made.spec, tenant_id="t", client_password=SecretReference(name="s", namespace="ns"), resource_id=""
    )
    return msgspec.structs.replace(made, spec=spec)


def with_check(check: SecretCheck) -> dict[str, object]:
    owned = labelled(assigned_identity())
    spec = msgspec.structs.replace(owned.spec, azure_identity_ref=principal())
    return {
        "identities": (principal(),),
        "assigned": (msgspec.structs.replace(owned, spec=spec),),
        "secrets": {("ns", "id"): check},
    }


def test_a_missing_secret_is_broken_and_no_token_is_granted() -> None:
    explanation = explain_pod(**with_check(MISSING))
    link = only(explanation)
    assert (link.link, link.about, link.says, link.next) == (
        "secret",
        "ns/s",
        "Secret ns/s does not exist",
        "create it",
    )
    assert (explanation.answer.outcome, explanation.answer.status) == (Outcome.REFUSED, 403)
    report = predict(facts(**with_check(MISSING)), MANAGEMENT_RESOURCE)
    assert (report.outcome, report.status) == (Outcome.REFUSED, 403)


def test_an_unreadable_secret_is_unknown() -> None:
    explanation = explain_pod(**with_check(ReadFailure("you may not get Secret ns/s")))
    (link,) = [each for each in explanation.links if each.link == "secret"]
    assert link.state is LinkState.UNKNOWN
    assert not explanation.broken


def test_a_usable_secret_is_ok() -> None:
    explanation = explain_pod(**with_check(None))
    assert [each.state for each in explanation.links if each.link == "secret"] == [LinkState.OK]
    assert explanation.answer.outcome is Outcome.GRANTED


@pytest.mark.parametrize(
    ("type_", "content", "problem"),
    [
        (1, None, "does not exist"),
        (1, {}, "is empty"),
        (1, {"secret": b""}, "has 0 bytes"),
        (1, {"secret": b"value"}, ""),
        (2, {"secret": b"value"}, "has no key `certificate`"),
        (2, {"certificate": b"value"}, ""),
    ],
)
async def test_presence_and_keys_are_checked_by_nmis_own_reader(
    cloud: EmulatedCloud, type_: int, content: dict[str, bytes] | None, problem: str
) -> None:
    if content is not None:
        data = {name: base64.b64encode(value).decode() for name, value in content.items()}
        cloud.api.store.create("namespaces", {"metadata": {"name": "ns"}})
        cloud.api.store.create("secrets", {"metadata": {"name": "s", "namespace": "ns"}, "data": data})
    found = (await _checks(cloud, principal(type_)))["ns", "id"]
    assert problem in str(found)
    assert (found is None) is not bool(problem)


async def test_a_caller_without_permission_does_not_make_the_secret_broken(cloud: EmulatedCloud) -> None:
    def forbid(request: Recorded) -> StatusError | None:
        return StatusError(403, "Forbidden", "no") if "/secrets/" in request.path else None

    cloud.api.intercept = forbid
    assert (await _checks(cloud, principal()))["ns", "id"] == ReadFailure("you may not get Secret ns/s")


async def _checks(cloud: EmulatedCloud, made: AzureIdentity) -> dict[tuple[str, str], SecretCheck]:
    async with Client(await access.find(str(cloud.folder / "kubeconfig"), {}), user_agent="test") as client:
        return dict(await read_secret_checks(client, rules().settings, [identity(), made]))
