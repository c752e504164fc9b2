"""The provenance of a build as an in-toto statement with a SLSA v1 predicate."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from tools.release.summary import Artifact, artifact

STATEMENT: Final = "https://in-toto.io/Statement/v1"
PREDICATE: Final = "https://slsa.dev/provenance/v1"
BUILD_TYPE: Final = "urn:aad-pod-identity:make-release:1"
"""docs/rebuild.md describes this build type: its parameters, and how to run it again."""
LOCAL: Final = "urn:aad-pod-identity:local-build"
"""The builder that signs nothing: a person's machine."""
INPUTS: Final = (
    *("build.lock", "release.lock", "requirements.lock"),
    *("deploy/docker/packages.lock", "deploy/docker/tools.lock"),
)


@dataclass(frozen=True, slots=True)
class Build:
    """What a builder needs to build the same bytes again."""

    commit: str
    epoch: int
    python: str
    machine: str
    url: str = ""
    """The repository's address, or an empty string."""
    builder: str = LOCAL
    base: str = ""
    """Name and digest of the images' base, or an empty string if no image is a subject."""


def statement(artifacts: Iterable[Artifact], build: Build, tree: Path) -> dict[str, Any]:
    """Return the statement that *build* made *artifacts* from *tree*. It contains no time, so equal builds have one."""
    source = {"uri": f"git+{build.url}"} if build.url else {"name": "source"}
    locks = [{"name": name, "digest": {"sha256": artifact(tree / name).sha256}} for name in INPUTS]
    name, _, digest = build.base.partition("@sha256:")
    base = [{"name": name, "digest": {"sha256": digest}}] if build.base else []
    return {
        "_type": STATEMENT,
        "subject": [{"name": file.name, "digest": {"sha256": file.sha256}} for file in artifacts],
        "predicateType": PREDICATE,
        "predicate": {
            "buildDefinition": {
                "buildType": BUILD_TYPE,
                "externalParameters": {"commit": build.commit},
                "internalParameters": {
                    "SOURCE_DATE_EPOCH": build.epoch,
                    "python": build.python,
                    "machine": build.machine,
                },
                "resolvedDependencies": [{**source, "digest": {"gitCommit": build.commit}}, *locks, *base],
            },
            "runDetails": {"builder": {"id": build.builder}},
        },
    }


def text_of(document: Mapping[str, Any]) -> str:
    """Return *document* as JSON text, equal for equal documents."""
    return json.dumps(document, indent=1, sort_keys=True, ensure_ascii=False) + "\n"
