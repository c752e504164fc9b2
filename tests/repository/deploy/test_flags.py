"""The programs accept every flag that the chart sets, with the meaning of the value."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

import mic.startup.settings
import nmi.settings
from nmi.choices import OperationMode, RouteLocalnetMode
from podidentity.azure.clouds import of_environment
from podidentity.telemetry.logs import LogFormat
from tests.support.chart_objects import HELMS
from tools.chart.rendering import GOLDEN, Object, golden_sets, render

PARSE: Mapping[str, Any] = {"nmi": nmi.settings.parse, "mic": mic.startup.settings.parse}
GIVEN = {"NODE_NAME": "node-1", "MIC_POD_NAMESPACE": "podid"}
"""Values of the variables that the kubelet sets from the pod's fields."""


def programs(objects: list[Object]) -> dict[str, Any]:
    """Return the settings that each program reads from its command line and environment."""
    settings: dict[str, Any] = {}
    for manifest in objects:
        for container in manifest.get("spec", {}).get("template", {}).get("spec", {}).get("containers", []):
            if parse := PARSE.get(container["name"]):
                environ = {
                    variable["name"]: variable.get("value", GIVEN.get(variable["name"], ""))
                    for variable in container.get("env", [])
                }
                words = [word.replace("$(NODE_NAME)", "node-1") for word in container["args"]]
                settings[container["name"]] = parse(words, environ)
    return settings


@pytest.mark.parametrize("values", golden_sets(), ids=lambda values: values.name.removesuffix(".values.yaml"))
def test_the_programs_accept_their_command_lines(values: Path) -> None:
    managed, settings = values.name.startswith("managed."), programs(render(values))
    assert set(settings) == ({"nmi"} if managed else {"nmi", "mic"})
    assert (settings["nmi"].operation_mode is OperationMode.MANAGED) is managed
    assert settings["nmi"].force_namespaced or not managed


def test_by_default_the_programs_have_their_own_defaults_but_nmi_fails_closed() -> None:
    settings = programs(render())
    assert settings["mic"].describe() == {"cloud_config": "/etc/kubernetes/azure.json", "namespace": "podid"}
    assert settings["nmi"].describe() == {"mic_namespace": "podid", **OWN}
    assert programs(render(namespace="default"))["nmi"].describe() == OWN, "MIC's pods are trusted there"


def test_an_admin_secret_replaces_azure_json() -> None:
    settings = programs(render(GOLDEN / "admin-secret-msi.values.yaml"))["mic"]
    assert settings.cloud_config == ""
    assert set(settings.environment) == set(mic.startup.settings.CLOUD_VARIABLES)


def test_the_programs_can_read_an_inline_description_of_the_cloud(tmp_path: Path) -> None:
    objects = render(GOLDEN / "private-cloud.values.yaml")
    (config,) = (manifest for manifest in objects if manifest["metadata"]["name"] == "aad-pod-identity-cloud")
    file = tmp_path / "environment.json"
    file.write_text(config["data"]["environment.json"])
    assert of_environment(file).authority == "https://login.cloud.example"
    assert of_environment(file).resource_manager == "https://management.cloud.example"


HANDOVER = "/run/aad-pod-identity/nmi.sock"
SIGNAL = "/tmp/started"
OWN = {
    "fail_closed": "True",
    "handover_socket": HANDOVER,
    "node_name": "node-1",
    "probe_port": "8085",
    "start_signal": SIGNAL,
}
"""NMI's settings that the chart sets by default."""

CA_BUNDLE = Path("/etc/aad-pod-identity/ca/ca.crt")

NMI: Mapping[str, Any] = {
    "ca_bundle": CA_BUNDLE,
    "force_namespaced": True,
    "custom_user_agent": "contoso/1.0",
    "verbosity": 4,
    "log_format": LogFormat.JSON,
    "redirect_interval_seconds": 30,
    "mic_namespace": "podid",
    "probe_port": 8086,
    "attempts_for_created": 10,
    "attempts_for_assigned": 2,
    "find_interval_seconds": 3,
    "scale_features": False,
    "metrics_port": 9091,
    "block_instance_metadata": True,
    "metadata_cache_seconds": 30.0,
    "metadata_header_required": False,
    "allow_kubenet": True,
    "kubelet_config": Path("/etc/sysconfig/kubelet"),
    "set_retry_after_header": True,
    "delete_conntrack": True,
    "fail_closed": True,
    "handover_socket": HANDOVER,
    "start_signal": SIGNAL,
    "route_localnet": RouteLocalnetMode.SET,
    "allowed_ad_endpoints": ("https://login.cloud.example/", "https://sts.cloud.example/"),
    "allow_cross_namespace_secrets": True,
    "allowed_metadata_paths": ("/metadata/versions",),
    "exception_namespaces": ("podid", "kube-system"),
    "max_hold_seconds": 30.0,
}
MIC: Mapping[str, Any] = {
    "ca_bundle": CA_BUNDLE,
    "force_namespaced": True,
    "custom_user_agent": "contoso/1.0",
    "verbosity": 5,
    "log_format": LogFormat.JSON,
    "lease_holder": "mic-a",
    "lease_namespace": "leases",
    "lease_name": "pod-identity-leader",
    "lease_seconds": 20.0,
    "probe_port": 8081,
    "metrics_port": 8889,
    "resync_seconds": 600.0,
    "immutable_client_ids": ("00000000-0000-0000-0000-000000000000", "11111111-1111-1111-1111-111111111111"),
    "allowed_resource_groups": ("00000000-0000-0000-0000-000000000000/mc_group_(1).a", "nodes"),
    "assign_cluster_identity": True,
    "write_batch": 40,
    "writes_per_second": 2.5,
    "cloud_config": "/etc/azure/cloud.json",
    "update_retries": 3,
    "update_retry_seconds": 2.0,
    "look_seconds": 300.0,
    "startup_taint": "aadpodidentity.k8s.io/nmi-not-ready",
    "nmi_selector": (
        "app.kubernetes.io/name=aad-pod-identity,app.kubernetes.io/instance=pod-identity,app.kubernetes.io/component=nmi"
    ),
    "detach_grace_seconds": 30.0,
    "namespace": "podid",
}


@pytest.mark.parametrize("helm", HELMS)
def test_every_value_arrives_at_its_setting(helm: str) -> None:
    objects = render(GOLDEN / "every-flag.values.yaml", helm=helm)
    settings = programs(objects)
    assert {name: getattr(settings["nmi"], name) for name in NMI} == NMI
    assert {name: getattr(settings["mic"], name) for name in MIC} == MIC
    assert set(settings["nmi"].describe()) == {*NMI, "node_name"}
    assert set(settings["mic"].describe()) == set(MIC)
    labels = dict(label.split("=") for label in MIC["nmi_selector"].split(","))
    (nmi_pods,) = (
        manifest["spec"]["template"]["metadata"]["labels"]
        for manifest in objects
        if manifest["kind"] == "DaemonSet" and manifest["metadata"]["name"].endswith("-nmi")
    )
    assert labels.items() <= nmi_pods.items(), "MIC finds NMI's pods by these labels"
