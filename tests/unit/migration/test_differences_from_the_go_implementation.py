"""Differences from the Go implementation in objects, flags and values are reported, unaffected neighbours are not."""

from typing import Any

import pytest

from podidctl.migration import installed_programs
from podidctl.migration.differences import (
    Difference,
    DifferenceLevel,
    Installation,
    find_differences,
    manifest_differences,
)
from podidctl.migration.installed_programs import (
    InstalledProgram,
    check_programs,
    check_values,
    is_namespaced,
    mic_settings,
)
from podidentity.resources import Pod, PodMarks, PodMeta, PodSpec, PodStatus
from tests.support.checkout import ROOT
from tests.support.migration.objects import ID, binding, exception, identity

FIX, REVIEW, NO_ACTION = DifferenceLevel.FIX, DifferenceLevel.REVIEW, DifferenceLevel.NO_ACTION
OURS = {"repository": "registry.example/aad-pod-identity"}
SECRETS = "Secrets of AzureIdentities of type 1 and 2"
FINE = [identity(), binding()]
SECRET = {"name": "n"}


def pod(name: str = "web", label: str = "demo", phase: str = "Running", *, mirror: bool = False) -> Pod:
    return Pod(
        metadata=PodMeta(
            name=name,
            namespace="shop",
            labels={"aadpodidbinding": label},
            marks=PodMarks(mirror="hash") if mirror else None,
        ),
        spec=PodSpec(node_name="n"),
        status=PodStatus(phase=phase),
    )


def old_identity(name: str = "demo") -> dict[str, Any]:
    """Return an AzureIdentity with a field name from before v1.6.0."""
    made = identity(name)
    made["spec"]["ClientID"] = made["spec"].pop("clientID")
    return made


def differences_of(*documents: dict[str, Any], **more: Any) -> list[Difference]:
    by_kind: dict[str, list[dict[str, Any]]] = {}
    for document in documents:
        by_kind.setdefault(document["kind"], []).append(document)
    return find_differences(Installation(by_kind, **more))


@pytest.mark.parametrize(
    ("documents", "more"),
    [
        (FINE, {"pods": [pod()]}),
        ([*FINE, binding("other", azureIdentity="demo", selector="other")], {}),
    ],
    ids=["equal behaviour", "two bindings for different labels"],
)
def test_equal_behaviour_is_not_reported(documents: list[dict[str, Any]], more: dict[str, Any]) -> None:
    assert differences_of(*documents, **more) == []


