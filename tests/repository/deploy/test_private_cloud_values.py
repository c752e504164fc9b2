"""The values caBundle and customCloud: what NMI and MIC get from each source, and rejected combinations."""

from pathlib import Path, PurePosixPath
from typing import Any

import pytest

from podidentity.azure.clouds import of_environment
from podidentity_sandbox.certificates import Authority
from tests.repository.deploy.helms import HELMS
from tests.repository.deploy.test_flags import programs
from tools.chart.rendering import Object, render

AUTHORITY = Authority()
ENVIRONMENT = {
    "name": "AzureStackCloud",
    "activeDirectoryEndpoint": "https://login.cloud.example/",
    "resourceManagerEndpoint": "https://management.cloud.example/",
}


def volume_of(path: PurePosixPath, pod: Any) -> tuple[dict[str, Any], str]:
    """Return the volume that contains *path* in the first container of *pod*, and the file's path in the volume."""
    (container,) = pod["containers"]
    mount = next(each for each in container["volumeMounts"] if path.is_relative_to(each["mountPath"]))
    assert mount["readOnly"]
    assert "subPath" not in mount  # the kubelet never updates one
    volume = next(each for each in pod["volumes"] if each["name"] == mount["name"])
    return volume, str(path.relative_to(mount["mountPath"]))


def pods(objects: list[Object]) -> dict[str, Any]:
    found = (each["spec"]["template"]["spec"] for each in objects if each["kind"] in ("DaemonSet", "Deployment"))
    return {name: pod for pod in found if (name := pod["containers"][0]["name"]) in ("nmi", "mic")}


def config_map(objects: list[Object], name: str) -> dict[str, str]:
    (data,) = (each["data"] for each in objects if (each["kind"], each["metadata"]["name"]) == ("ConfigMap", name))
    return dict(data)


@pytest.mark.parametrize("helm", HELMS)
@pytest.mark.parametrize(
    ("source", "volume", "file"),
    [
        ({"configMap": "corporate"}, {"configMap": {"name": "corporate"}}, "ca.crt"),
        ({"configMap": "corporate", "key": "all.pem"}, {"configMap": {"name": "corporate"}}, "all.pem"),
        ({"secret": "corporate"}, {"secret": {"secretName": "corporate"}}, "ca.crt"),
        ({"hostPath": "/etc/ssl/all.pem"}, {"hostPath": {"path": "/etc/ssl/all.pem", "type": "File"}}, "."),
        ({"pem": AUTHORITY.pem}, {"configMap": {"name": "aad-pod-identity-ca-bundle"}}, "ca.crt"),
    ],
    ids=["ConfigMap", "key", "Secret", "host", "inline"],
)
def test_nmi_and_mic_read_the_bundle_from_its_source(
    source: dict[str, str], volume: dict[str, Any], file: str, helm: str
) -> None:
    objects = render(given={"caBundle": source}, helm=helm)
    for name, settings in programs(objects).items():
        found, relative = volume_of(PurePosixPath(settings.ca_bundle), pods(objects)[name])
        assert found == {"name": "ca-bundle", **volume}
        assert relative == file
    if "pem" in source:
        assert config_map(objects, "aad-pod-identity-ca-bundle") == {"ca.crt": AUTHORITY.pem}


@pytest.mark.parametrize("helm", HELMS)
@pytest.mark.parametrize(
    ("source", "volume", "file"),
    [
        ({"configMap": "stack"}, {"configMap": {"name": "stack"}}, "environment.json"),
        ({"configMap": "stack", "key": "cloud"}, {"configMap": {"name": "stack"}}, "cloud"),
        ({"hostPath": "/etc/stack.json"}, {"hostPath": {"path": "/etc/stack.json", "type": "File"}}, "."),
        ({"environment": ENVIRONMENT}, {"configMap": {"name": "aad-pod-identity-cloud"}}, "environment.json"),
    ],
    ids=["ConfigMap", "key", "host", "inline"],
)
def test_nmi_and_mic_read_the_description_of_the_cloud_from_its_source(
    source: dict[str, Any], volume: dict[str, Any], file: str, helm: str
) -> None:
    objects = render(given={"customCloud": source}, helm=helm)
    for name, settings in programs(objects).items():
        found, relative = volume_of(PurePosixPath(settings.azure_environment_file), pods(objects)[name])
        assert found == {"name": "custom-cloud", **volume}
        assert relative == file


