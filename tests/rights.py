"""Each call of MIC and NMI that the sandbox's API server hears during the tests, held against the chart's roles.

What no role of the chart allows fails the test in which it was called. What a role allows and nothing has called in a
run of all tests fails that run: `python -m tests.rights FOLDER` holds what the runs of its parts have left there. Names
of objects are left to tests/deploy/test_rights.py, since tests call locks as they like.
"""

import functools
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final
from urllib.parse import parse_qs, urlsplit

import yaml
from typing_extensions import override

from podidctl.sandbox.kubeapi.server import KubeApi, Recorded

GOLDEN: Final = Path(__file__).parent / "deploy" / "golden"
"""The rendered charts: every value that adds a rule is on in one of these."""
PROGRAMS: Final = {"aad-pod-identity-mic": "mic", "aad-pod-identity-nmi": "nmi"}
"""What a program calls itself to the API server, and the component that the chart's roles are labelled with."""
COMPONENT: Final = "app.kubernetes.io/component"
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
                    yield Right(program, verb, f"{resource}.{group}".rstrip("."), "resourceNames" in rule)


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
    resource = f"{plural}.{group}".rstrip(".") + (f"/{subresource}" if subresource else "")
    query = parse_qs(url.query)
    if call.method in VERBS:
        verb = VERBS[call.method]
    elif call.method == "DELETE":
        verb = "delete" if name else "deletecollection"
    else:
        verb = "get" if name else "watch" if query.get("watch", [""])[0] in {"true", "1"} else "list"
    return Right(program, verb, resource, bool(name))


class Calls:
    """All calls so far of a run of tests."""

    def __init__(self) -> None:
        self._seen: set[Right] = set()
        self._refused: list[str] = []

    @functools.cached_property
    def _granted(self) -> frozenset[Right]:
        return granted()

    def note(self, call: Recorded) -> None:
        """The server has heard this."""
        right = asked(call)
        if right is None:
            return
        rights = {right, replace(right, named=False)} & self._granted
        self._seen |= rights
        if not rights:
            self._refused.append(f"{right} ({call.path})")

    def refused(self) -> Iterable[str]:
        """What was called since this was asked last and no role of the chart allows."""
        found, self._refused = self._refused, []
        return found

    def seen(self) -> list[str]:
        """The rights that were used, in order."""
        return [str(right) for right in sorted(self._seen)]

    def listen(self, patch: Callable[[object, str, Any], None]) -> None:
        """Have every sandbox API server of this process tell its calls, by *patch* (a monkeypatch's setattr)."""
        heard = KubeApi.heard

        def hear(server: KubeApi, call: Recorded) -> None:
            self.note(call)
            heard(server, call)

        patch(KubeApi, "heard", hear)


def missed(seen: Iterable[str]) -> list[str]:
    """What the chart's roles allow and is not among what was *seen*, in order."""
    used = set(seen)
    return [str(right) for right in sorted(granted()) if str(right) not in used]


if __name__ == "__main__":
    files = sorted(Path(sys.argv[1]).glob("*"))
    if found := missed(line for file in files for line in file.read_text().splitlines()):
        sys.exit(f"The chart's roles allow what no test has seen called: {', '.join(found)}")
    print(f"Each right that the chart's roles grant has been used, as seen in {len(files)} runs of tests.")  # noqa: T201
