"""Each call of MIC and NMI that an API server hears during the tests, held against the chart's roles.

The sandbox's server tells its calls itself; a real one writes an audit log, which is read at the end of each test.

What no role of the chart allows fails the test in which it was called. What a role allows and nothing has called in a
run of all tests fails that run: `python -m tests.rights FOLDER` holds what the runs of its parts have left there. Names
of objects are left to tests/deploy/test_rights.py, since tests call locks as they like.
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
from tests.testplane import up

GOLDEN: Final = Path(__file__).parent / "deploy" / "golden"
"""The rendered charts: every value that adds a rule is on in one of these."""
PROGRAMS: Final = {"aad-pod-identity-mic": "mic", "aad-pod-identity-nmi": "nmi"}
"""What a program calls itself to the API server, and the component that the chart's roles are labelled with."""
UNNAMED: Final = frozenset({"create", "deletecollection", "list", "watch"})
"""Verbs for which a role cannot be limited to names, whatever a request names, unless they are about a subresource."""
COMPONENT: Final = "app.kubernetes.io/component"
POLICY: Final = Path(__file__).with_name("audit_policy.yaml")
VERBS: Final = {"POST": "create", "PUT": "update", "PATCH": "patch"}


@dataclass(frozen=True, order=True, slots=True)
class Right:
    """One thing that a program may do, or does."""

    program: str
    verb: str
    resource: str
    """With its group, if it has one; with its subresource, if it is one."""
    named: bool
    """Whether it is limited to, or about, objects of certain names."""

    @override
    def __str__(self) -> str:
        return f"{self.program}: {self.verb} {self.resource}{' by name' if self.named else ''}"


def granted() -> frozenset[Right]:
    """What the chart's roles allow MIC and NMI under some values."""
    return frozenset(
        right
        for file in GOLDEN.glob("*.yaml")
        if not file.name.endswith(".values.yaml")
        for each in yaml.load_all(file.read_text(), yaml.CSafeLoader)
        for right in _of_role(each or {})
    )


def _of_role(each: dict[str, Any]) -> Iterator[Right]:
    program = each.get("metadata", {}).get("labels", {}).get(COMPONENT, "")
    if program not in PROGRAMS.values():
        return
    for rule in each.get("rules", ()):
        for group in rule["apiGroups"]:
            for resource in rule["resources"]:
                for verb in rule["verbs"]:
                    yield Right(program, verb, _resource(resource, group, ""), "resourceNames" in rule)


def asked(call: Recorded) -> Right | None:
    """What *call* takes a right for; None where it is another program's, or about no resource."""
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
    """What the call of this line of an audit log takes a right for."""
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
    """All calls so far of a run of tests."""

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
        """The server has heard this."""
        self._took(asked(call))

    def _took(self, right: Right | None) -> None:
        if right is None:
            return
        rights = {right, replace(right, named=False)} & self._granted
        self._seen |= rights
        if not rights:
            self._refused.append(str(right))

    def _read(self) -> None:
        """What the real API servers have written since this was asked last."""
        for plane, log in list(self._logs.items()):
            ended = plane.process.poll() is not None
            for line in log:
                if not line.endswith(b"\n"):  # being written: the next time it is whole
                    log.seek(-len(line), os.SEEK_CUR)
                    break
                self._took(audited(line))
            if ended:
                self._logs.pop(plane).close()

    def refused(self) -> Iterable[str]:
        """What was called since this was asked last and no role of the chart allows."""
        self._read()
        found, self._refused = self._refused, []
        return found

    def seen(self) -> list[str]:
        """The rights that were used, in order."""
        return [str(right) for right in sorted(self._seen)]

    def end(self, folder: str) -> None:
        """Leave in *folder*, where there is one, what was seen; nothing is listened to any more."""
        self._read()
        for log in self._logs.values():
            log.close()
        shutil.rmtree(self._folder)
        if folder:
            Path(folder).mkdir(parents=True, exist_ok=True)
            Path(folder, str(os.getpid())).write_text("\n".join(self.seen()))

    def listen(self, patch: Callable[[object, str, Any], None]) -> None:
        """Have every API server of this process tell its calls, by *patch*, which replaces an attribute of a class."""
        self._folder = Path(tempfile.mkdtemp(prefix="audit-"))
        record, begin = KubeApi.record, up.Plane.__init__

        def hear(server: KubeApi, call: Recorded) -> None:
            self.note(call)
            record(server, call)

        @functools.wraps(begin)
        def begun(plane: up.Plane, *arguments: Any, **options: Any) -> None:
            path = Path(self._folder, f"{next(self._numbers)}.log")
            path.touch()
            flags = [f"--audit-policy-file={POLICY}", f"--audit-log-path={path}"]
            begin(plane, *arguments, **options | {"apiserver_flags": [*options.get("apiserver_flags", ()), *flags]})
            self._logs[plane] = path.open("rb")

        patch(KubeApi, "record", hear)
        patch(up.Plane, "__init__", begun)


def missed(seen: Iterable[str]) -> list[str]:
    """What the chart's roles allow and is not among what was *seen*, in order."""
    used = set(seen)
    return [str(right) for right in sorted(granted()) if str(right) not in used]


if __name__ == "__main__":
    files = sorted(Path(sys.argv[1]).glob("*"))
    if found := missed(line for file in files for line in file.read_text().splitlines()):
        sys.exit(f"The chart's roles allow what no test has seen called: {', '.join(found)}")
    print(f"Each right that the chart's roles grant has been used, as seen in {len(files)} runs of tests.")  # noqa: T201