def test_the_programs_can_read_an_inline_description(tmp_path: Path) -> None:
    objects = render(given={"customCloud": {"environment": ENVIRONMENT}})
    file = tmp_path / "environment.json"
    file.write_text(config_map(objects, "aad-pod-identity-cloud")["environment.json"])
    cloud = of_environment(file)
    assert (cloud.authority, cloud.resource_manager) == (
        "https://login.cloud.example",
        "https://management.cloud.example",
    )


def test_a_changed_inline_description_restarts_the_programs() -> None:
    def annotations(environment: dict[str, str]) -> list[Any]:
        objects = render(given={"customCloud": {"environment": environment}})
        templates = [each["spec"]["template"] for each in objects if each["kind"] in ("DaemonSet", "Deployment")]
        found = [
            each["metadata"]["annotations"]["checksum/cloud"]
            for each in templates
            if each["spec"]["containers"][0]["name"] in ("nmi", "mic")
        ]
        assert len(found) == 2
        return found

    before = annotations(ENVIRONMENT)
    assert before == annotations(ENVIRONMENT)
    after = annotations(ENVIRONMENT | {"tokenAudience": "https://other"})
    assert not set(before) & set(after)


def test_managed_mode_gives_both_to_nmi() -> None:
    values = {
        "operationMode": "managed",
        "forceNamespaced": "true",
        "caBundle": {"secret": "corporate"},
        "customCloud": {"configMap": "stack"},
    }
    nmi = programs(render(given=values))["nmi"]
    assert str(nmi.ca_bundle) == "/etc/aad-pod-identity/ca/ca.crt"
    assert str(nmi.azure_environment_file) == "/etc/aad-pod-identity/cloud/environment.json"


TEST = dict.fromkeys(("selector", "clientID", "subscriptionID", "resourceGroup"), "demo")


@pytest.mark.parametrize("helm", HELMS)
@pytest.mark.parametrize(
    ("values", "volumes"),
    [
        ({}, set()),
        ({"caBundle": {"secret": "corporate"}}, {"ca-bundle"}),
        ({"customCloud": {"environment": ENVIRONMENT}}, {"custom-cloud"}),
        ({"caBundle": {"hostPath": "/ca.crt"}, "customCloud": {"configMap": "stack"}}, {"ca-bundle", "custom-cloud"}),
    ],
    ids=["none", "bundle", "cloud", "both"],
)
def test_the_pod_of_helm_test_reads_the_files_that_the_programs_read(
    values: dict[str, Any], volumes: set[str], helm: str
) -> None:
    objects = render(given={"test": TEST, **values}, helm=helm)
    # The other pod of `helm test` connects to IMDS's address only.
    (pod,) = (
        each["spec"]
        for each in objects
        if each["kind"] == "Pod" and not each["metadata"]["name"].endswith("-redirect-test")
    )
    nmi = pods(objects)["nmi"]
    assert {each["name"] for each in pod.get("volumes", [])} == volumes
    (container,) = pod["containers"]
    bundle = [word for word in container["args"] if word.startswith("--ca-bundle=")]
    assert bundle == [word for word in nmi["containers"][0]["args"] if word.startswith("--ca-bundle=")]
    for volume in volumes:
        assert next(each for each in pod["volumes"] if each["name"] == volume) in nmi["volumes"]
        mounts = [each for pod_ in (container, nmi["containers"][0]) for each in pod_["volumeMounts"]]
        first, second = (each for each in mounts if each["name"] == volume)
        assert first == second
    cloud = [each["value"] for each in container["env"] if each["name"] == "AZURE_ENVIRONMENT_FILEPATH"]
    assert cloud == (["/etc/aad-pod-identity/cloud/environment.json"] if "custom-cloud" in volumes else [])
