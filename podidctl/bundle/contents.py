"""The contents of a support archive: read from the cluster, then redacted."""

import re
from collections.abc import Iterator
from functools import partial
from typing import Any, Final

import msgspec

from podidctl.bundle.redaction import KEPT_LABELS, LABEL, LABEL_FIELDS, NAMESPACE, PUBLIC, Redaction
from podidctl.checks.rules import report
from podidctl.commands.completion import NAMESPACES
from podidctl.facts.kinds import COMPONENT_PREFIX, EVENTS, Daemon
from podidctl.facts.model import Facts, ReadFailure, readable
from podidctl.reading.daemons import MetricsPage, read_log, read_page
from podidctl.reading.reader import CLUSTER, read
from podidctl.reading.requests import in_batches, or_failure, or_late
from podidctl.report.text import by_turns
from podidentity.kube.client import Client
from podidentity.version import VERSION

DAEMONS_MAX: Final = 20
"""Pods of NMI and of MIC each whose log is read: first those that are not ready."""
EVENTS_MAX: Final = 500
README: Final = "README.txt"
REPLACED: Final = """\
Removed (<redacted>): tokens, passwords and secrets, by their form or by the name of their field or
flag; values of environment variables, except those of NMI and MIC without a secret; users in URLs.
Replaced, the same text always by the same one: names of namespaces, pods, nodes, owners, custom
resources, Secrets, service accounts, resource groups, machines, managed identities; registries;
values of labels and taints by which no check decides; UUIDs, client ids in short form; addresses;
mail addresses; hosts, except the public ones of Azure and Kubernetes.
May remain: a name that is only in the text of a user or of another program, such as an annotation;
a name within a longer word (web in web2); keys of labels and taints; tags of images; hosts without
:// that look like a file, a field or a logger (a.json, aB.c, nmi.x). A name that is a usual word is
replaced wherever that word is. Read the files before you send them.
"""
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
_REFERENCES: Final = frozenset({"metadata", "ownerReferences", "involvedObject", "clientPassword"})
"""Fields with the name of an object."""
_OF_IMAGES: Final = frozenset({"azure", "oss", "kubernetes", "library", "aad-pod-identity", "aad-pod-managed-identity"})
"""Parts of images' names that name no customer."""
_IN_LOGS: Final = re.compile(r"\b(?:pod|identity|binding|exception)(?:=|\": ?)\"?([a-z0-9-]{1,63})/([a-z0-9.-]{1,253})")
_NODES_IN_LOGS: Final = re.compile(r"\b(?:node|vm)(?:=|\": ?)\"?([A-Za-z0-9][A-Za-z0-9._-]{0,252})(?![/A-Za-z0-9])")
_IN_PATHS: Final = re.compile(r"/namespaces/([a-z0-9-]{1,63})/[a-z]+/([a-z0-9.-]{1,253})")
_OF_AZURE: Final = re.compile(
    r"(?:/|%2F)(?:resourceGroups|virtualMachineScaleSets|virtualMachines|userAssignedIdentities)(?:/|%2F)([^/\s\"%&\\]+)",
    re.IGNORECASE,
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
        files |= {f"{program}/{daemon.name}/log.txt": log for daemon, log in zip(chosen, logs, strict=True)}
        if program == "nmi":
            pages = await in_batches(partial(read_page, client, daemon) for daemon in chosen)
            files |= {
                f"nmi/{daemon.name}/metrics.txt": page.text if isinstance(page, MetricsPage) else page.problem
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
    latest = sorted(ours, key=lambda event: event.at, reverse=True)
    # Events that one tenant forges, with any time, do not push out those about others' pods.
    return by_turns(latest, lambda event: event.metadata.namespace)[:EVENTS_MAX]


async def _log(client: Client, daemon: Daemon, program: str) -> str:
    # One slow node must not prevent the archive.
    log = await or_late(read_log(client, daemon, program))
    return f"the log could not be read: {log.reason}\n" if isinstance(log, ReadFailure) else log


def redacted_files(files: Files) -> tuple[dict[str, bytes], dict[str, str]]:
    """Return the redacted files with a README, and what was replaced by what."""
    plain = {name: msgspec.to_builtins(value) for name, value in files.items()}
    redaction = Redaction(_names(plain))
    contents = {_path(redaction, name): _encoded(redaction, value) for name, value in plain.items()}
    counts = ", ".join(f"{count} {kind}" for kind, count in sorted(redaction.counts.items()))
    contents[README] = (
        f"Support archive of podidctl {VERSION}.\n{REPLACED}Replaced in this archive: {counts}.\n"
    ).encode()
    return contents, redaction.replacements


def _path(redaction: Redaction, path: str) -> str:
    """Return the path of a file with only the pod's part redacted."""
    first, *pod, last = path.split("/") if "/" in path else ("", path)
    return "/".join((*filter(None, (first,)), *map(redaction.text, pod), last))


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
        for name in (*_OF_AZURE.findall(text), *_NODES_IN_LOGS.findall(text)):
            if not name.isdigit():  # a machine of a scale set: a replaced number would change each text
                yield NAME, name


def _names_in(value: Any) -> Iterator[tuple[str, str]]:
    match value:
        case dict():
            for key, item in value.items():
                if isinstance(item, str) and key in _FIELDS:
                    yield NAMESPACE if key.lower().endswith(NAMESPACE) else NAME, item
                elif key in _REFERENCES:
                    several = item if isinstance(item, list | tuple) else (item,)
                    yield from (
                        (NAME, str(element.get("name", ""))) for element in several if isinstance(element, dict)
                    )
                elif key in LABEL_FIELDS and isinstance(item, dict):
                    yield from ((LABEL, str(label)) for name, label in item.items() if name not in KEPT_LABELS)
                elif key in {"taints", "tolerations"}:
                    yield from ((LABEL, str(taint.get("value", ""))) for taint in item or ())
                elif key == "image":
                    yield from _names_of_image(str(item))
                yield from _names_in(item)
        case list() | tuple():
            for item in value:
                yield from _names_in(item)


def _names_of_image(image: str) -> Iterator[tuple[str, str]]:
    """Yield the names of a private registry and of the folders in it."""
    registry, *folders = image.partition("@")[0].split("/")[:-1] or ("",)
    if registry and not registry.endswith(PUBLIC):
        yield from ((NAME, part) for part in (registry.partition(":")[0], *folders) if part not in _OF_IMAGES)
