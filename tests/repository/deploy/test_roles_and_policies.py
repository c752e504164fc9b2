"""What the chart makes of a cluster's version and kinds: its policies, roles that helm cannot know, and refusals."""

import pytest

from tests.support.chart_objects import HELMS
from tools.chart.rendering import RenderError, render

FEDERATED = "--set=federated.enabled=true,federated.namespaces[0].name=shop"
CLUSTER = "--api-versions=v1/Pod"
"""The kinds that a cluster reports and helm alone does not know."""
ADMISSION = "--api-versions=admissionregistration.k8s.io/v1/ValidatingAdmissionPolicy"
SECURITY = ("--set=rbac.pspEnabled=true,nmi.routeLocalnet=set", "--api-versions=policy/v1beta1/PodSecurityPolicy")


@pytest.mark.parametrize("helm", HELMS)
@pytest.mark.parametrize(
    ("refused", "message", "accepted"),
    [
        (
            ("--kube-version=v1.26.9",),
            r"incompatible with Kubernetes v1\.26\.9",
            [("--kube-version=v1.27.0",), ("--kube-version=v1.30.9-gke.100",), ("--kube-version=v1.37.2",)],
        ),
        (
            (FEDERATED, "--kube-version=v1.29.14"),
            r"this is Kubernetes v1\.29\.14: use 1\.30 or newer",
            [
                ("--kube-version=v1.29.14",),
                (FEDERATED, "--kube-version=v1.30.0"),
                (FEDERATED, "--kube-version=v1.30.9-gke.1"),
            ],
        ),
        (
            (FEDERATED, CLUSTER),
            r"no admissionregistration\.k8s\.io/v1 ValidatingAdmissionPolicy",
            [(CLUSTER,), (FEDERATED, CLUSTER, ADMISSION)],
        ),
    ],
    ids=["untested version", "version without admission policies", "no admission policies"],
)
def test_a_cluster_without_what_the_values_need_is_refused_and_one_with_it_is_not(
    helm: str, refused: tuple[str, ...], message: str, accepted: list[tuple[str, ...]]
) -> None:
    with pytest.raises(RenderError, match=message):
        render(helm=helm, options=refused)
    for options in accepted:
        kinds = {manifest["kind"] for manifest in render(helm=helm, options=options)}
        assert ("ValidatingAdmissionPolicy" in kinds) is (FEDERATED in options)


@pytest.mark.parametrize(
    ("release", "options"), [("r" * 53, ()), ("r", (f"--set=fullnameOverride={'f' * 52}-fff",)), ("123", ())]
)
def test_the_names_of_the_federated_objects_are_valid_also_for_a_long_release(
    release: str, options: tuple[str, ...]
) -> None:
    objects = render(options=[FEDERATED, *options], release=release)
    kinds = ("Role", "RoleBinding", "ValidatingAdmissionPolicy")
    (name,) = {
        full_name
        for manifest in objects
        if manifest["kind"] in kinds and (full_name := manifest["metadata"]["name"]).endswith("-federated")
    }
    assert len(name) <= 63
    assert "--" not in name


def test_without_a_cluster_mic_has_the_role_also_with_installed_definitions() -> None:
    """As in Argo CD. The record of the type upgrade is then unknown."""
    objects = render(options=["--api-versions=aadpodidentity.k8s.io/v1/AzureIdentity"])
    assert ("ClusterRole", "aad-pod-identity-mic-type-upgrade") in {(o["kind"], o["metadata"]["name"]) for o in objects}


@pytest.mark.parametrize("helm", HELMS)
def test_each_program_has_an_unprivileged_policy_that_only_its_own_account_uses(helm: str) -> None:
    """test_refused_values.py has a cluster without such policies."""
    objects = render(helm=helm, options=SECURITY)
    policies = {
        manifest["metadata"]["name"]: manifest for manifest in objects if manifest["kind"] == "PodSecurityPolicy"
    }
    names = ["aad-pod-identity-psp-nmi", "aad-pod-identity-psp-mic"]
    assert list(policies) == names
    used = [
        manifest["rules"][0]["resourceNames"]
        for manifest in objects
        if manifest["kind"] == "Role" and manifest["rules"][0]["verbs"] == ["use"]
    ]
    assert used == [[name] for name in names]
    for policy in policies.values():
        assert policy["spec"]["privileged"] is False
        for name in ("allowedProfileNames", "defaultProfileName"):
            assert (
                policy["metadata"]["annotations"][f"seccomp.security.alpha.kubernetes.io/{name}"] == "runtime/default"
            )
    assert policies[names[0]]["spec"]["allowedCapabilities"] == ["NET_ADMIN", "NET_RAW"]
    assert "allowedCapabilities" not in policies[names[1]]["spec"]
