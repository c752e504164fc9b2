"""PodSecurityPolicies in a cluster that supports them. test_refused_values.py has one that does not."""

import pytest

from tests.deploy.helms import HELMS
from tools.chart.rendering import render

ASKED = "--set=rbac.pspEnabled=true"
OLD = "--api-versions=policy/v1beta1/PodSecurityPolicy"


@pytest.mark.parametrize("helm", HELMS)
def test_the_chart_creates_one_for_each_program(helm: str) -> None:
    objects = render(helm=helm, options=[ASKED, OLD])
    assert [each["metadata"]["name"] for each in objects if each["kind"] == "PodSecurityPolicy"] == [
        "aad-pod-identity-psp-nmi",
        "aad-pod-identity-psp-mic",
    ]


def test_only_its_own_account_uses_each() -> None:
    objects = render(options=[ASKED, OLD])
    used = [
        each["rules"][0]["resourceNames"]
        for each in objects
        if each["kind"] == "Role" and each["rules"][0]["verbs"] == ["use"]
    ]
    assert used == [["aad-pod-identity-psp-nmi"], ["aad-pod-identity-psp-mic"]]


def test_no_container_may_be_privileged() -> None:
    def privileged(*more: str) -> dict[str, bool]:
        objects = render(options=[ASKED, OLD, *more])
        return {
            each["metadata"]["name"]: each["spec"]["privileged"]
            for each in objects
            if each["kind"] == "PodSecurityPolicy"
        }

    assert privileged() == {"aad-pod-identity-psp-nmi": False, "aad-pod-identity-psp-mic": False}
    assert not privileged("--set=nmi.routeLocalnet=set")["aad-pod-identity-psp-nmi"]


def test_each_lets_its_pods_have_the_runtimes_seccomp_profile_and_nmi_no_capability_that_it_does_not_add() -> None:
    policies = {
        each["metadata"]["name"]: each for each in render(options=[ASKED, OLD]) if each["kind"] == "PodSecurityPolicy"
    }
    for each in policies.values():
        for name in ("allowedProfileNames", "defaultProfileName"):
            assert each["metadata"]["annotations"][f"seccomp.security.alpha.kubernetes.io/{name}"] == "runtime/default"
    assert policies["aad-pod-identity-psp-nmi"]["spec"]["allowedCapabilities"] == ["NET_ADMIN", "NET_RAW"]
    assert "allowedCapabilities" not in policies["aad-pod-identity-psp-mic"]["spec"]