# Documents and other facts, and the only difference: its level, its object and a part of its text or of its action.
ONLY: dict[str, tuple[list[dict[str, Any]], dict[str, Any], DifferenceLevel, str, str]] = {
    "old field names, which MIC rewrites once": (
        *([old_identity(), binding()], {}, NO_ACTION),
        *("azureidentities: shop/demo", "1 object in field spellings from before v1.6.0"),
    ),
    "old field names that are recorded as rewritten": (
        *([old_identity(), binding()], {"record": "v1.8.17", "record_at": "key k of ConfigMap ns/c"}, REVIEW),
        "azureidentities: shop/demo",
        "key k of ConfigMap ns/c records that version v1.8.17 has rewritten all; NMI and MIC ignore these fields",
    ),
    "definitions that drop old field names": (
        *(FINE, {"dropped": ["AzureIdentity"]}, REVIEW),
        *("azureidentities", "deploy/crds"),
    ),
    "many objects, of which the first are named": (
        *([old_identity(f"i{number:03}") for number in range(30)], {}, NO_ACTION),
        *("azureidentities: ", "30 objects"),
    ),
    "a binding without its identity, which another namespace has": (
        *([identity(namespace="elsewhere"), binding()], {}, FIX),
        *("AzureIdentityBinding shop/demo", "AzureIdentity shop/demo does not exist"),
    ),
    "two bindings for one label": (
        *([*FINE, binding("again", azureIdentity="demo", selector="demo")], {}, REVIEW),
        *("AzureIdentityBindings shop/again, demo", ""),
    ),
    "several identities for an unspecified request": (
        *([*FINE, identity("b"), binding("a", azureIdentity="b", selector="demo")], {}, REVIEW),
        *("label aadpodidbinding=demo", "gets shop/b (the first by binding name)"),
    ),
    "two names of one Azure identity": (
        *([*FINE, identity("b", resourceID=(ID + "DEMO"), clientID="Client-demo "), binding("b")], {}, NO_ACTION),
        *("AzureIdentities shop/b, shop/demo", ""),
    ),
    "the chart's own exception": ([*FINE, exception(app="mic")], {}, NO_ACTION, "", "app=mic"),
    "an exception": ([*FINE, exception(app="x")], {}, REVIEW, "", "app=x"),
    "pods with a label that no binding selects": (
        *(FINE, {"pods": [pod(), pod("lost", "typo"), pod("done", "typo", "Succeeded")]}, REVIEW),
        *("pods shop/lost", ""),
    ),
    "mirror pods, which get nothing": (
        *(FINE, {"pods": [pod(), pod("static", mirror=True), pod("ended", mirror=True, phase="Failed")]}, REVIEW),
        *("mirror pods shop/static", ""),
    ),
    "a lock with a holder": (
        *(FINE, {"lock": "mic-1", "lock_at": "default/aad-pod-identity-mic"}, NO_ACTION),
        *("Endpoints default/aad-pod-identity-mic", "is held by mic-1"),
    ),
    "a lock without a holder": (
        *(FINE, {"lock": "", "lock_at": "default/aad-pod-identity-mic"}, NO_ACTION),
        *("Endpoints default/aad-pod-identity-mic", "has no holder"),
    ),
    "a failed read": (
        *(FINE, {"unread": {"daemonsets": "forbidden"}}, REVIEW),
        *("daemonsets", "could not be read: forbidden"),
    ),
    "a service principal, if NMI may not read Secrets": (
        *(
            [
                identity(type=1, tenantID="t", clientPassword=SECRET, adEndpoint="https://login.microsoftonline.com/"),
                binding(),
            ],
            {},
            REVIEW,
        ),
        *(SECRETS, "nmi.servicePrincipals=true"),
    ),
}


@pytest.mark.parametrize("name", ONLY)
def test_a_difference_is_reported_with_its_level_its_object_and_the_next_action(name: str) -> None:
    documents, more, level, about, text = ONLY[name]
    (one,) = differences_of(*documents, **more)
    assert one.level is level
    assert one.about.startswith(about)
    assert text in one.what or text in one.do
    if len(documents) == 30:
        assert one.about.endswith("shop/i019 and 10 more")


@pytest.mark.parametrize(
    ("spec", "level", "what"),
    [
        ({"resourceID": "/subscriptions/x"}, FIX, "is not of the form"),
        ({"type": 7}, FIX, "is not 0, 1, 2 or 3"),
        ({"clientID": " "}, REVIEW, "has no clientID"),
        (
            {"type": 1, "tenantID": "t", "clientPassword": {"name": "n", "namespace": "other"}},
            REVIEW,
            "--allow-cross-namespace-secrets",
        ),
        (
            {"type": 1, "tenantID": "t", "clientPassword": SECRET, "adEndpoint": "https://example.org/"},
            REVIEW,
            "--allowed-ad-endpoints",
        ),
        ({"type": 2, "tenantID": "t"}, REVIEW, "its owner must correct it"),
    ],
)
def test_an_identity_served_differently_is_reported(spec: dict[str, Any], level: DifferenceLevel, what: str) -> None:
    (one,) = [difference for difference in differences_of(identity(**spec), binding()) if difference.about != SECRETS]
    assert (one.level, one.about) == (level, "AzureIdentity shop/demo")
    assert what in one.what


