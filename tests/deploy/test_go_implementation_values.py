"""The chart has every value of the Go implementation's chart 4.1.18, with the same default."""

from collections.abc import Mapping
from typing import Any

import pytest
import yaml

from tools.chart.rendering import CHART

VALUES: dict[str, Any] = yaml.safe_load((CHART / "values.yaml").read_text())

# reference: charts/aad-pod-identity/values.yaml and README.md.
DEFAULTS: Mapping[str, Any] = {
    "nameOverride": "",
    "fullnameOverride": "",
    "image.repository": "mcr.microsoft.com/oss/azure/aad-pod-identity",
    "image.imagePullPolicy": "IfNotPresent",
    "customLabels": {},
    "imagePullSecrets": [],
    "forceNamespaced": "false",
    "installMICException": "true",
    "adminsecret": {},
    "operationMode": "standard",
    "mic.image": "mic",
    "mic.tag": "v1.8.17",
    "mic.priorityClassName": "",
    "mic.logVerbosity": 0,
    "mic.loggingFormat": "",
    "mic.replicas": 2,
    "mic.resources": {
        "limits": {"cpu": "200m", "memory": "1024Mi"},
        "requests": {"cpu": "100m", "memory": "256Mi"},
    },
    "mic.podAnnotations": {},
    "mic.podLabels": {},
    "mic.nodeSelector": {"kubernetes.io/os": "linux"},
    "mic.tolerations": [],
    "mic.affinity": {
        "podAntiAffinity": {
            "preferredDuringSchedulingIgnoredDuringExecution": [
                {
                    "weight": 1,
                    "podAffinityTerm": {
                        "topologyKey": "kubernetes.io/hostname",
                        "labelSelector": {"matchLabels": {"app.kubernetes.io/component": "mic"}},
                    },
                }
            ]
        }
    },
    "mic.topologySpreadConstraints": [],
    "mic.podDisruptionBudget": {},
    "mic.leaderElection.instance": "",
    "mic.leaderElection.namespace": "",
    "mic.leaderElection.name": "",
    "mic.leaderElection.duration": "",
    "mic.probePort": "",
    "mic.syncRetryDuration": "",
    "mic.immutableUserMSIs": [],
    "mic.createDeleteBatch": "",
    "mic.clientQps": "",
    "mic.prometheusPort": "",
    "mic.cloudConfig": "/etc/kubernetes/azure.json",
    "mic.customCloud.enabled": False,
    "mic.customCloud.configPath": "/etc/kubernetes/akscustom.json",
    "mic.updateUserMSIMaxRetry": "",
    "mic.updateUserMSIRetryInterval": "",
    "mic.identityAssignmentReconcileInterval": "",
    "nmi.image": "nmi",
    "nmi.tag": "v1.8.17",
    "nmi.priorityClassName": "",
    "nmi.logVerbosity": 0,
    "nmi.loggingFormat": "",
    "nmi.resources": {
        "limits": {"cpu": "200m", "memory": "512Mi"},
        "requests": {"cpu": "100m", "memory": "256Mi"},
    },
    "nmi.updateStrategy": {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 1}},
    "nmi.podAnnotations": {},
    "nmi.podLabels": {},
    "nmi.nodeSelector": {"kubernetes.io/os": "linux"},
    "nmi.tolerations": [],
    "nmi.affinity": {},
    "nmi.ipTableUpdateTimeIntervalInSeconds": "",
    "nmi.micNamespace": "",
    "nmi.probePort": "8085",
    "nmi.retryAttemptsForCreated": "",
    "nmi.retryAttemptsForAssigned": "",
    "nmi.findIdentityRetryIntervalInSeconds": "",
    "nmi.enableScaleFeatures": True,
    "nmi.prometheusPort": "",
    "nmi.blockInstanceMetadata": "",
    "nmi.metadataHeaderRequired": True,
    "nmi.allowNetworkPluginKubenet": False,
    "nmi.kubeletConfig": "/etc/default/kubelet",
    "nmi.setRetryAfterHeader": False,
    "nmi.enableConntrackDeletion": False,
    "rbac.enabled": True,
    "rbac.allowAccessToSecrets": True,
    "rbac.pspEnabled": False,
    "rbac.createUserFacingClusterRoles": False,
    "azureIdentities": {},
    "customUserAgent": "",
    "podMonitor.enabled": False,
    "podMonitor.labels": {},
    "podMonitor.annotations": {},
    "podMonitor.interval": "5m",
    "podMonitor.scrapeTimeout": "30s",
}

DIFFERENT: Mapping[str, Any] = {
    "image.repository": "aad-pod-identity",
    "mic.resources": {"limits": {"cpu": "1", "memory": "1024Mi"}, "requests": {"cpu": "100m", "memory": "256Mi"}},
    "nmi.resources": {"limits": {"cpu": "1", "memory": "512Mi"}, "requests": {"cpu": "100m", "memory": "256Mi"}},
    "mic.tag": "",
    "mic.priorityClassName": "system-cluster-critical",
    "nmi.tag": "",
    "nmi.priorityClassName": "system-node-critical",
    "nmi.tolerations": [{"operator": "Exists"}],
    "nmi.updateStrategy": {},
}
"""Intentional differences, which the README lists."""


def value(name: str) -> Any:
    found: Any = VALUES
    for part in name.split("."):
        found = found[part]
    return found


@pytest.mark.parametrize("name", DEFAULTS)
def test_the_default_is_that_of_the_go_implementation(name: str) -> None:
    assert value(name) == DIFFERENT.get(name, DEFAULTS[name])


@pytest.mark.parametrize("name", DIFFERENT)
def test_the_readme_names_each_difference(name: str) -> None:
    assert DIFFERENT[name] != DEFAULTS[name]
    assert f"`{name}`" in (CHART / "README.md").read_text().partition("## Upgrading")[0]
