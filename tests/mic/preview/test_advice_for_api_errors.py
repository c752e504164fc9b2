"""An error of the API server is one line with the cause and the next action."""

import pytest

from mic.preview.survey import api_error_advice
from podidentity.kube.errors import ApiError, Forbidden, NoResponse, NotFound, Unauthorized


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
def test_the_line_has_both(error: ApiError, says: str, then: str) -> None:
    line = api_error_advice(error)
    assert says in line
    assert then in line
    assert "\n" not in line
