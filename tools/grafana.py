"""Grafana dashboards (JSON schema 37: Grafana 9 and newer), generated from rows of panels."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

DATA_SOURCE: Final = {"type": "prometheus", "uid": "${datasource}"}
COLUMNS: Final = 24
SCRAPE_INTERVAL: Final = "1m"
"""Longest supported scrape interval. Grafana's $__rate_interval is four times this value, and a rate needs two samples.

Without it, Grafana uses the interval of the data source, 15 s by default.
"""


@dataclass(frozen=True)
class Query:
    """One query of a panel, and the legend of its series."""

    expr: str
    legend: str = ""


@dataclass(frozen=True)
class Panel:
    """One panel: a graph, or a number (*stat*) that is red from *alarm* up and below *least*."""

    title: str
    text: str
    queries: Sequence[Query]
    unit: str = "short"
    width: int = 8
    least: float | None = None
    alarm: float | None = None
    stat: bool = False
    stacked: bool = False


@dataclass(frozen=True)
class Row:
    """A row of panels with a title."""

    title: str
    panels: Sequence[Panel]


def dashboard(rows: Sequence[Row], variables: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return the dashboard with *variables* and the variable of the data source."""
    return {
        "uid": "aad-pod-identity",
        "title": "Pod identity",
        "description": "Tokens for pods: NMI on every node, MIC, and the responses of Azure.",
        "tags": ["aad-pod-identity"],
        "schemaVersion": 37,
        "version": 1,
        "editable": True,
        "graphTooltip": 1,
        "refresh": "1m",
        "time": {"from": "now-6h", "to": "now"},
        "timezone": "",
        "annotations": {"list": []},
        "links": [],
        "templating": {
            "list": [
                {
                    "name": "datasource",
                    "label": "Data source",
                    "type": "datasource",
                    "query": "prometheus",
                    "current": {},
                    "hide": 0,
                },
                *variables,
            ]
        },
        "panels": list(positioned(rows)),
    }


def variable(name: str, label: str, metric: str, values_of: str) -> dict[str, Any]:
    """Return a variable with the values of *metric*'s label *values_of*. All includes series without this label."""
    query = f"label_values({metric}, {values_of})"
    return {
        "name": name,
        "label": label,
        "type": "query",
        "datasource": DATA_SOURCE,
        "definition": query,
        "query": {"query": query, "refId": name},
        "refresh": 2,
        "sort": 1,
        "multi": True,
        "includeAll": True,
        "allValue": ".*",
        "current": {"selected": True, "text": ["All"], "value": ["$__all"]},
    }


def positioned(rows: Sequence[Row]) -> Iterator[dict[str, Any]]:
    """Yield the panels with their positions: row by row, from the left, in several lines if a row is full."""
    number, top = 0, 0
    for row in rows:
        number += 1
        yield {
            "id": number,
            "type": "row",
            "title": row.title,
            "collapsed": False,
            "panels": [],
            "gridPos": {"h": 1, "w": COLUMNS, "x": 0, "y": top},
        }
        top += 1
        left, height = 0, 8
        for panel in row.panels:
            if left + panel.width > COLUMNS:
                left, top = 0, top + height
            number += 1
            height = 4 if panel.stat else 8
            position = {"h": height, "w": panel.width, "x": left, "y": top}
            yield {"id": number, "gridPos": position, **panel_json(panel)}
            left += panel.width
        top += height


def panel_json(panel: Panel) -> dict[str, Any]:
    """Return *panel* without its position."""
    steps: list[dict[str, Any]] = [{"color": "green", "value": None}]
    if panel.least is not None:
        steps = [{"color": "red", "value": None}, {"color": "green", "value": panel.least}]
    if panel.alarm is not None:
        steps.append({"color": "red", "value": panel.alarm})
    defaults: dict[str, Any] = {"unit": panel.unit, "min": 0, "thresholds": {"mode": "absolute", "steps": steps}}
    options: dict[str, Any]
    if panel.stat:
        options = {
            "reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False},
            "colorMode": "value",
            "graphMode": "area",
        }
    else:
        defaults["custom"] = {
            "drawStyle": "line",
            "lineWidth": 1,
            "fillOpacity": 40 if panel.stacked else 10,
            "showPoints": "never",
            "stacking": {"mode": "normal" if panel.stacked else "none", "group": "A"},
        }
        options = {
            "legend": {"displayMode": "list", "placement": "bottom", "showLegend": True},
            "tooltip": {"mode": "multi", "sort": "desc"},
        }
    return {
        "type": "stat" if panel.stat else "timeseries",
        "title": panel.title,
        "description": panel.text,
        "datasource": DATA_SOURCE,
        "fieldConfig": {"defaults": defaults, "overrides": []},
        "options": options,
        "targets": [
            {
                "refId": chr(ord("A") + number),
                "datasource": DATA_SOURCE,
                "editorMode": "code",
                "expr": query.expr,
                "interval": SCRAPE_INTERVAL,
                "legendFormat": query.legend or "__auto",
                "range": True,
            }
            for number, query in enumerate(panel.queries)
        ],
    }
