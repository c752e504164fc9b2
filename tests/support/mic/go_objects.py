"""Objects of the Go implementation, and one of MIC, for tests that each can read those of the other."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
import yaml

from mic.decisions import documents
from mic.decisions.assignments import DesiredAssignment
from podidentity.kube.decoding import decode_object
from podidentity.resources import Kind
from tests.support.objects import binding, identity, pod

FOLDER = Path(__file__).parent / "reference"
CASES = sorted(FOLDER.glob("v*.yaml"))


def load(path: Path) -> dict[str, dict[str, Any]]:
    return dict(yaml.safe_load(path.read_text()))


def read(kind: Kind[Any], document: Mapping[str, Any]) -> Any:
    """Decode *document* as MIC does until its type upgrade is recorded."""
    return decode_object(kind, msgspec.json.encode(document), old_field_names=True)


def cleared(document: Mapping[str, Any], namespace: str) -> dict[str, Any]:
    """*document* as it can be created: without what only a server sets."""
    ours = ("name", "labels", "annotations", "finalizers")
    metadata = {name: value for name, value in document["metadata"].items() if name in ours}
    return {**document, "metadata": {**metadata, "namespace": namespace}}


def written() -> dict[str, Any]:
    """An object as MIC creates it, with all that it may hold."""
    bound, given = binding(), identity(namespaced=True)
    bound = msgspec.structs.replace(bound, metadata=msgspec.structs.replace(bound.metadata, resource_version="7"))
    given = msgspec.structs.replace(given, metadata=msgspec.structs.replace(given.metadata, resource_version="7"))
    desired = DesiredAssignment(pod(), bound, given, None, namespaced=True)
    return documents.new_document(desired, "web-default-demo", "Created", "mic")
