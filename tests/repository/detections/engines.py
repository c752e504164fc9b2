"""Engines that evaluate the shipped rules on audit lines: SQLite for Sigma, DuckDB for KQL."""

import json
import sqlite3
from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta
from functools import cache
from typing import Any, Final

import duckdb_kql
from sigma.backends.sqlite.sqlite import sqliteBackend
from sigma.collection import SigmaCollection

from podidentity.telemetry.logs import FIELDS
from tests.support.checkout import ROOT

DETECTIONS: Final = ROOT / "deploy" / "detections"
COLUMNS: Final = ("timestamp", "level", "logger", "message", *FIELDS)
Line = Mapping[str, Any]


@cache
def _sigma_query(name: str) -> str:
    """Return the SQL of the last rule in a file: the one that alerts."""
    rules = SigmaCollection.from_yaml((DETECTIONS / "sigma" / f"{name}.yml").read_text(encoding="utf-8"))
    *_, query = sqliteBackend().convert(rules)  # type: ignore[no-untyped-call]
    return str(query).replace("<TABLE_NAME>", "logs")


def sigma_alerts(name: str, lines: Iterable[Line]) -> list[Line]:
    """Return the rows that the alerting rule of the file *name* finds in *lines*."""
    with sqlite3.connect(":memory:") as database:
        database.row_factory = sqlite3.Row
        database.execute(f"CREATE TABLE logs ({', '.join(f'`{column}`' for column in COLUMNS)})")
        for line in lines:
            values = [line.get("time" if column == "timestamp" else column) for column in COLUMNS]
            database.execute(f"INSERT INTO logs VALUES ({', '.join('?' * len(COLUMNS))})", values)  # noqa: S608
        rows = [dict(row) for row in database.execute(_sigma_query(name))]
    database.close()
    return [{**row, **json.loads(row.get("group_keys", "{}"))} for row in rows]


def kql_alerts(
    name: str, lines: Iterable[Line], *, namespace: str = "kube-system", container: str = "nmi"
) -> list[dict[str, Any]]:
    """Return the rows that the query *name* finds, if a workspace contains *lines* as the log of the *container*."""
    database = duckdb_kql.connect()
    database.execute(
        "CREATE TABLE ContainerLogV2 (TimeGenerated TIMESTAMP, PodNamespace VARCHAR, ContainerName VARCHAR, "
        "Computer VARCHAR, LogMessage JSON)"
    )
    for line in lines:
        row = (moment(line), namespace, container, "node-0", json.dumps(line))
        database.execute("INSERT INTO ContainerLogV2 VALUES (?, ?, ?, ?, ?)", row)
    result = duckdb_kql.query(database, kql(name))
    rows = [dict(zip(result.columns, row, strict=True)) for row in result.fetchall()]
    database.close()
    return rows


def kql(name: str) -> str:
    """Return the text of the query *name*."""
    return (DETECTIONS / "kql" / f"{name}.kql").read_text(encoding="utf-8")


def moment(line: Line) -> datetime:
    """Return the time of *line* in UTC, without a zone."""
    return datetime.fromisoformat(line["time"]).replace(tzinfo=None)


def earlier(lines: Iterable[Line], by: timedelta) -> list[Line]:
    """Return *lines* as if they had been written earlier."""
    return [{**line, "time": f"{moment(line) - by:%Y-%m-%dT%H:%M:%S.%fZ}"} for line in lines]
