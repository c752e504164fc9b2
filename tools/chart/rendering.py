"""Output of `helm template` for the chart, sorted and without comments: equal for all versions of helm."""

import json
import subprocess
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import yaml

from tests.support.testplane import up
from tools.chart.differences import difference, patched

ROOT: Final = Path(__file__).parents[2]
CHART: Final = ROOT / "deploy" / "charts" / "aad-pod-identity"
CANARY: Final[Path] = CHART / "files" / "canary.py"
"""The copy of the canary's program: helm reads only files of the chart."""
GOLDEN: Final = ROOT / "tests" / "repository" / "deploy" / "golden"
DEFAULTS: Final = GOLDEN / "defaults.yaml"
"""The golden file of the defaults."""
HELMS: Final = ("helm", "helm3")
RELEASE: Final = "pod-identity"
NAMESPACE: Final = "podid"

REGISTRY: Final = Path(__file__).with_name("registry.yaml")
"""The values without which the chart renders nothing."""

Object = dict[str, Any]


class RenderError(Exception):
    """Refusal of the values by helm, with its message."""


def render(
    *values: Path,
    given: str | Mapping[str, Any] = "",
    helm: str = "helm",
    chart: Path = CHART,
    release: str = RELEASE,
    namespace: str = NAMESPACE,
    options: Sequence[str] = (),
) -> list[Object]:
    """Return the objects for these files of values, in helm's order. Raise RenderError if helm refuses the values.

    *given* contains values that override the files and REGISTRY, as YAML or as a mapping.
    """
    files = [f"--values={file}" for file in (REGISTRY, *values, "-")]
    text = given if isinstance(given, str) else json.dumps(given)
    command = [str(up.tool(helm)), "template", release, str(chart), f"--namespace={namespace}", *files, *options]
    done = subprocess.run(command, input=text, capture_output=True, text=True, timeout=60, check=False)
    if done.returncode:
        raise RenderError(done.stderr)
    return [item for item in yaml.safe_load_all(done.stdout) if item]


def identity(item: Object) -> tuple[str, str, str]:
    """Return kind, namespace and name of an object."""
    return item["kind"], item["metadata"].get("namespace", ""), item["metadata"]["name"]


def in_order(objects: Iterable[Object]) -> list[Object]:
    """Return *objects* sorted by kind, namespace and name."""
    return sorted(objects, key=identity)


def text_of(objects: Iterable[Object]) -> str:
    """Return *objects* sorted, as YAML. Files of the chart that they contain are replaced by their names."""
    return yaml.safe_dump_all(map(_shortened, in_order(objects)), width=120, explicit_start=True)


def _shortened(item: Object) -> Object:
    if item["kind"] not in {"ConfigMap", "Pod"}:
        return item
    names = {file.read_text().strip(): f"<{file.name}>" for folder in ("crds", "files") for file in _files(folder)}
    if item["kind"] == "ConfigMap":
        return {**item, "data": {key: names.get(text.strip(), text) for key, text in item["data"].items()}}
    containers = [
        {**container, "command": [names.get(text.strip(), text) for text in container["command"]]}
        if "command" in container
        else container
        for container in item["spec"]["containers"]
    ]
    return {**item, "spec": {**item["spec"], "containers": containers}}


def _files(folder: str) -> Iterator[Path]:
    yield from sorted((CHART / folder).iterdir())


def golden_sets() -> list[Path]:
    """Return the files of values that have a golden file."""
    return sorted(GOLDEN.glob("*.values.yaml"))


def golden_file(values: Path) -> Path:
    """Return the path of the golden file for *values*: the whole text for the defaults, a difference from it else."""
    name = values.name.removesuffix(".values.yaml")
    return values.with_name("defaults.yaml" if name == "defaults" else f"{name}.diff")


def golden_text(values: Path) -> str:
    """Return the whole text that the golden files contain for *values*."""
    base, file = DEFAULTS.read_text(), golden_file(values)
    return base if file == DEFAULTS else patched(base, file.read_text())


def golden_content(values: Path, text: str) -> str:
    """Return the content of the golden file for *values* that renders as *text*."""
    return text if golden_file(values) == DEFAULTS else difference(DEFAULTS.read_text(), text)


def update_golden() -> None:
    """Write the golden file of every set of values, that of the defaults first."""
    for values in sorted(golden_sets(), key=lambda values: golden_file(values) != DEFAULTS):
        golden_file(values).write_text(golden_content(values, text_of(render(values))))
