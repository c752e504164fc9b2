"""tests/support/rights.py derives the right that a request needs and reports requests that no role allows."""

import pytest

from podidentity_sandbox.kubeapi.server import Recorded
from tests.support.rights import Calls, Right, audited, missed, needed_right

MIC = "aad-pod-identity-mic/5.0.0"
GROUP = "aadpodidentity.k8s.io"
IDENTITIES = f"/apis/{GROUP}/v1/namespaces/a/azureidentities"
WITHOUT_RESOURCE = ("/version", "/api", "/apis", "/api/v1", f"/apis/{GROUP}/v1", "/openid/v1/jwks")


@pytest.mark.parametrize(
    ("method", "path", "right", "verb", "about"),
    [
        ("GET", "/api/v1/pods?limit=500", "mic: list pods", "list", '{"resource":"pods","name":"n0"}'),
        ("GET", "/api/v1/pods?watch=true", "mic: watch pods", "watch", '{"resource":"pods"}'),
        ("GET", "/api/v1/namespaces/a", "mic: get namespaces by name", "get", '{"resource":"namespaces","name":"a"}'),
        ("POST", "/api/v1/namespaces/a/events", "mic: create events", "create", '{"resource":"events","name":"e"}'),
        ("PATCH", "/api/v1/nodes/n0", "mic: patch nodes by name", "patch", '{"resource":"nodes","name":"n0"}'),
        (
            *("PUT", f"{IDENTITIES}/i", f"mic: update azureidentities.{GROUP} by name"),
            *("update", f'{{"resource":"azureidentities","apiGroup":"{GROUP}","name":"i"}}'),
        ),
        (
            *("DELETE", IDENTITIES, f"mic: deletecollection azureidentities.{GROUP}"),
            *("deletecollection", f'{{"resource":"azureidentities","apiGroup":"{GROUP}"}}'),
        ),
        (
            *("POST", "/api/v1/namespaces/a/serviceaccounts/s/token", "mic: create serviceaccounts/token by name"),
            *("create", '{"resource":"serviceaccounts","name":"s","subresource":"token"}'),
        ),
        *(("GET", path, "None", "get", "null") for path in WITHOUT_RESOURCE),
    ],
)
def test_a_request_and_its_line_of_an_audit_log_require_a_permission(
    method: str, path: str, right: str, verb: str, about: str
) -> None:
    line = f'{{"verb":"{verb}","userAgent":"%s","objectRef":{about}}}'
    assert str(needed_right(Recorded(method, path, MIC))) == str(audited((line % MIC).encode())) == right
    assert needed_right(Recorded(method, path, "kubectl/v1.37.2")) is audited((line % "kubectl/v1").encode()) is None


def test_a_call_that_no_role_allows_is_reported_once_and_another_is_accepted() -> None:
    calls = Calls()
    before = missed(calls.seen())
    calls.note(Recorded("GET", "/api/v1/secrets/", MIC))
    assert [call.partition(" (")[0] for call in calls.refused()] == ["mic: list secrets"]
    calls.note(Recorded("GET", "/api/v1/pods", MIC))
    assert list(calls.refused()) == []
    assert set(before) - set(missed(calls.seen())) == {str(Right("mic", "list", "pods", named=False))}
