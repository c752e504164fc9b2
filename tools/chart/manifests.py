"""The plain manifests of deploy/manifests, for whoever does not use helm: rendered from the chart, under the names that
the reference gave its own.
"""

import base64
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import yaml

from tools.chart.rendering import CHART, ROOT, Object, in_order, render

MANIFESTS: Final = ROOT / "deploy" / "manifests"
OF_HELM: Final = ("app.kubernetes.io/managed-by", "helm.sh/chart")
"""Labels that would say that helm looks after an object."""
SECRET: Final = {
    "cloud": "AzurePublicCloud",
    "subscriptionID": "<subscription of the nodes>",
    "resourceGroup": "<resource group of the nodes>",
    "vmType": "<standard or vmss>",
    "tenantID": "<tenant of the service principal>",
    "clientID": "<client id of the service principal>",
    "clientSecret": "<its secret>",
}


@dataclass(frozen=True, slots=True)
class Manifest:
    """One file: what it is for, and the values that it is rendered with."""

    about: str
    values: dict[str, Any] = field(default_factory=dict)
    namespace: str = "default"
    only: frozenset[str] = frozenset()
    """Kinds; all, and the CustomResourceDefinitions, if empty."""


BESIDE: Final = (
    "Not over an installation of the reference's manifests: its ds/nmi and deploy/mic have other names than the",
    "objects here and would run on beside them, on the same ports. docs/migration.md says how to get here.",
    "NMI's rules stay on the nodes when it is deleted: docs/operations.md, Uninstall, says how to remove them.",
)
EXCEPTION: Final = frozenset({"AzurePodIdentityException"})
MANIFEST_OF: Final[dict[str, Manifest]] = {
    "deployment-rbac.yaml": Manifest("NMI and MIC with their roles, signed in by the nodes' azure.json."),
    "deployment.yaml": Manifest(
        "NMI and MIC for a cluster without RBAC, signed in by the nodes' azure.json.", {"rbac": {"enabled": False}}
    ),
    "managed-mode-deployment.yaml": Manifest(
        "NMI alone, in managed mode: you put the identities on the VMs yourself.",
        {"operationMode": "managed"},
        namespace="kube-system",
    ),
    "mic-exception.yaml": Manifest(
        "Token requests of MIC's own pods and of AKS' add-ons go to the node's own identities.\n"
        "For after the CustomResourceDefinitions are served.",
        {"installMICException": "true"},
        only=EXCEPTION,
    ),
    "noazurejson/deployment-rbac.yaml": Manifest(
        "NMI and MIC with their roles, signed in by a service principal: put it into the Secret below.",
        {"adminsecret": SECRET},
    ),
    "noazurejson/deployment.yaml": Manifest(
        "NMI and MIC for a cluster without RBAC, signed in by a service principal: put it into the Secret below.",
        {"adminsecret": SECRET, "rbac": {"enabled": False}},
    ),
}


def text_of(manifest: Manifest) -> str:
    """The whole file."""
    values = {"installMICException": "false", **manifest.values}
    options = [f"--set-json={name}={json.dumps(value)}" for name, value in values.items()]
    objects = render(release="aad-pod-identity", namespace=manifest.namespace, options=["--no-hooks", *options])
    wanted = [_plain(each) for each in objects if not manifest.only or each["kind"] in manifest.only]
    definitions = [] if manifest.only else [file.read_text() for file in sorted((CHART / "crds").glob("*.yaml"))]
    lines = (*manifest.about.splitlines(), *(() if manifest.only else BESIDE), "Made by: python -m tools.chart")
    about = "".join(f"# {line}\n" for line in lines)
    rest = yaml.safe_dump_all(in_order(wanted), width=120, sort_keys=False, explicit_start=True)
    return about + "".join(f"---\n{each}" for each in definitions) + rest


def _plain(each: Object) -> Object:
    for meta in (each["metadata"], each.get("spec", {}).get("template", {}).get("metadata", {})):
        for label in OF_HELM:
            meta.get("labels", {}).pop(label, None)
    if each["kind"] == "Secret":
        # People fill it in: as text, not as base64.
        each["stringData"] = {key: base64.b64decode(text).decode() for key, text in each.pop("data").items()}
    return each


def update() -> None:
    """Write every file."""
    for name, manifest in MANIFEST_OF.items():
        file: Path = MANIFESTS / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text_of(manifest))
