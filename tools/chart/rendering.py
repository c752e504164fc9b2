"""What `helm template` makes of the chart, in one form whatever the helm: objects and keys in order, no comments."""

import subprocess
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import yaml

from tests.testplane import up

ROOT: Final = Path(__file__).parents[2]
CHART: Final = ROOT / "deploy" / "charts" / "aad-pod-identity"
GOLDEN: Final = ROOT / "tests" / "deploy" / "golden"
HELMS: Final = ("helm", "helm3")
RELEASE: Final = "pod-identity"
NAMESPACE: Final = "podid"

Object = dict[str, Any]


class RenderError(Exception):
    """helm refused the values; the text is what it said."""


def render(
    *values: Path,
    helm: str = "helm",
    chart: Path = CHART,
    release: str = RELEASE,
    namespace: str = NAMESPACE,
    options: Sequence[str] = (),
) -> list[Object]:
    """The objects for these files of values, in helm's order. Raises RenderError where helm refuses them."""
    files = [f"--values={file}" for file in values]
    command = [str(up.tool(helm)), "template", release, str(chart), f"--namespace={namespace}", *files, *options]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    if done.returncode:
        raise RenderError(done.stderr)
    return [each for each in yaml.safe_load_all(done.stdout) if each]


def identity(each: Object) -> tuple[str, str, str]:
    """What an object is known by: kind, namespace, name."""
    return each["kind"], each["metadata"].get("namespace", ""), each["metadata"]["name"]


def in_order(objects: Iterable[Object]) -> list[Object]:
    """*objects* by kind, namespace and name."""
    return sorted(objects, key=identity)


def text_of(objects: Iterable[Object]) -> str:
    """*objects* in order, as YAML; files of the chart that they carry are named instead of repeated."""
    return yaml.safe_dump_all(map(_shortened, in_order(objects)), width=120, explicit_start=True)


def _shortened(each: Object) -> Object:
    if each["kind"] != "ConfigMap":
        return each
    known = {file.read_text().strip(): file.name for folder in ("crds", "files") for file in _files(folder)}
    data = {key: f"<{known[text.strip()]}>" if text.strip() in known else text for key, text in each["data"].items()}
    return {**each, "data": data}


def _files(folder: str) -> Iterator[Path]:
    yield from sorted((CHART / folder).iterdir())


def golden_sets() -> list[Path]:
    """The files of values that have a rendered file beside them."""
    return sorted(GOLDEN.glob("*.values.yaml"))


def rendered_beside(values: Path) -> Path:
    """Where what is rendered with *values* is kept."""
    return values.with_name(f"{values.name.removesuffix('.values.yaml')}.yaml")


def update_golden() -> None:
    """Render every set of values anew."""
    for values in golden_sets():
        rendered_beside(values).write_text(text_of(render(values)))
