"""Differences between this version and the Go implementation for one cluster. Pure."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from functools import partial
from typing import Any, Final

import msgspec

from mic.decisions.assignments import misconfigured
from mic.startup.object_upgrade import with_current_names
from nmi.tokens.endpoints import SignInPolicy
from nmi.tokens.source import PolicyError
from podidctl.evaluation.tokens import SERVICE_PRINCIPAL_TYPES
from podidctl.migration.manifests import object_name
from podidctl.report.text import grouped, listed
from podidentity.azure.clouds import of_environment
from podidentity.azure.resource_ids import parse_user_assigned
from podidentity.kube.decoding import Malformed, decode_object
from podidentity.report import counted
from podidentity.resources import (
    BINDINGS,
    EXCEPTIONS,
    IDENTITIES,
    AzureIdentity,
    AzureIdentityBinding,
    AzurePodIdentityException,
    IdentityType,
    Kind,
    Pod,
)

LISTED_MAX: Final = 20
"""Objects that one difference names; further ones are only counted."""

_CHART_LABELS: Final = {
    *(("app", "mic"), ("component", "mic"), ("app.kubernetes.io/component", "mic")),
    ("kubernetes.azure.com/managedby", "aks"),
}
"""Labels of the exceptions that the charts and manifests of this project and of the Go implementation create."""

Document = Mapping[str, Any]


class DifferenceLevel(StrEnum):
    """Action that a difference requires from the operator."""

    FIX = "mend"
    """Something does not work, or will not work."""
    REVIEW = "look"
    """Something is different and the operator must decide."""
    NO_ACTION = "by itself"
    """Something changes and no action is needed."""


class Difference(msgspec.Struct, frozen=True):
    """One difference."""

    level: DifferenceLevel
    about: str
    """The object, flag or value."""
    what: str
    do: str


fix: Final = partial(Difference, DifferenceLevel.FIX)
review: Final = partial(Difference, DifferenceLevel.REVIEW)
no_action: Final = partial(Difference, DifferenceLevel.NO_ACTION)


@dataclass(frozen=True)
class Installation:
    """State of the cluster."""

    documents: Mapping[str, Sequence[Document]]
    """The stored custom resources, by the name of their kind."""
    pods: Sequence[Pod] = ()
    """Labelled pods."""
    dropped: Sequence[str] = ()
    """Kinds whose installed CustomResourceDefinitions drop old field names."""
    record: str | None = None
    """The version in the record of the completed type upgrade."""
    record_at: str = ""
    lock: str | None = None
    """Holder of the Go implementation's lock: None if the object does not exist, empty if it has no holder."""
    lock_at: str = ""
    unread: Mapping[str, str] = field(default_factory=dict)
    """Resources that could not be read, with the reason."""


Identities = Mapping[tuple[str, str], AzureIdentity]
"""The readable identities by namespace and name."""


def find_differences(installation: Installation, of_programs: Iterable[Difference] = ()) -> list[Difference]:
    """Return all differences, also those *of_programs*, sorted: first the ones that need a correction."""
    unreadable: list[Difference] = []
    identities = {identity.key: identity for identity in _decoded(IDENTITIES, installation.documents, unreadable)}
    bindings: Sequence[AzureIdentityBinding] = _decoded(BINDINGS, installation.documents, unreadable)
    exceptions = _decoded(EXCEPTIONS, installation.documents, unreadable)
    every = [
        *unreadable,
        *(
            review(what, f"could not be read: {reason}", "check its content manually")
            for what, reason in installation.unread.items()
        ),
        *_old_field_names(installation),
        *_identities(identities),
        *_bindings(bindings, identities),
        *_ambiguous_identities(bindings, identities),
        *_client_ids(identities),
        *_exceptions(exceptions),
        *_pods(installation.pods, bindings),
        *_lock(installation),
        *of_programs,
    ]
    return sorted(every, key=lambda difference: list(DifferenceLevel).index(difference.level))


def manifest_differences(documents: Iterable[Document]) -> list[Difference]:
    """Return the differences that manifests alone show; other objects may exist elsewhere."""
    by_kind = grouped((str(document.get("kind")), document) for document in documents)
    unreadable: list[Difference] = []
    identities = {identity.key: identity for identity in _decoded(IDENTITIES, by_kind, unreadable)}
    exceptions = _decoded(EXCEPTIONS, by_kind, unreadable)
    return [*unreadable, *_identities(identities), *_exceptions(exceptions)]


def _decoded(kind: Kind[Any], documents: Mapping[str, Sequence[Document]], unreadable: list[Difference]) -> list[Any]:
    objects = []
    for document in documents.get(kind.name, ()):
        try:
            # `_old_field_names` reports old field names; the other differences are those after they are rewritten.
            objects.append(decode_object(kind, msgspec.json.encode(document), old_field_names=True))
        except (Malformed, TypeError, ValueError, RecursionError) as error:
            unreadable.append(fix(object_name(kind, document), f"cannot be read: {error}", "correct it or delete it"))
    return objects


def _old_field_names(installation: Installation) -> Iterator[Difference]:
    for kind in (IDENTITIES, BINDINGS, EXCEPTIONS):
        old = [
            document
            for document in installation.documents.get(kind.name, ())
            if with_current_names(kind, document) is not None
        ]
        if old and installation.record is None:
            yield no_action(
                _object_list(kind, old),
                f"{counted(len(old), 'object')} in field spellings from before v1.6.0; MIC rewrites them once",
                "rewrite your manifests, too: podidctl migrate from-reference -f … -o yaml",
            )
        elif old:
            yield review(
                _object_list(kind, old),
                f"in field spellings from before v1.6.0, although {installation.record_at} records that version "
                f"{installation.record} has rewritten all; NMI and MIC ignore these fields",
                "apply rewritten manifests, or repeat the upgrade (docs/migration.md#repeat-the-type-upgrade)",
            )
        if kind.name in installation.dropped:
            yield review(
                kind.plural,
                "the installed CustomResourceDefinition drops old field names, so it is unknown whether storage "
                "contains any",
                "apply deploy/crds, then run this command again",
            )


def _identities(identities: Identities) -> Iterator[Difference]:
    policy = SignInPolicy(of_environment(None))
    if any(identity.spec.type in SERVICE_PRINCIPAL_TYPES for identity in identities.values()):
        yield review(
            "Secrets of AzureIdentities of type 1 and 2",
            "NMI may read them if helm finds such an identity when it installs or upgrades; helm template finds none",
            "without helm install or upgrade, set nmi.servicePrincipals=true or rbac.secretNamespaces, or apply "
            "deploy/manifests/service-principals.yaml",
        )
    for key, identity in sorted(identities.items()):
        about = f"AzureIdentity {'/'.join(filter(None, key))}"
        if reason := misconfigured(identity):
            yield fix(about, reason, ("correct it; the Go implementation does not assign it either"))
        elif identity.spec.type in SERVICE_PRINCIPAL_TYPES:
            try:
                policy.application(identity)
            except PolicyError as error:
                yield review(about, error.sentence, error.detail)
        elif not identity.spec.client_id.strip():
            yield review(
                about,
                "has no clientID, so requests by client id do not find it",
                "set it: az identity show --query clientId",
            )


def _bindings(bindings: Sequence[AzureIdentityBinding], identities: Identities) -> Iterator[Difference]:
    twice: defaultdict[tuple[str, str, str], list[str]] = defaultdict(list)
    for binding in sorted(bindings, key=lambda binding: binding.key):
        meta, spec = binding.metadata, binding.spec
        twice[meta.namespace, spec.azure_identity, spec.selector].append(meta.name)
        if (meta.namespace, spec.azure_identity) not in identities:
            yield fix(
                f"AzureIdentityBinding {meta.namespace}/{meta.name}",
                f"AzureIdentity {meta.namespace}/{spec.azure_identity} does not exist",
                "correct spec.azureIdentity, or delete the binding",
            )
    for (namespace, identity, selector), names in twice.items():
        if len(names) > 1:
            yield review(
                f"AzureIdentityBindings {namespace}/{', '.join(names)}",
                f"bind {identity} to {selector!r} more than once; they share one AzureAssignedIdentity",
                "delete all but one",
            )


def _ambiguous_identities(bindings: Sequence[AzureIdentityBinding], identities: Identities) -> Iterator[Difference]:
    """Yield identities for which a pod may get a different one than with the Go implementation."""
    by_selector = grouped(
        (binding.spec.selector, (binding.metadata.name, binding.spec.azure_identity, binding.metadata.namespace))
        for binding in bindings
        if (binding.metadata.namespace, binding.spec.azure_identity) in identities
    )
    for selector, named in sorted(by_selector.items()):
        keys = {(namespace, name) for _, name, namespace in named}
        if len(keys) > 1:
            _, name, namespace = min(named)  # the order by which NMI chooses
            own = "one of the pod's namespace, else " if len({key for key, _ in keys}) > 1 else ""
            yield review(
                f"label aadpodidbinding={selector}",
                f"{len(keys)} identities; a request that names none gets {own}{namespace}/{name} (the first by binding "
                "name), with the Go implementation an arbitrary one",
                "let applications name a client id (AZURE_CLIENT_ID)",
            )
        by_name = grouped((name, f"{namespace}/{name}") for namespace, name in sorted(keys))
        for _, names in sorted(by_name.items()):
            if len(names) > 1:
                yield no_action(
                    f"AzureIdentities {', '.join(names)}",
                    f"have the same name and selector ({selector!r}): the Go implementation used one "
                    "AzureAssignedIdentity for all; here each has one, the later ones with a suffix in their names",
                    "nothing",
                )
    by_id = grouped(
        (identity.spec.resource_id.lower(), "/".join(key))
        for key, identity in sorted(identities.items())
        if identity.spec.resource_id
    )
    for names in by_id.values():
        if len(names) > 1:
            yield no_action(
                f"AzureIdentities {', '.join(names)}",
                "name the same identity on Azure; it is detached from a VM only when no pod needs any of them",
                "nothing",
            )


