"""MIC's role for the type upgrade where helm reads no cluster, and PodSecurityPolicies where a cluster has them."""

import pytest

from tests.repository.deploy.helms import HELMS
from tools.chart.rendering import render

ROLE = ("ClusterRole", "aad-pod-identity-mic-type-upgrade")
POLICIES = ("--set=rbac.pspEnabled=true,nmi.routeLocalnet=set", "--api-versions=policy/v1beta1/PodSecurityPolicy")


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


@pytest.mark.parametrize(
    ("flag", "has_role"),
    [
        ("--enable-type-upgrade=false", False),
        ("-enable-type-upgrade=F", False),
        ("--enable-type-upgrade=0", False),
        ("--enable-type-upgrade=true", True),
        ("--syncRetryDuration=10s", True),
    ],
)
def test_only_a_mic_that_upgrades_has_the_role(flag: str, *, has_role: bool) -> None:
    assert (ROLE in rendered(f"--set=mic.extraArgs={{{flag}}}")) is has_role


@pytest.mark.parametrize("helm", HELMS)
def test_each_program_has_an_unprivileged_policy_that_only_its_own_account_uses(helm: str) -> None:
    """test_refused_values.py has a cluster without such policies."""
    objects = render(helm=helm, options=POLICIES)
    policies = {each["metadata"]["name"]: each for each in objects if each["kind"] == "PodSecurityPolicy"}
    names = ["aad-pod-identity-psp-nmi", "aad-pod-identity-psp-mic"]
    assert list(policies) == names
    used = [
        each["rules"][0]["resourceNames"]
        for each in objects
        if each["kind"] == "Role" and each["rules"][0]["verbs"] == ["use"]
    ]
    assert used == [[name] for name in names]
    for each in policies.values():
        assert each["spec"]["privileged"] is False
        for name in ("allowedProfileNames", "defaultProfileName"):
            assert each["metadata"]["annotations"][f"seccomp.security.alpha.kubernetes.io/{name}"] == "runtime/default"
    assert policies[names[0]]["spec"]["allowedCapabilities"] == ["NET_ADMIN", "NET_RAW"]
    assert "allowedCapabilities" not in policies[names[1]]["spec"]