def test_identities_of_several_namespaces_for_one_label_are_reported() -> None:
    every = differences_of(
        *FINE, identity("b", namespace="ids"), binding("a", "ids", azureIdentity="b", selector="demo")
    )
    (one,) = (difference for difference in every if difference.about == "label aadpodidbinding=demo")
    assert "gets one of the pod's namespace, else ids/b (the first by binding name)" in one.what
    every = differences_of(*FINE, identity(namespace="b", resourceID=ID + "x", clientID="x"), binding(namespace="b"))
    assert [difference.level for difference in every] == [REVIEW, NO_ACTION]
    assert every[1].about == "AzureIdentities b/demo, shop/demo"


def test_an_unreadable_object_is_reported_and_hides_no_other() -> None:
    broken = identity("broken", type="zero")
    every = differences_of(broken, identity(), binding("demo", azureIdentity="gone"))
    assert [(difference.level, difference.about) for difference in every] == [
        (FIX, "AzureIdentity shop/broken"),
        (FIX, "AzureIdentityBinding shop/demo"),
    ]


def test_of_manifests_only_their_own_content_is_reported() -> None:
    assert manifest_differences([binding("lonely")]) == []
    (one,) = manifest_differences([identity(resourceID="x"), binding("lonely")])
    assert one.level is FIX


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        ({"resourceID": ID + "DEMO"}, "have the same resourceID and different clientIDs"),
        ({"clientID": " CLIENT-demo"}, "have the same clientID and different resourceIDs"),
    ],
    ids=["one-resource-id", "one-client-id"],
)
def test_contradictory_client_ids_are_reported(spec: dict[str, str], says: str) -> None:
    differences = [
        difference
        for difference in differences_of(*FINE, identity("b", **spec), binding("b"))
        if difference.level is FIX
    ]
    assert [difference.about for difference in differences] == ["AzureIdentities shop/b, shop/demo"]
    assert differences[0].what.startswith(says)


def nmi(*flags: str, **environ: str) -> InstalledProgram:
    """Return the program as the Go implementation's chart starts it, with more flags and variables."""
    usual = ("--node=$(NODE_NAME)", "--http-probe-port=8085", "--operation-mode=standard", "--MICNamespace=kube-system")
    return InstalledProgram("nmi", "DaemonSet kube-system/nmi", "kube-system", (*usual, *flags), environ)


def mic(*flags: str, namespace: str = "kube-system", **environ: str) -> InstalledProgram:
    usual = ("--cloudconfig=/etc/kubernetes/azure.json", "--logtostderr")
    return InstalledProgram("mic", "Deployment kube-system/mic", namespace, (*usual, *flags), environ)


def test_the_go_implementations_chart_and_its_values_require_no_change() -> None:
    both = {"FORCENAMESPACED": "false"}
    assert check_programs([nmi(**both), mic(**both)]) == []
    assert check_programs([mic("--clientQps=100")]) == [], "a rate above our default"
    values = {
        "image": OURS,
        "forceNamespaced": "false",
        "rbac": {"enabled": True, "pspEnabled": False},
        "mic": {"clientQps": "", "replicas": 2, "image": "mic", "tag": "1.0.0"},
        "nmi": {"allowNetworkPluginKubenet": False, "probePort": "8085"},
        "azureIdentities": None,
    }
    assert check_values(values) == []


