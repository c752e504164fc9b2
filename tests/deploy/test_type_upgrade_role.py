"""MIC's role for the type upgrade, where helm reads no cluster."""

import pytest

from tools.chart.rendering import render

ROLE = ("ClusterRole", "aad-pod-identity-mic-type-upgrade")


def rendered(*options: str) -> set[tuple[str, str]]:
    return {(each["kind"], each["metadata"]["name"]) for each in render(options=options)}


@pytest.mark.parametrize(
    "options",
    [(), ("--api-versions=aadpodidentity.k8s.io/v1/AzureIdentity",)],
    ids=["helm-template", "argo-cd-with-installed-definitions"],
)
def test_without_a_cluster_mic_has_the_role(options: tuple[str, ...]) -> None:
    """The record of the type upgrade is then unknown."""
    assert ROLE in rendered(*options)


@pytest.mark.parametrize("flag", ["--enable-type-upgrade=false", "-enable-type-upgrade=F", "--enable-type-upgrade=0"])
def test_a_mic_that_upgrades_nothing_has_no_role_for_it(flag: str) -> None:
    assert ROLE not in rendered(f"--set=mic.extraArgs={{{flag}}}")


@pytest.mark.parametrize("flag", ["--enable-type-upgrade=true", "--syncRetryDuration=10s"])
def test_other_flags_leave_it_the_role(flag: str) -> None:
    assert ROLE in rendered(f"--set=mic.extraArgs={{{flag}}}")
