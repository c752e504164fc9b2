"""The alerts, the dashboard and the runbooks as tests read them, and the programs of Prometheus."""

import functools
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import msgspec
import yaml

from tests.support.checkout import ROOT

FILES: Final = ROOT / "deploy/charts/aad-pod-identity/files"
RUNBOOKS: Final = ROOT / "docs/runbooks"
UNPACKED: Final = ROOT / "build/prometheus/usr/bin"


class Alert(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename={"name": "alert", "duration": "for"}):
    """One alert of the rule file, with all its fields."""

    name: str
    expr: str
    labels: dict[str, str]
    annotations: dict[str, str]
    duration: str = ""


@functools.cache
def rules() -> dict[str, Any]:
    """Return the content of the rule file."""
    read: dict[str, Any] = yaml.safe_load((FILES / "alerts.yaml").read_text())
    return read


def alerts() -> list[Alert]:
    """Return every alert of every group, in the file's order."""
    return [msgspec.convert(rule, Alert) for group in rules()["groups"] for rule in group["rules"]]


def selectors(alert: Alert) -> list[str]:
    """Return the selectors of *alert*; one for each value if a selector names several values of a label."""
    expanded = []
    for written in re.findall(r"\b(?:aadpodidentity|process)_\w+(?:\{[^}]*\})?", alert.expr):
        selector = re.sub(r"\s+", "", written)
        several = re.search(r'=~"(\w+(?:\|\w+)+)"', selector)
        values = several[1].split("|") if several else []
        expanded += [selector.replace(several[0], f'="{value}"') for value in values] if several else [selector]
    return expanded


@functools.cache
def cases() -> dict[str, Any]:
    """Return promtool's test cases of the alerts."""
    read: dict[str, Any] = yaml.safe_load((Path(__file__).parent / "firing.yaml").read_text())
    return read


def expectations(alert: Alert) -> list[list[dict[str, str]]]:
    """Return the labels of the firing alerts for each time at which the cases check *alert*."""
    return [
        [fires["exp_labels"] for fires in look["exp_alerts"]]
        for case in cases()["tests"]
        for look in case["alert_rule_test"]
        if look["alertname"] == alert.name
    ]


@functools.cache
def dashboard() -> dict[str, Any]:
    """Return the content of the dashboard's file."""
    read: dict[str, Any] = msgspec.json.decode((FILES / "dashboard.json").read_bytes())
    return read


def panels() -> list[dict[str, Any]]:
    """Return the dashboard's panels, without the rows' headings."""
    return [panel for panel in dashboard()["panels"] if panel["type"] != "row"]


def queries() -> Iterator[tuple[str, str, str]]:
    """Yield the panel's title, the query's letter, and the query, for each query of each panel."""
    for panel in panels():
        for target in panel["targets"]:
            yield panel["title"], target["refId"], target["expr"]


def program(name: str) -> str:
    """Return the path of `prometheus` or `promtool`. Fail if it is missing; make setup has it."""
    path = str(UNPACKED / name) if (UNPACKED / name).exists() else shutil.which(name)
    assert path, f"{name} is missing: run make setup"
    return path


def promtool(*arguments: str) -> str:
    """Return promtool's output of a command that must succeed."""
    done = subprocess.run([program("promtool"), *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout
