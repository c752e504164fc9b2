"""Checks of the custom resource definitions and of the stored field spellings. Pure."""

from collections.abc import Iterator

from mic.startup.spellings import KINDS
from podidctl.diagnosis.input import ReadFailure
from podidctl.doctor.schema import Finding, Level, make_finding
from podidctl.doctor.state import ClusterState, Definition
from podidctl.printing import listed
from podidentity.report import counted

APPLY = "kubectl apply -f deploy/crds"
PRUNE = (
    'kubectl patch crd {kind}.aadpodidentity.k8s.io --type=merge -p \'{{"spec":{{"preserveUnknownFields":false}}}}\''
)


def definitions(state: ClusterState) -> Iterator[Finding]:
    """Check that each kind is installed, in the version that the daemons use, and preserves old field names."""
    check = "definitions"
    bad = False
    for kind in KINDS:
        there = state.definitions.get(kind.plural)
        for level, says, then in _faults(kind.plural, kind.version, there):
            bad = True
            yield make_finding(check, level, says, then)
    if not bad:
        yield make_finding(check, Level.OK, f"all {len(KINDS)} kinds are served and stored as v1")


def _faults(plural: str, version: str, there: Definition | ReadFailure | None) -> Iterator[tuple[Level, str, str]]:
    if isinstance(there, ReadFailure):
        yield Level.UNKNOWN, f"{plural}: its CustomResourceDefinition could not be read: {there.why}", ""
        return
    if there is None:
        yield Level.PROBLEM, f"{plural}: this CustomResourceDefinition does not exist", f"install it: {APPLY}"
        return
    ours = next((each for each in there.spec.versions if each.name == version), None)
    if ours is None or not ours.served:
        yield Level.PROBLEM, f"{plural}: {version} is not served, and both daemons use only this version", APPLY
        return
    if not ours.storage:
        yield Level.WARNING, f"{plural}: {version} is served and another version is stored", APPLY
    others = [each for each in there.status.stored_versions or () if each != version]
    if others:
        yield (
            Level.WARNING,
            f"{plural}: objects may still be stored as {', '.join(others)}",
            "write each object once (kubectl get … -o yaml | kubectl replace -f -), then patch status.storedVersions",
        )
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


def spellings(state: ClusterState) -> Iterator[Finding]:
    """Report objects in field spellings from before v1.6.0, and unreadable objects."""
    old = [f"{plural} {name}" for plural, stored in state.stored.items() for name in stored.old]
    unreadable = [f"{plural} {name}" for plural, stored in state.stored.items() for name in stored.unreadable]
    if unreadable:
        says = f"{counted(len(unreadable), 'object')} that NMI and MIC cannot read: {listed(unreadable)}"
        yield make_finding("objects", Level.PROBLEM, says, "correct the types of their fields, or delete them")
    if old:
        says = f"{counted(len(old), 'object has', 'objects have')} field spellings from before v1.6.0: {listed(old)}"
        then = (
            "NMI ignores these fields, and MIC too when its ConfigMap aad-pod-identity-config records the upgrade, "
            "unless they run with --read-old-field-names: apply corrected manifests (podidctl migrate from-reference "
            "-f … -o yaml), or repeat the upgrade (docs/migration.md#repeat-the-type-upgrade)"
        )
        yield make_finding("spellings", Level.WARNING, says, then)
    elif state.stored:
        yield make_finding("spellings", Level.OK, "every object has the current field spellings")
