"""Comparison of MIC's and NMI's calls to API servers during the tests with the chart's roles.

The sandbox's server reports its calls. A real server writes an audit log, which is read at the end of each test.

A call that no role allows fails the test that made it. A right that no test used fails `make audit`, which is
`python -m tests.support.rights FOLDER`: the test processes wrote the used rights there.
tests/system/plane/deploy/test_permissions.py checks the names of objects, because tests choose other names for locks.
"""

import functools
import itertools
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO, Final
from urllib.parse import parse_qs, urlsplit

import msgspec
import yaml
from typing_extensions import override

from podidentity_sandbox.kubeapi.server import KubeApi, Recorded
from tests.support.testplane import up
from tools.chart.rendering import golden_sets, golden_text

PROGRAMS: Final = {"aad-pod-identity-mic": "mic", "aad-pod-identity-nmi": "nmi"}
"""User agents of the programs, and the component label of their roles in the chart."""
UNNAMED: Final = frozenset({"create", "deletecollection", "list", "watch"})
"""Verbs that a role cannot limit to names, except on a subresource."""
COMPONENT: Final = "app.kubernetes.io/component"
POLICY: Final = Path(__file__).with_name("audit_policy.yaml")
VERBS: Final = {"POST": "create", "PUT": "update", "PATCH": "patch"}


@dataclass(frozen=True, order=True, slots=True)
class Right:
    """A right of a program: a verb on a resource."""

    program: str
    verb: str
    resource: str
    """The plural, with the group and the subresource if present."""
    named: bool
    """True if the rule or the request names objects."""

    @override
    def __str__(self) -> str:
        return f"{self.program}: {self.verb} {self.resource}{' by name' if self.named else ''}"


def granted() -> frozenset[Right]:
    """Return the rights that the chart grants MIC and NMI with any values.

    A golden set contains each value that adds a rule.
    """
    return frozenset(
        right
        for values in golden_sets()
        for document in yaml.load_all(golden_text(values), yaml.CSafeLoader)
        for right in _of_role(document or {})
    )


def _of_role(document: dict[str, Any]) -> Iterator[Right]:
    program = document.get("metadata", {}).get("labels", {}).get(COMPONENT, "")
    if program not in PROGRAMS.values():
        return
    for rule in document.get("rules", ()):
        for group in rule["apiGroups"]:
            for resource in rule["resources"]:
                for verb in rule["verbs"]:
                    yield Right(program, verb, _resource(resource, group, ""), "resourceNames" in rule)


def needed_right(call: Recorded) -> Right | None:
    """Return the right that *call* needs; None for another program or a path without a resource."""
    program = PROGRAMS.get(call.user_agent.partition("/")[0], "")
    url = urlsplit(call.path)
    root, *rest = url.path.strip("/").split("/")
    group, rest = ("", rest[1:]) if root == "api" else (rest[0], rest[2:]) if root == "apis" and rest else ("", [])
    if rest[:1] == ["namespaces"] and len(rest) > 2:
        rest = rest[2:]
    if not program or not rest:
        return None
    plural, name, subresource = [*rest, "", ""][:3]
    resource = _resource(plural, group, subresource)
    query = parse_qs(url.query)
    if call.method in VERBS:
        verb = VERBS[call.method]
    elif call.method == "DELETE":
        verb = "delete" if name else "deletecollection"
    else:
        verb = "get" if name else "watch" if query.get("watch", [""])[0] in {"true", "1"} else "list"
    return Right(program, verb, resource, bool(name))


class _Reference(msgspec.Struct, rename="camel"):
    resource: str = ""
    api_group: str = ""
    subresource: str = ""
    name: str = ""


class _Audited(msgspec.Struct, rename="camel"):
    verb: str = ""
    user_agent: str = ""
    object_ref: _Reference | None = None


