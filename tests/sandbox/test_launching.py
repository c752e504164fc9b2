"""Images that the sandbox runs, and the conversion of their arguments."""

import pytest

from podidentity_sandbox.launching import expanded, program_of


@pytest.mark.parametrize(
    ("image", "program"),
    [
        ("aad-pod-identity/nmi:1.0.0-rc.1", "nmi"),
        ("mcr.microsoft.com/oss/azure/aad-pod-identity/mic:v1.8.17", "mic"),
        ("registry.invalid/aad-pod-identity/demo@sha256:00", "demo"),
        ("aad-pod-identity/nmi-tools:1", ""),
        ("pause", ""),
    ],
)
def test_an_image_is_recognised_by_its_name(image: str, program: str) -> None:
    assert program_of(image) == program


@pytest.mark.parametrize(
    ("argument", "becomes"),
    [
        ("--node=$(NODE_NAME)", "--node=node-0"),
        ("$(NODE_NAME)$(NODE_NAME)", "node-0node-0"),
        ("$(MISSING)", "$(MISSING)"),
        ("$$(NODE_NAME)", "$(NODE_NAME)"),
        ("$NODE_NAME", "$NODE_NAME"),
    ],
)
def test_arguments_are_expanded_as_kubernetes_does(argument: str, becomes: str) -> None:
    assert expanded(argument, {"NODE_NAME": "node-0"}) == becomes
