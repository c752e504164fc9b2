"""Checks of the API server, of the custom resource definitions and of the stored field names. Pure."""

from collections.abc import Iterator
from typing import Final

from mic.startup.object_upgrade import KINDS
from podidctl.checks.daemons import running_as
from podidctl.evaluation.cluster import ClusterCase
from podidctl.facts.kinds import Definition
from podidctl.facts.model import ReadFailure
from podidctl.report.finding import Finding, Level, ok, problem, unknown, warning
from podidctl.report.text import grouped, listed
from podidentity.report import counted
from podidentity.resources import ASSIGNED_IDENTITIES, BINDINGS, IDENTITIES

OLDEST_MINOR = 16
"""The first Kubernetes 1.x with apiextensions.k8s.io/v1, which the custom resource definitions use."""
SKEW_WARNING_SECONDS = 30.0
SKEW_PROBLEM_SECONDS = 300.0
"""Microsoft Entra ID accepts assertions whose clock is wrong by at most five minutes."""
APPLY = "kubectl apply -f deploy/crds"
PRUNE = (
    'kubectl patch crd {kind}.aadpodidentity.k8s.io --type=merge -p \'{{"spec":{{"preserveUnknownFields":false}}}}\''
)


def check_version(
    case: ClusterCase, oldest: int = OLDEST_MINOR, lack: str = "does not support apiextensions.k8s.io/v1"
) -> Iterator[Finding]:
    """Check that the server is a Kubernetes 1.*oldest* or newer; an older one has the *lack*."""
    server = case.read("API server", case.facts.server.failure or case.facts.server)
    if server.is_older(oldest):
        yield problem("API server", f"Kubernetes {server.version} {lack}", f"upgrade to 1.{oldest} or newer")
    elif server.version:
        yield ok("API server", f"Kubernetes {server.version}")
    else:
        message = "the API server did not report its version at /version"
        yield unknown(
            "API server",
            message,
            "see its response: kubectl get --raw /version",
        )


def check_clocks(case: ClusterCase) -> Iterator[Finding]:
    """Compare this machine's clock with the API server's."""
    server = case.facts.server
    if server.ahead_seconds is None:
        case.read("API server", server.failure or server)
        yield unknown("clocks", "the API server's response has no date; a proxy in front of it may have removed it")
        return
    # Only the part that the response time and the date's resolution do not explain.
    off = max(0.0, abs(server.ahead_seconds) - server.uncertain_seconds)
    if off < SKEW_WARNING_SECONDS:
        yield ok("clocks", "this machine's clock and the API server's agree")
        return
    level = Level.PROBLEM if off >= SKEW_PROBLEM_SECONDS else Level.WARNING
    which = "ahead of" if server.ahead_seconds > 0 else "behind"
    then = "check NTP on both machines: tokens and certificates are rejected before and after their validity"
    yield Finding("clocks", level, f"the API server's clock is {off:.0f} s {which} this machine's", then)


def check_definitions(case: ClusterCase) -> Iterator[Finding]:
    """Check that each kind is installed, in the version that the daemons use, and preserves old field names."""
    check = "definitions"
    definitions = {kind: case.facts.definitions.get(kind.plural) for kind in KINDS}
    missing = [kind.plural for kind, definition in definitions.items() if definition is None]
    unread = {kind.plural: read for kind, read in definitions.items() if isinstance(read, ReadFailure)}
    faults = [
        fault
        for kind, definition in definitions.items()
        if isinstance(definition, Definition)
        for fault in _faults(kind.plural, kind.version, definition)
    ]
    if missing:
        count = counted(len(missing), "CustomResourceDefinition does", "CustomResourceDefinitions do")
        # The programs wait for the kinds that they read, and objects of a missing kind count as absent.
        daemons = (("NMI", case.nmi), ("MIC", case.mic))
        waiting = {running_as(program, daemon) for program, several in daemons for daemon in several} - {""}
        objects = ("selectors",) if {IDENTITIES.plural, BINDINGS.plural} & set(missing) else ()
        assigned = ("assignments",) if ASSIGNED_IDENTITIES.plural in missing else ()
        explains = (*sorted(waiting), *objects, *assigned)
        yield problem(check, f"{count} not exist: {', '.join(missing)}", f"install: {APPLY}", explains=explains)
    # Each reason of one kind may name its object, and the action is the same.
    for failures in grouped((failure.is_forbidden, (plural, failure)) for plural, failure in unread.items()).values():
        reasons = grouped((failure.reason, plural) for plural, failure in failures)
        texts = "; ".join(f"{', '.join(plurals)}: {reason}" for reason, plurals in reasons.items())
        then = failures[0][1].next_action("get on customresourcedefinitions")
        cause = next(iter(reasons)) if len(reasons) == 1 else ""
        yield unknown(check, f"these CustomResourceDefinitions could not be read: {texts}", then, cause=cause)
    for level, message, then in faults:
        yield Finding(check, level, message, then)
    if not missing and not unread and not faults:
        yield ok(check, f"all {len(KINDS)} kinds are served and stored as v1")


def _faults(plural: str, version: str, there: Definition) -> Iterator[tuple[Level, str, str]]:
    ours = next((served for served in there.spec.versions if served.name == version), None)
    if ours is None or not ours.served:
        yield Level.PROBLEM, f"{plural}: {version} is not served, and both daemons use only this version", APPLY
        return
    if not ours.storage:
        yield Level.WARNING, f"{plural}: {version} is served and another version is stored", APPLY
    others = [stored for stored in there.status.stored_versions or () if stored != version]
    if others:
        yield (
            Level.WARNING,
            f"{plural}: objects may still be stored as {', '.join(others)}",
            "write each object once (kubectl get … -o yaml | kubectl replace -f -), then patch status.storedVersions",
        )
    # Such a definition preserves them whatever its schema says.
    if there.spec.preserve_unknown_fields:
        yield (
            Level.WARNING,
            f"{plural}: its CustomResourceDefinition is from version v1beta1 and preserves every unknown field",
            f"{APPLY}, then {PRUNE.format(kind=plural)}",
        )
    elif not ours.keeps_unknown:
        yield (
            Level.WARNING,
            f"{plural}: its schema drops unknown fields, which includes field spellings from before v1.6.0",
            f"apply this project's definition, which preserves them: {APPLY}",
        )


def check_stored_fields(case: ClusterCase) -> Iterator[Finding]:
    """Report objects with field names from before v1.6.0, and unreadable objects."""
    kinds = case.facts.stored
    old = [f"{plural} {name}" for plural, stored in kinds.items() for name in stored.old]
    unreadable = [f"{plural} {name}" for plural, stored in kinds.items() for name in stored.unreadable]
    if unreadable:
        message = f"{counted(len(unreadable), 'object')} that NMI and MIC cannot read: {listed(unreadable)}"
        yield problem("objects", message, "correct the types of their fields, or delete them")
    if old:
        message = f"{counted(len(old), 'object has', 'objects have')} field spellings from before v1.6.0: {listed(old)}"
        then = (
            "NMI ignores these fields, and MIC too when its ConfigMap aad-pod-identity-config records the upgrade, "
            "unless they run with --read-old-field-names: apply corrected manifests (podidctl migrate from-reference "
            "-f … -o yaml), or repeat the upgrade (docs/migration.md#repeat-the-type-upgrade)"
        )
        yield warning("spellings", message, then)
    elif kinds:
        yield ok("spellings", "every object has the current field spellings")


CHECKS: Final = (check_version, check_clocks, check_definitions, check_stored_fields)
