"""The tables of flags and metrics equal the programs' definitions."""

import re
from collections.abc import Iterator, Mapping

import pytest
from typing_extensions import override

import mic.startup.settings
import nmi.settings
from benchmarks.report.marks import standing
from podidentity.settings import GoSetting, flags_of
from tools.handbook.__main__ import DOCS, MAKER, PARTS
from tools.handbook.flags import PROGRAMS
from tools.handbook.metrics import GO_METRICS

GO_FLAGS = {
    "nmi": (
        "node nmi-listen-address nmi-port metadata-ip metadata-port ipt-update-interval-sec forceNamespaced "
        "MICNamespace http-probe-port prometheus-port retry-attempts-for-created retry-attempts-for-assigned "
        "find-identity-retry-interval enableProfile enableScaleFeatures block-instance-metadata "
        "metadata-header-required operation-mode allow-network-plugin-kubenet kubelet-config set-retry-after-header "
        "enable-conntrack-deletion log-format v logtostderr version custom-user-agent kubeconfig"
    ),
    "mic": (
        "cloudconfig kubeconfig forceNamespaced immutable-user-msis identity-assignment-reconcile-interval "
        "syncRetryDuration createDeleteBatch clientQps update-user-msi-max-retry update-user-msi-retry-interval "
        "custom-user-agent leader-election-instance leader-election-namespace leader-election-name "
        "leader-election-duration enable-type-upgrade config-map-name type-upgrade-status-key enableScaleFeatures "
        "http-probe-port prometheus-port enableProfile log-format logtostderr v version"
    ),
}
"""Flags of the Go implementation (v1.8.17) in cmd/nmi/main.go, cmd/mic/main.go and pkg/log. `v` and `logtostderr` are
klog's, which both programs accept."""


class Read(Mapping[str, str]):
    """An environment that records the names that are read. Of these it has the minimum for a start."""

    def __init__(self) -> None:
        self.requested: set[str] = set()

    @override
    def __getitem__(self, name: str) -> str:
        self.requested.add(name)
        return {"MIC_POD_NAMESPACE": "default"}[name]

    @override
    def __iter__(self) -> Iterator[str]:
        return iter(())

    @override
    def __len__(self) -> int:
        return 0


@pytest.mark.parametrize("name", PARTS)
def test_the_generated_part_is_up_to_date(name: str) -> None:
    assert standing(DOCS / name, MAKER) == PARTS[name](), "run `make docs`"


@pytest.mark.parametrize("program", PROGRAMS)
def test_every_flag_of_the_go_implementation_exists_and_is_marked(program: str) -> None:
    marked = {setting.flag for setting in flags_of(PROGRAMS[program]) if isinstance(setting, GoSetting)}
    assert marked == set(GO_FLAGS[program].split())


def test_the_page_lists_exactly_the_variables_that_are_read() -> None:
    page = (DOCS / "flags.md").read_text()
    rows = re.findall(r"^\| (`[^|]+) \| (both|NMI|MIC) \|", page, re.MULTILINE)
    listed = {
        program: {name for names, who in rows if who in {"both", program} for name in re.findall(r"`(\w+)`", names)}
        for program in ("NMI", "MIC")
    }
    nmis, mics = Read(), Read()
    nmi.settings.parse(["--node=n"], nmis)
    mic.startup.settings.parse([], mics)
    assert nmis.requested == listed["NMI"]
    assert mics.requested == listed["MIC"]


def test_every_metric_of_the_go_implementation_is_marked() -> None:
    page = (DOCS / "metrics.md").read_text()
    marked = {line.split("`")[1] for line in page.splitlines() if line.startswith("| `") and line.endswith("| yes |")}
    assert marked == GO_METRICS
