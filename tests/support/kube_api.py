"""The sandbox's API server with the project's definitions, without a listener."""

import copy
import functools
from pathlib import Path
from typing import Any

from podidentity_sandbox.kubeapi import definitions
from podidentity_sandbox.kubeapi.kinds import DEFINITIONS
from podidentity_sandbox.kubeapi.server import KubeApi

CRDS = Path(__file__).parents[2] / "deploy" / "crds"


def kube_api(**settings: Any) -> KubeApi:
    """Return an API server that serves our kinds. *settings* are those of KubeApi."""
    api = KubeApi(keep=1000, **settings)
    for definition in copy.deepcopy(_definitions()):
        api.store.create(DEFINITIONS, definition)
    api.compact()
    return api


@functools.cache
def _definitions() -> list[dict[str, Any]]:
    """Return the definitions. Their YAML takes 0.1 s to read."""
    return definitions.from_directory(CRDS)