def _client_ids(identities: Identities) -> Iterator[Difference]:
    """Yield conflicting client ids: each identity on Azure has exactly one. Only Azure's response shows MIC which one
    is correct.
    """
    by_resource: defaultdict[str, dict[str, list[str]]] = defaultdict(dict)
    by_client: defaultdict[str, dict[str, list[str]]] = defaultdict(dict)
    for key, identity in sorted(identities.items()):
        resource, client = parse_user_assigned(identity.spec.resource_id), identity.spec.client_id.strip().lower()
        if identity.spec.type == IdentityType.USER_ASSIGNED and resource is not None and client:
            by_resource[resource.key].setdefault(client, []).append("/".join(key))
            by_client[client].setdefault(resource.key, []).append("/".join(key))
    for groups, message in (
        (by_resource, "have the same resourceID and different clientIDs"),
        (by_client, "have the same clientID and different resourceIDs"),
    ):
        for group in groups.values():
            if len(group) > 1:
                names = sorted(name for several in group.values() for name in several)
                yield fix(
                    f"AzureIdentities {listed(names, LISTED_MAX)}",
                    f"{message}; MIC assigns only those whose clientID Azure reports for their resourceID, the Go "
                    "implementation assigned all",
                    "correct them: az identity show --query '[clientId, id]'",
                )


def _exceptions(exceptions: Iterable[AzurePodIdentityException]) -> Iterator[Difference]:
    for exception in sorted(exceptions, key=lambda exception: exception.key):
        labels = exception.spec.pod_labels or {}
        usual = bool(labels) and labels.items() <= _CHART_LABELS
        selector = " or ".join(f"{name}={value}" for name, value in sorted(labels.items())) or "no label"
        yield Difference(
            DifferenceLevel.NO_ACTION if usual else DifferenceLevel.REVIEW,
            f"AzurePodIdentityException {'/'.join(filter(None, exception.key))}",
            f"pods of its namespace with {selector} get the node's own identities, as with the Go implementation",
            "nothing: the chart creates it" if usual else "check who may create pods there, and --exception-namespaces",
        )


def _pods(pods: Sequence[Pod], bindings: Sequence[AzureIdentityBinding]) -> Iterator[Difference]:
    selectors = {binding.spec.selector for binding in bindings}
    without = [pod for pod in pods if pod.binding_label not in selectors and not pod.finished]
    if without:
        yield review(
            f"pods {listed(('/'.join(pod.key) for pod in without), LISTED_MAX)}",
            "have the label aadpodidbinding with a value that no binding selects; they get a 404 after 45 s, with the "
            "Go implementation after 80 s",
            "correct the label or the selector, or remove the label",
        )
    mirrors = [pod for pod in pods if pod.mirror and pod.binding_label and not pod.finished]
    if mirrors:
        yield review(
            f"mirror pods {listed(('/'.join(pod.key) for pod in mirrors), LISTED_MAX)}",
            "are static pods with the label aadpodidbinding; they get no identity, because their node's kubelet could "
            "have set any namespace and labels",
            "use a DaemonSet or Deployment instead",
        )


def _lock(installation: Installation) -> Iterator[Difference]:
    if installation.lock is None:
        return
    state = f"is held by {installation.lock}" if installation.lock else "has no holder"
    yield no_action(
        f"Endpoints {installation.lock_at}",
        f"the Go implementation's leader lock exists and {state}; this version's MIC also takes it before it writes",
        "grant MIC get and update on this object (the chart does); delete it when the Go implementation is not needed "
        "any more",
    )


def _object_list(kind: Kind[Any], documents: Sequence[Document]) -> str:
    names = [object_name(kind, document).removeprefix(f"{kind.name} ") for document in documents]
    return f"{kind.plural}: {listed(names, LISTED_MAX)}"
