"""The contents of a support archive: read from the cluster, then redacted."""

import re
from collections.abc import Iterator
from functools import partial
from typing import Any, Final

import msgspec

from podidctl.bundle.redaction import NAMESPACE, Redaction
from podidctl.checks.rules import report
from podidctl.commands.completion import NAMESPACES
from podidctl.facts.kinds import COMPONENT_PREFIX, EVENTS, Daemon
from podidctl.facts.model import Facts, ReadFailure, readable
from podidctl.reading.daemons import MetricsPage, read_log, read_page
from podidctl.reading.reader import CLUSTER, read
from podidctl.reading.requests import in_batches, or_failure
from podidentity.kube.client import Client
from podidentity.version import VERSION

DAEMONS_MAX: Final = 20
"""Pods of NMI and of MIC each whose log is read: first those that are not ready."""
EVENTS_MAX: Final = 500
README: Final = "README.txt"
Files = dict[str, Any]
"""Text, or a value of JSON's types, by the name of the file."""

NAME: Final = "name"
"""Kind of the names of all objects except namespaces."""
_FIELDS: Final = frozenset(
    {
        *("namespace", "podNamespace", "pod", "nodename", "nodeName", "host", "azureIdentity", "azureIdentityRef"),
        *("azureBindingRef", "selector", "aadpodidbinding", "serviceAccountName"),
    }
)
"""Fields whose value is a name."""
_IN_LOGS: Final = re.compile(r"\b(?:pod|identity|binding|exception)(?:=|\": ?)\"?([a-z0-9-]{1,63})/([a-z0-9.-]{1,253})")
_IN_PATHS: Final = re.compile(r"/namespaces/([a-z0-9-]{1,63})/[a-z]+/([a-z0-9.-]{1,253})")
_OF_AZURE: Final = re.compile(
    r"/(?:resourceGroups|virtualMachineScaleSets|virtualMachines|userAssignedIdentities)/([^/\s\"]+)", re.IGNORECASE
)
"""Names in resource ids."""


async def collect(client: Client) -> Files:
    """Return the files before redaction. Raises ApiError if the API server does not respond or rejects the
    credentials. What else could not be read is named in its file.
    """
    facts = await read(client, Facts(), CLUSTER)
    files: Files = {
        "doctor.json": report(facts),
        "objects.json": {
            "azureIdentities": facts.identities,
            "azureIdentityBindings": facts.bindings,
            "azureAssignedIdentities": facts.assigned,
            "azurePodIdentityExceptions": facts.exceptions,
            "unread": {field: failure.reason for field, failure in facts.unread.items()},
        },
        "nodes.json": facts.nodes,
        "pods.json": facts.pods,
        "namespaces.json": await _namespaces(client),
        "events.json": await _events(client),
    }
    for program, daemons in (("nmi", facts.nmi), ("mic", facts.mic)):
        files[f"{program}.json"] = _of_failure(daemons)
        chosen = sorted(readable(daemons), key=lambda daemon: daemon.ready)[:DAEMONS_MAX]
        logs = await in_batches(partial(_log, client, daemon, program) for daemon in chosen)
        files |= {f"{program}/{daemon.metadata.name}/log.txt": log for daemon, log in zip(chosen, logs, strict=True)}
        if program == "nmi":
            pages = await in_batches(partial(read_page, client, daemon) for daemon in chosen)
            files |= {
                f"nmi/{daemon.metadata.name}/metrics.txt": page.text if isinstance(page, MetricsPage) else page.problem
                for daemon, page in zip(chosen, pages, strict=True)
            }
    return files


def _of_failure(value: Any) -> Any:
    return {"unread": value.reason} if isinstance(value, ReadFailure) else value


async def _namespaces(client: Client) -> Any:
    namespaces = await or_failure(client.list(NAMESPACES))
    if isinstance(namespaces, ReadFailure):
        return _of_failure(namespaces)
    return [{"namespace": item.metadata.name} for item in namespaces]


async def _events(client: Client) -> Any:
    events = await or_failure(client.list(EVENTS))
    if isinstance(events, ReadFailure):
        return _of_failure(events)
    ours = [event for event in events if event.component.startswith(COMPONENT_PREFIX)]
    return sorted(ours, key=lambda event: event.at, reverse=True)[:EVENTS_MAX]


async def _log(client: Client, daemon: Daemon, program: str) -> str:
    log = await or_failure(read_log(client, daemon, program))
    return f"the log could not be read: {log.reason}\n" if isinstance(log, ReadFailure) else log


def redacted_files(files: Files) -> tuple[dict[str, bytes], dict[str, str]]:
    """Return the redacted files with a README, and what was replaced by what."""
    plain = {name: msgspec.to_builtins(value) for name, value in files.items()}
    redaction = Redaction(_names(plain))
    contents = {redaction.text(name): _encoded(redaction, value) for name, value in plain.items()}
    counts = ", ".join(f"{count} {kind}" for kind, count in sorted(redaction.counts.items()))
    contents[README] = (
        f"Support archive of podidctl {VERSION}.\n"
        "Credentials are removed. Names, UUIDs, addresses and private hosts are replaced, the same one always by the "
        f"same text: {counts}.\n"
        "Texts that a user wrote, such as annotations, may contain more: read the files before you publish them.\n"
    ).encode()
    return contents, redaction.replacements


def _encoded(redaction: Redaction, value: Any) -> bytes:
    if isinstance(value, str):
        return redaction.text(value).encode()
    return msgspec.json.format(msgspec.json.encode(redaction.value(value)), indent=2)


def _names(files: Files) -> Iterator[tuple[str, str]]:
    """Yield kind and name of the objects, of what they refer to, and of objects in logs."""
    for value in files.values():
        yield from _names_in(value)
        text = value if isinstance(value, str) else msgspec.json.encode(value).decode()
        for namespace, name in (*_IN_LOGS.findall(text), *_IN_PATHS.findall(text)):
            yield from ((NAMESPACE, namespace), (NAME, name))
        for name in _OF_AZURE.findall(text):
            yield NAME, name


def _names_in(value: Any) -> Iterator[tuple[str, str]]:
    match value:
        case dict():
            for key, item in value.items():
                if isinstance(item, str) and key in _FIELDS:
                    yield NAMESPACE if key.lower().endswith(NAMESPACE) else NAME, item
                elif key == "metadata" and isinstance(item, dict):
                    yield NAME, str(item.get("name", ""))
                elif key == "image":
                    yield from ((NAME, part) for part in str(item).split("/")[:-1])
                yield from _names_in(item)
        case list() | tuple():
            for item in value:
                yield from _names_in(item)
