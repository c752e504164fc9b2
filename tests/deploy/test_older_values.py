"""Values of the Go implementation's chart, of older charts, and empty keys are rendered, or rejected with an action."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.deploy.helm_cluster import arguments_of
from tests.deploy.helms import HELMS
from tests.deploy.test_go_implementation_values import DEFAULTS
from tools.chart.rendering import CHART, GOLDEN, Object, RenderError, render


def reference(**changed: Any) -> str:
    """Return the Go implementation's values.yaml with this project's images and the values of *changed*."""
    values: dict[str, Any] = {}
    ours = {"image.repository": "ours", "mic.tag": "", "nmi.tag": ""}
    for name, value in {**DEFAULTS, **ours, **changed}.items():
        *above, last = name.split(".")
        inner = values
        for part in above:
            inner = inner.setdefault(part, {})
        inner[last] = value
    return yaml.safe_dump(values)


@pytest.fixture
def bare(tmp_path: Path) -> Path:
    """Return the chart as `helm upgrade --reuse-values` uses it: without the defaults of its own values.yaml."""
    copied = tmp_path / "bare"
    shutil.copytree(CHART, copied)
    (copied / "values.yaml").write_text("")
    return copied


@pytest.mark.parametrize("helm", HELMS)
def test_an_upgrade_with_the_values_of_the_go_implementation_equals_the_defaults(bare: Path, helm: str) -> None:
    values = reference()
    assert render(given=values, helm=helm, chart=bare) == render(given=values, helm=helm)


@pytest.mark.parametrize("helm", HELMS)
def test_everything_new_can_be_switched_on_there(bare: Path, helm: str) -> None:
    values = reference()
    options = [
        "--set=nmi.failClosed=true,serviceMonitor.enabled=true,prometheusRule.enabled=true,namespace.create=true",
        "--set=grafanaDashboard.enabled=true,networkPolicy.enabled=true,test.selector=a,test.clientID=b",
        "--set=test.subscriptionID=c,test.resourceGroup=d",
        "--set=federated.enabled=true,federated.namespaces[0].name=e",
    ]
    assert render(given=values, helm=helm, chart=bare, options=options) == render(
        given=values, helm=helm, options=options
    )


EMPTY = [
    *(
        "image",
        "mic",
        "nmi",
        "rbac",
        "podMonitor",
        "serviceMonitor",
        "prometheusRule",
        "grafanaDashboard",
        "crds",
        "test",
    ),
    *(
        "networkPolicy",
        "namespace",
        "federated",
        "adminsecret",
        "azureIdentities",
        "podIdentityExceptions",
        "operationMode",
    ),
    *("caBundle", "customCloud", "customCloud.environment", "caBundle.key"),
    *("mic.customCloud", "mic.leaderElection", "mic.startupTaint", "mic.affinity", "nmi.affinity"),
    *("nmi.enableScaleFeatures", "nmi.metadataHeaderRequired"),
]


@pytest.mark.parametrize("helm", HELMS)
@pytest.mark.parametrize("name", EMPTY)
def test_an_empty_key_is_its_default(name: str, helm: str) -> None:
    above, _, last = name.rpartition(".")
    values = f"{above}: {{{last}: }}" if above else f"{last}:"
    options = [] if name == "nmi" else ["--set=nmi.failClosed=true"]
    objects = render(given=values, helm=helm, options=options)
    assert "nil>" not in yaml.safe_dump_all(objects)
    if name in ("mic.startupTaint", "nmi.enableScaleFeatures", "nmi.metadataHeaderRequired", "mic.leaderElection"):
        plain = render(helm=helm, options=options)
        assert [arguments_of(objects, each) for each in ("mic", "nmi")] == [
            arguments_of(plain, each) for each in ("mic", "nmi")
        ]


def test_the_defaults_for_missing_values_are_those_of_values_yaml() -> None:
    text = (CHART / "templates" / "_values.tpl").read_text()
    missing = text.partition('"aad-pod-identity.missing" -}}')[2].partition("{{- end")[0]
    defaults = yaml.safe_load((CHART / "values.yaml").read_text())

    def leaves(part: Any, above: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
        if isinstance(part, dict):
            for name, each in part.items():
                yield from leaves(each, (*above, name))
        else:
            yield above, part

    found = dict(leaves(yaml.safe_load(missing)))
    assert found.items() <= dict(leaves(defaults)).items()


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"mic.tag": "v1.8.17"}, "the tag of image mic is v1.8.17"),
        ({"nmi.tag": "v1.7.0"}, "the tag of image nmi is v1.7.0"),
        ({"image.repository": DEFAULTS["image.repository"]}, "image.repository is mcr.microsoft.com"),
    ],
)
def test_the_go_implementations_images_are_rejected(changed: dict[str, Any], message: str) -> None:
    with pytest.raises(RenderError, match=message) as refused:
        render(given=reference(**changed))
    assert "remove image.repository, mic.tag and nmi.tag from your values" in str(refused.value)


def nmi_and_cleanup(objects: list[Object]) -> list[Any]:
    return [each["spec"]["template"]["spec"]["tolerations"] for each in objects if each["kind"] == "DaemonSet"]


def test_the_go_implementations_empty_tolerations_leave_no_node_without_nmi() -> None:
    objects = render(given=reference(), options=["--set=nmi.failClosed=true"])
    assert nmi_and_cleanup(objects) == [[{"operator": "Exists"}]] * 2


def test_unused_keys_of_older_charts_and_text_for_numbers_and_switches_are_accepted() -> None:
    values = "{installCRDs: false, forceNameSpaced: 'false', podMonitor: {enabled: 'true'}}"
    objects = render(given=values, options=["--set-string=mic.replicas=3,rbac.enabled=true"])
    (mic,) = (each for each in objects if each["kind"] == "Deployment")
    assert mic["spec"]["replicas"] == 3
    assert {"ServiceAccount", "PodMonitor"} <= {each["kind"] for each in objects}


@pytest.mark.parametrize("given", [{}, {"userAssignedMSIClientID": None}], ids=["missing", "empty"])
def test_the_systems_own_managed_identity_has_no_client_id(given: dict[str, Any]) -> None:
    values = yaml.safe_load((GOLDEN / "admin-secret-msi.values.yaml").read_text())
    del values["adminsecret"]["userAssignedMSIClientID"]
    values["adminsecret"] |= given
    (made,) = (each for each in render(given=values) if each["kind"] == "Secret")
    assert made["data"]["UserAssignedMSIClientID"] == ""
    assert made["data"]["UseMSI"] == "dHJ1ZQ=="


@pytest.mark.parametrize("helm", HELMS)
def test_with_adminsecret_an_empty_path_of_azure_json_changes_nothing(helm: str) -> None:
    # reference: charts/aad-pod-identity/templates/mic-deployment.yaml reads cloudConfig without adminsecret only.
    values = GOLDEN / "admin-secret.values.yaml"
    assert render(values, given="mic: {cloudConfig: ''}", helm=helm) == render(values, helm=helm)