def audited(line: bytes) -> Right | None:
    """Return the right that the call in this line of an audit log needs."""
    event = msgspec.json.decode(line, type=_Audited)
    program, about = PROGRAMS.get(event.user_agent.partition("/")[0], ""), event.object_ref
    if not program or about is None:
        return None
    resource = _resource(about.resource, about.api_group, about.subresource)
    named = bool(about.name) and (event.verb not in UNNAMED or bool(about.subresource))
    return Right(program, event.verb, resource, named)


def _resource(plural: str, group: str, subresource: str) -> str:
    return f"{plural}.{group}".rstrip(".") + (f"/{subresource}" if subresource else "")


class Calls:
    """The calls of this test process so far."""

    def __init__(self) -> None:
        self._seen: set[Right] = set()
        self._refused: list[str] = []
        self._folder = Path()
        self._numbers = itertools.count()
        self._logs: dict[up.Plane, BinaryIO] = {}

    @functools.cached_property
    def _granted(self) -> frozenset[Right]:
        return granted()

    def note(self, call: Recorded) -> None:
        """Record a call that a server received."""
        self._took(needed_right(call))

    def _took(self, right: Right | None) -> None:
        if right is None:
            return
        rights = {right, replace(right, named=False)} & self._granted
        self._seen |= rights
        if not rights:
            self._refused.append(str(right))

    def _read(self) -> None:
        """Read the audit lines written since the last call."""
        for plane, log in list(self._logs.items()):
            ended = plane.process.poll() is not None
            for line in log:
                if not line.endswith(b"\n"):  # incomplete; read again next time
                    log.seek(-len(line), os.SEEK_CUR)
                    break
                self._took(audited(line))
            if ended:
                self._logs.pop(plane).close()

    def refused(self) -> Iterable[str]:
        """Return the calls since the last call of this method that no role of the chart allows."""
        self._read()
        requests, self._refused = self._refused, []
        return requests

    def seen(self) -> list[str]:
        """Return the used rights, sorted."""
        return [str(right) for right in sorted(self._seen)]

    def end(self, folder: str) -> None:
        """Close the logs and write the used rights into *folder*, unless it is empty."""
        self._read()
        for log in self._logs.values():
            log.close()
        shutil.rmtree(self._folder)
        if folder:
            Path(folder).mkdir(parents=True, exist_ok=True)
            Path(folder, str(os.getpid())).write_text("\n".join(self.seen()))

    def listen(self, patch: Callable[[object, str, Any], None]) -> None:
        """Record the calls of every API server of this process. *patch* replaces an attribute of a class."""
        self._folder = Path(tempfile.mkdtemp(prefix="audit-"))
        record, begin = KubeApi.record, up.Plane.__init__

        def record_request(server: KubeApi, call: Recorded) -> None:
            self.note(call)
            record(server, call)

        @functools.wraps(begin)
        def begun(plane: up.Plane, *arguments: Any, **options: Any) -> None:
            path = Path(self._folder, f"{next(self._numbers)}.log")
            path.touch()
            flags = [f"--audit-policy-file={POLICY}", f"--audit-log-path={path}"]
            begin(plane, *arguments, **options | {"apiserver_flags": [*options.get("apiserver_flags", ()), *flags]})
            self._logs[plane] = path.open("rb")

        patch(KubeApi, "record", record_request)
        patch(up.Plane, "__init__", begun)


def missed(seen: Iterable[str]) -> list[str]:
    """Return the granted rights that are not among *seen*, sorted."""
    used = set(seen)
    return [str(right) for right in sorted(granted()) if str(right) not in used]


if __name__ == "__main__":
    files = sorted(Path(sys.argv[1]).glob("*"))
    if unused := missed(line for file in files for line in file.read_text().splitlines()):
        sys.exit(f"The chart's roles grant rights that no test used: {', '.join(unused)}")
    print(f"The tests used each right that the chart's roles grant ({len(files)} test processes).")  # noqa: T201
