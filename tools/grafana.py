"""A dashboard in the words of Grafana's JSON (schema 37: Grafana 9 and newer), from what a reader wants to know."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

DATA_SOURCE: Final = {"type": "prometheus", "uid": "${datasource}"}
COLUMNS: Final = 24
SCRAPE_INTERVAL: Final = "1m"
"""How seldom targets may be scraped. Grafana's $__rate_interval is four times that, and a rate needs two samples.

Else it goes by its data source's interval, 15 s where nobody has set it.
"""


@dataclass(frozen=True)
class Query:
    """One query of a panel, and how its series are called."""

    expr: str
    legend: str = ""


@dataclass(frozen=True)
class Panel:
    """One panel: a graph, or a number (*stat*) that is red from *alarm* on, and below *least*."""

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
    title: str
    panels: Sequence[Panel]


def dashboard(rows: Sequence[Row], variables: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The whole of it, with *variables* besides the one for the data source."""
    return {
        "uid": "aad-pod-identity",
        "title": "Pod identity",
        "description": "Tokens for pods: NMI on every node, MIC, and what Azure answers them.",
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
        "panels": list(laid_out(rows)),
    }


def variable(name: str, label: str, metric: str, values_of: str) -> dict[str, Any]:
    """A choice of the values that *metric* has of the label *values_of*; All also takes what has no such label."""
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


def laid_out(rows: Sequence[Row]) -> Iterator[dict[str, Any]]:
    """The panels at their places: row by row, from the left, and further down where a row is full."""
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
            place = {"h": height, "w": panel.width, "x": left, "y": top}
            yield {"id": number, "gridPos": place, **shown(panel)}
            left += panel.width
        top += height


def shown(panel: Panel) -> dict[str, Any]:
    """A panel, but for its place."""
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
