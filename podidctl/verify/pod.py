"""The manifest of a canary pod. Pure.

The pod has NMI's image and tolerations, runs under the restricted Pod Security level, and has neither a service account
token nor a label that a binding selects. It names its node itself, so a cordoned node runs it too. Its end is certain:
the program stops after some seconds, the kubelet stops it at `activeDeadlineSeconds`, and the next `verify` deletes it.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from podidctl.verify import canary
from podidctl.verify.objects import CANARY_LABELS, CONTAINER, NmiTemplate

METADATA_HOST: Final = "169.254.169.254"
METADATA_PORT: Final = 80
USER: Final = 65532
RESOURCES: Final[Mapping[str, Mapping[str, str]]] = {
    "limits": {"cpu": "200m", "memory": "64Mi"},
    "requests": {"cpu": "10m", "memory": "32Mi"},
}


def program() -> str:
    """Return the text of the canary's program."""
    return Path(canary.__file__).read_text(encoding="utf-8")


def manifest(
    *, name: str, namespace: str, node: str, image: str, request_id: str, template: NmiTemplate, deadline_seconds: int
) -> dict[str, Any]:
    """Return the manifest of the canary *name* on *node*. *template* is a pod of NMI."""
    container = next((each for each in template.spec.containers if each.image == image), None)
    metadata: dict[str, Any] = {"name": name, "namespace": namespace, "labels": dict(CANARY_LABELS)}
    owner = template.owner
    if owner is not None and template.metadata.namespace == namespace:  # an owner is always in the same namespace
        metadata["ownerReferences"] = [
            {"apiVersion": owner.api_version, "kind": owner.kind, "name": owner.name, "uid": owner.uid}
        ]
    return {
        "metadata": metadata,
        "spec": {
            "nodeName": node,
            "restartPolicy": "Never",
            "activeDeadlineSeconds": deadline_seconds,
            "terminationGracePeriodSeconds": 0,
            "automountServiceAccountToken": False,
            "enableServiceLinks": False,
            "dnsPolicy": "Default",
            "securityContext": {
                "runAsNonRoot": True,
                "runAsUser": USER,
                "runAsGroup": USER,
                "seccompProfile": {"type": "RuntimeDefault"},
            },
            "tolerations": template.spec.tolerations,
            "imagePullSecrets": template.spec.image_pull_secrets,
            "containers": [
                {
                    "name": CONTAINER,
                    "image": image,
                    "imagePullPolicy": (container.image_pull_policy if container is not None else "") or "IfNotPresent",
                    "command": ["python3", "-I", "-c", program()],
                    "args": [METADATA_HOST, str(METADATA_PORT), request_id],
                    "terminationMessagePath": str(canary.RESULT),
                    "resources": RESOURCES,
                    "securityContext": {
                        "allowPrivilegeEscalation": False,
                        "readOnlyRootFilesystem": True,
                        "capabilities": {"drop": ["ALL"]},
                    },
                }
            ],
        },
    }
