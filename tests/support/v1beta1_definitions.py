"""CustomResourceDefinitions of a cluster whose first definitions were apiextensions.k8s.io/v1beta1, without a schema.

No API server serves v1beta1 since Kubernetes 1.22, but each converts what its storage has. It sets
`spec.preserveUnknownFields` to true, which a new definition may not have.
"""

import uuid
from pathlib import Path
from typing import Any

import yaml

from tests.conftest import OUR_KINDS
from tests.support.checkout import ROOT
from tests.support.testplane import up
from tests.support.waiting import until_sync

GROUP = "aadpodidentity.k8s.io"
PATH = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
STORAGE = "/registry/apiextensions.k8s.io/customresourcedefinitions"
DEFINITIONS = ROOT / "deploy" / "crds"


def leave_v1beta1_definitions(plane: up.Plane) -> None:
    """Write the definitions into the storage of *plane*, which must not have them. Return when they are served."""
    for file in sorted(DEFINITIONS.glob("*.yaml")):
        plane.put(f"{STORAGE}/{(stored := _v1beta1(file))['metadata']['name']}", stored)
    for kind in OUR_KINDS:
        _until_served(plane, f"/apis/{GROUP}/v1/{kind}")


def served_definitions(plane: up.Plane) -> list[dict[str, Any]]:
    """Return the definitions as the API server serves them, which is in version v1."""
    return [plane.api("GET", f"{PATH}/{kind}.{GROUP}") for kind in OUR_KINDS]


def _v1beta1(file: Path) -> dict[str, Any]:
    """Return the v1beta1 definition of the kind that *file* defines, as the API server stores it."""
    ours = yaml.safe_load(file.read_text())
    return {
        "apiVersion": "apiextensions.k8s.io/v1beta1",
        "kind": "CustomResourceDefinition",
        "metadata": {
            "name": ours["metadata"]["name"],
            "uid": str(uuid.uuid4()),
            "generation": 1,
            "creationTimestamp": "2019-06-01T00:00:00Z",
        },
        "spec": {
            **{key: ours["spec"][key] for key in ("group", "names", "scope")},
            "version": "v1",
            "versions": [{"name": "v1", "served": True, "storage": True}],
            "conversion": {"strategy": "None"},
            "preserveUnknownFields": True,
        },
        "status": {"conditions": [], "acceptedNames": {"kind": "", "plural": ""}, "storedVersions": ["v1"]},
    }


def _until_served(plane: up.Plane, path: str) -> None:
    until_sync(lambda: plane.api("GET", path), f"{path} is served", ignoring=RuntimeError)
