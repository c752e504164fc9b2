"""tests/support/rights.py derives the right that a request needs and reports requests that no role allows."""

import pytest

from podidentity_sandbox.kubeapi.server import Recorded
from tests.support.rights import Calls, Right, asked, audited, missed

MIC = "aad-pod-identity-mic/5.0.0"
GROUP = "aadpodidentity.k8s.io"


@pytest.mark.parametrize(
    ("method", "path", "right"),
    [
        ("GET", "/api/v1/pods?limit=500", "mic: list pods"),
        ("GET", "/api/v1/pods?allowWatchBookmarks=true&watch=true", "mic: watch pods"),
        ("GET", "/api/v1/namespaces/a/configmaps/c", "mic: get configmaps by name"),
        ("POST", "/api/v1/namespaces/a/events", "mic: create events"),
        ("PATCH", "/api/v1/nodes/n0", "mic: patch nodes by name"),
        ("PUT", f"/apis/{GROUP}/v1/namespaces/a/azureidentities/i", f"mic: update azureidentities.{GROUP} by name"),
        ("DELETE", f"/apis/{GROUP}/v1/namespaces/a/azureidentities", f"mic: deletecollection azureidentities.{GROUP}"),
        ("PATCH", "/api/v1/namespaces/a/pods/p/status", "mic: patch pods/status by name"),
        ("GET", "/api/v1/namespaces/a", "mic: get namespaces by name"),
        ("POST", "/api/v1/namespaces/a/serviceaccounts/s/token", "mic: create serviceaccounts/token by name"),
    ],
)
def test_a_request_requires_a_permission(method: str, path: str, right: str) -> None:
    assert str(asked(Recorded(method, path, MIC))) == right


def test_a_path_without_a_resource_and_requests_of_other_programs_require_none() -> None:
    for path in ("/version", "/api", "/apis", "/api/v1", f"/apis/{GROUP}/v1", "/openid/v1/jwks"):
        assert asked(Recorded("GET", path, MIC)) is None, path
    assert asked(Recorded("GET", "/api/v1/secrets", "kubectl/v1.37.2")) is None


def test_a_call_that_no_role_allows_is_reported_once_and_another_is_accepted() -> None:
    calls = Calls()
    before = missed(calls.seen())
    calls.note(Recorded("GET", "/api/v1/secrets/", MIC))
    assert [each.partition(" (")[0] for each in calls.refused()] == ["mic: list secrets"]
    calls.note(Recorded("GET", "/api/v1/pods", MIC))
    assert list(calls.refused()) == []
    assert set(before) - set(missed(calls.seen())) == {str(Right("mic", "list", "pods", named=False))}


@pytest.mark.parametrize(
    ("agent", "verb", "about", "right"),
    [
        (MIC, "list", b'{"resource":"pods","name":"n0"}', "mic: list pods"),
        (MIC, "create", b'{"resource":"events","name":"e"}', "mic: create events"),
        (MIC, "patch", b'{"resource":"nodes","name":"n0"}', "mic: patch nodes by name"),
        (MIC, "update", b'{"resource":"pods","name":"p","subresource":"status"}', "mic: update pods/status by name"),
        (
            MIC,
            "create",
            b'{"resource":"serviceaccounts","name":"s","subresource":"token"}',
            "mic: create serviceaccounts/token by name",
        ),
        (MIC, "get", b'{"resource":"leases","apiGroup":"g","name":"l"}', "mic: get leases.g by name"),
        (MIC, "get", b"null", "None"),
        ("kubectl/v1", "get", b'{"resource":"pods","name":"p"}', "None"),
    ],
)
def test_a_line_of_an_audit_log_requires_the_same_permission(agent: str, verb: str, about: bytes, right: str) -> None:
    line = b'{"verb":"%s","userAgent":"%s","objectRef":%s}' % (verb.encode(), agent.encode(), about)
    assert str(audited(line)) == right