@pytest.mark.parametrize(
    ("programs", "level", "about", "what"),
    [
        ([nmi("--host-ip=$(HOST_IP)")], FIX, "DaemonSet kube-system/nmi", "unknown flag --host-ip"),
        (
            [InstalledProgram("nmi", "DaemonSet kube-system/nmi", "kube-system")],
            FIX,
            "DaemonSet kube-system/nmi",
            "--node",
        ),
        ([mic("--help")], FIX, "Deployment kube-system/mic", "it has the flag --help"),
        ([nmi("--allow-network-plugin-kubenet=true")], REVIEW, "DaemonSet kube-system/nmi", "kubenet"),
        (
            [nmi("--metadata-header-required=false")],
            REVIEW,
            "DaemonSet kube-system/nmi",
            "--metadata-header-required=false",
        ),
        ([mic("--clientQps=5")], REVIEW, "Deployment kube-system/mic", "--clientQps=5"),
        ([nmi(), mic(namespace="identity")], REVIEW, "DaemonSet kube-system/nmi", "MIC runs in identity"),
        ([nmi(FORCENAMESPACED="true"), mic()], REVIEW, "--forceNamespaced", "only NMI has it"),
    ],
    ids=["unsupported", "no node", "help", "kubenet", "header", "write rate", "mic elsewhere", "different settings"],
)
def test_a_flag_that_must_be_changed_or_reviewed_is_reported(
    programs: list[InstalledProgram], level: DifferenceLevel, about: str, what: str
) -> None:
    (one,) = check_programs(programs)
    assert (one.level, one.about) == (level, about)
    assert what in one.what
    if "MIC runs in" in what:
        assert one.do.startswith("set --MICNamespace=identity")


def test_the_location_of_locks_and_records_is_read_from_mics_flags() -> None:
    settings = mic_settings([nmi(), mic("--leader-election-namespace=locks")])
    assert settings is not None
    assert (settings.namespace, settings.lease_namespace) == ("kube-system", "locks")
    assert mic_settings([nmi()]) is None
    assert mic_settings([mic("--no-such-flag")]) is None


@pytest.mark.parametrize("flag", ["--leader-election-name=$(X)", "--cloudconfig=$(X)", "--custom-user-agent=$(X)"])
def test_a_variable_without_a_known_value_hides_no_other_flag(flag: str) -> None:
    """Otherwise a plan would grant identities across namespaces."""
    assert is_namespaced([mic("--forceNamespaced", flag)])
    assert not is_namespaced([mic(flag)])
    assert check_programs([mic(flag)]) == []


@pytest.mark.parametrize(
    ("values", "about", "level"),
    [
        ({"image": OURS, "nmi": {"tag": "v1.8.17"}}, "nmi.tag", FIX),
        ({"image": OURS, "mic": {"image": "their-mic"}}, "mic.image", REVIEW),
        ({}, "image.repository", FIX),
        ({"image": {"repository": ""}}, "image.repository", FIX),
        ({"image": {"repository": "mcr.microsoft.com/oss/azure/aad-pod-identity"}}, "image.repository", FIX),
        ({"image": {"repository": "aad-pod-identity"}}, "image.repository", FIX),
        ({"image": {"repository": "REGISTRY/PATH"}}, "image.repository", FIX),
        ({"image": OURS, "rbac": {"pspEnabled": True}}, "rbac.pspEnabled", REVIEW),
        ({"image": OURS, "azureIdentities": [{"name": "a"}]}, "azureIdentities", FIX),
        ({"image": OURS, "nmi": {"allowNetworkPluginKubenet": True}}, "nmi.allowNetworkPluginKubenet", REVIEW),
        ({"image": OURS, "mic": {"clientQps": 5}}, "mic.clientQps", REVIEW),
    ],
)
def test_a_value_that_must_be_reviewed_is_reported(values: dict[str, Any], about: str, level: DifferenceLevel) -> None:
    (one,) = check_values(values)
    assert (one.about, one.level) == (f"value {about}", level)


def test_the_rules_for_images_are_the_charts() -> None:
    template = (ROOT / "deploy/charts/aad-pod-identity/templates/_names.tpl").read_text()
    theirs, former = installed_programs.THEIR_REPOSITORY.pattern.split("/|")
    for rule in (
        f"^{theirs}/",
        f"^{installed_programs.REPOSITORY.pattern}$",
        f"^{installed_programs.THEIR_TAG.pattern}",
    ):
        assert f'regexMatch "{rule}"' in template
    assert f'eq "{former.removesuffix("$")}" $root.Values.image.repository' in template
