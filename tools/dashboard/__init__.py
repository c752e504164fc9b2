"""Generator of the chart's Grafana dashboard: `python -m tools.dashboard`. A test compares the file with its output.

A cluster can have a thousand nodes, so a panel shows sums, quantiles and the ten nodes with the highest values. Two
labels depend on the scrape configuration: `node`, and `exported_namespace`. The latter is Prometheus's name for a
metric's label `namespace` (the requesting pod's) if the target has a label `namespace` too. Without these labels, "All"
shows all series.
"""

import json
from pathlib import Path
from typing import Final

from tools.dashboard.both_programs import OVERVIEW, PROCESSES
from tools.dashboard.mic_row import MIC
from tools.dashboard.nmi_rows import NODES, REQUESTS_OF_PODS, TOKENS
from tools.dashboard.queries import ALL
from tools.grafana import dashboard, variable

FILE: Final = Path(__file__).parents[2] / "deploy/charts/aad-pod-identity/files/dashboard.json"
ROWS: Final = (OVERVIEW, REQUESTS_OF_PODS, TOKENS, NODES, MIC, PROCESSES)


def text() -> str:
    """Return the content of the dashboard's file."""
    variables = [
        variable("node", "Node", "aadpodidentity_nmi_redirect_in_force", "node"),
        variable("namespace", "Pods' namespace", ALL, "exported_namespace"),
    ]
    return json.dumps(dashboard(ROWS, variables), indent=2, ensure_ascii=False) + "\n"
