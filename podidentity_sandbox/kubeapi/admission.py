"""Checks of a document before it is stored, and the fields that the server adds: names, labels, defaults. Pure.

It has only the checks that can affect clients of this project, with the messages of the real server.
"""

import base64
import re
from typing import Final

from podidentity_sandbox.kubeapi.field_types import base64_bytes
from podidentity_sandbox.kubeapi.kinds import (
    DEFINITIONS,
    ResourceType,
    accept_definition,
    check_definition,
    complete_definition,
)
from podidentity_sandbox.kubeapi.statuses import Cause, Document, bad_request, invalid, unreadable_patch

NAME_MAX: Final = 253
LABEL_MAX: Final = 63
_SUBDOMAIN_PATTERN: Final = r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*"
_SUBDOMAIN: Final = re.compile(_SUBDOMAIN_PATTERN)
_DNS_LABEL: Final = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?")
_LABEL_VALUE_PATTERN: Final = r"(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?"
_LABEL_VALUE: Final = re.compile(_LABEL_VALUE_PATTERN)
_QUALIFIED: Final = re.compile(rf"({_SUBDOMAIN_PATTERN}/)?[A-Za-z0-9]([-A-Za-z0-9_.]{{0,61}}[A-Za-z0-9])?")
_MICRO_TIME: Final = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}(Z|[+-]\d\d:\d\d)")
_MICRO_TIMES: Final = {
    "leases.coordination.k8s.io": ("spec", ("acquireTime", "renewTime")),
    "events": ("", ("eventTime",)),
}
_BINARY_FIELDS: Final = {"secrets": "data", "configmaps": "binaryData"}

TOLERATED_SECONDS: Final = 300
"""How long every pod is left on a node that is not ready, by the real server's defaults."""
POD_SPEC_MUTABLE: Final = frozenset({"activeDeadlineSeconds", "terminationGracePeriodSeconds", "tolerations"})


def decode_check(resource: ResourceType, document: Document, *, patched: bool = False) -> None:
    """Reject times without microseconds, which the real server's decoder cannot read."""
    place, fields = _MICRO_TIMES.get(resource.name, ("", ()))
    parent = document.get(place) if place else document
    if not isinstance(parent, dict):
        return
    for field in fields:
        value = parent.get(field)
        if value is not None and not (isinstance(value, str) and _MICRO_TIME.fullmatch(value)):
            problem = f'parsing time "{str(value)[:64]}" as "2006-01-02T15:04:05.000000Z07:00": cannot parse'
            if patched:
                raise unreadable_patch(problem)
            raise bad_request(
                f'{resource.kind} in version "{resource.version}" cannot be handled as a {resource.kind}: {problem}'
            )


def check(resource: ResourceType, document: Document) -> None:
    """Refuse with 422 metadata and specs that no kind, or not this one, may have."""
    causes = _metadata_causes(resource, document["metadata"])
    if resource.name == "pods":
        causes += _pod_causes(document)
    elif resource.name == "leases.coordination.k8s.io":
        seconds = (document.get("spec") or {}).get("leaseDurationSeconds")
        if isinstance(seconds, int) and seconds <= 0:
            message = f"Invalid value: {seconds}: must be greater than 0"
            causes.append(("FieldValueInvalid", message, "spec.leaseDurationSeconds"))
    if causes:
        raise invalid(resource.kind, resource.group, document["metadata"].get("name", ""), causes)
    if resource.name == DEFINITIONS:
        check_definition(document)


def complete_new(resource: ResourceType, document: Document, now: str) -> None:
    """Set the fields that the server sets at creation. *now* is the time in documents' format."""
    if resource.name == "pods":
        _default_pod(document)
    elif resource.name == "namespaces":
        document["metadata"]["labels"] = (document["metadata"].get("labels") or {}) | {
            "kubernetes.io/metadata.name": document["metadata"]["name"]
        }
        document["spec"] = {"finalizers": ["kubernetes"]}
        document["status"] = {"phase": "Active"}
    elif resource.name == DEFINITIONS:
        complete_definition(document)
        accept_definition(document, now)
    elif resource.has_status and resource.name != "nodes":  # a kubelet registers its node with the status
        document.pop("status", None)
    complete(resource, document)


def complete(resource: ResourceType, document: Document) -> None:
    """Set the fields that the server sets at every write, without a change to objects that *document* may share."""
    if resource.name == "pods" and document.get("status"):
        document["status"] = _with_addresses(document["status"])
    if resource.name == DEFINITIONS:
        complete_definition(document)
    binaries = _BINARY_FIELDS.get(resource.name)
    if binaries and document.get(binaries):
        document[binaries] = {name: _base64(base64_bytes(text or "")) for name, text in document[binaries].items()}
    if resource.name == "secrets":
        document["type"] = document.get("type") or "Opaque"
        if document.get("stringData"):
            plain = {name: _base64((text or "").encode()) for name, text in document.pop("stringData").items()}
            document["data"] = (document.get("data") or {}) | plain


def check_change(resource: ResourceType, old: Document, new: Document) -> None:
    """Reject a change of an immutable field with 422."""
    name = old["metadata"]["name"]
    if old["metadata"].get("deletionTimestamp"):
        added = sorted(set(new["metadata"].get("finalizers") or ()) - set(old["metadata"].get("finalizers") or ()))
        if added:
            listed = ", ".join(f'"{finalizer}"' for finalizer in added)
            message = (
                "Forbidden: no new finalizers can be added if the object is being deleted, "
                f"found new finalizers []string{{{listed}}}"
            )
            cause = ("FieldValueForbidden", message, "metadata.finalizers")
            raise invalid(resource.kind, resource.group, name, [cause])
    if resource.name == "pods" and _pod_frozen(old) != _pod_frozen(new):
        message = (
            "Forbidden: pod updates may not change fields other than `spec.containers[*].image`,"
            "`spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to "
            "existing tolerations),`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was "
            "previously negative)"
        )
        raise invalid(resource.kind, resource.group, name, [("FieldValueForbidden", message, "spec")])
    if resource.name == "secrets" and old["type"] != new["type"]:
        message = f'Invalid value: "{new["type"]}": field is immutable'
        raise invalid(resource.kind, resource.group, name, [("FieldValueInvalid", message, "type")])


def is_name(resource: ResourceType, name: str) -> bool:
    """Return whether an object of this kind may have this name."""
    if resource.name == "namespaces":
        return len(name) <= LABEL_MAX and _DNS_LABEL.fullmatch(name) is not None
    return len(name) <= NAME_MAX and _SUBDOMAIN.fullmatch(name) is not None


def _metadata_causes(resource: ResourceType, metadata: Document) -> list[Cause]:
    causes: list[Cause] = []
    name = metadata.get("name", "")
    if not name:
        causes.append(("FieldValueRequired", "Required value: name or generateName is required", "metadata.name"))
    elif not is_name(resource, name):
        message = (
            f'Invalid value: "{name}": a lowercase RFC 1123 subdomain must consist of lower case alphanumeric '
            "characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', "
            f"regex used for validation is '{_SUBDOMAIN_PATTERN}')"
        )
        causes.append(("FieldValueInvalid", message, "metadata.name"))
    for key, value in (metadata.get("labels") or {}).items():
        if not _QUALIFIED.fullmatch(key):
            causes.append(("FieldValueInvalid", f'Invalid value: "{key}": name part must be valid', "metadata.labels"))
        if len(value) > LABEL_MAX:
            message = f'Invalid value: "{value}": must be no more than {LABEL_MAX} bytes'
            causes.append(("FieldValueInvalid", message, "metadata.labels"))
        elif not _LABEL_VALUE.fullmatch(value):
            message = (
                f'Invalid value: "{value}": a valid label must be an empty string or consist of alphanumeric '
                "characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. "
                f"'MyValue',  or 'my_value',  or '12345', regex used for validation is '{_LABEL_VALUE_PATTERN}')"
            )
            causes.append(("FieldValueInvalid", message, "metadata.labels"))
    causes += [
        ("FieldValueInvalid", f'Invalid value: "{key}": name part must be valid', "metadata.annotations")
        for key in metadata.get("annotations") or ()
        if not _QUALIFIED.fullmatch(key)
    ]
    causes += [
        (
            "FieldValueInvalid",
            f'Invalid value: "{finalizer}": name is neither a standard finalizer name nor is it fully qualified',
            "metadata.finalizers",
        )
        for finalizer in metadata.get("finalizers") or ()
        if not _QUALIFIED.fullmatch(finalizer)
    ]
    return causes


def _pod_causes(pod: Document) -> list[Cause]:
    spec = pod.get("spec") or {}
    if not spec.get("containers"):
        return [("FieldValueRequired", "Required value", "spec.containers")]
    return [
        ("FieldValueRequired", "Required value", f"spec.{place}[{at}].{field}")
        for place in ("containers", "initContainers")
        for at, container in enumerate(spec.get(place) or ())
        for field in ("name", "image")
        if not container.get(field)
    ]


def _default_pod(pod: Document) -> None:
    spec = pod["spec"]
    spec["serviceAccountName"] = spec.get("serviceAccountName") or spec.get("serviceAccount") or "default"
    for field, value in (
        ("restartPolicy", "Always"),
        ("terminationGracePeriodSeconds", 30),
        ("dnsPolicy", "ClusterFirst"),
        ("securityContext", {}),
        ("schedulerName", "default-scheduler"),
        ("enableServiceLinks", True),
        ("priority", 0),
        ("preemptionPolicy", "PreemptLowerPriority"),
    ):
        if spec.get(field) is None:
            spec[field] = value
    spec["serviceAccount"] = spec["serviceAccountName"]
    tolerations = list(spec.get("tolerations") or ())
    spec["tolerations"] = tolerations + [
        {"key": key, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": TOLERATED_SECONDS}
        for key in ("node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable")
        if all(toleration.get("key") not in {key, None} for toleration in tolerations)
    ]
    for container in [*spec["containers"], *(spec.get("initContainers") or ())]:
        tag = container["image"].rpartition("/")[2].partition(":")[2]
        container.setdefault("imagePullPolicy", "IfNotPresent" if tag not in {"", "latest"} else "Always")
        container.setdefault("resources", {})
        container.setdefault("terminationMessagePath", "/dev/termination-log")
        container.setdefault("terminationMessagePolicy", "File")
        for port in container.get("ports") or ():
            port.setdefault("protocol", "TCP")
    pod["status"] = {"phase": "Pending", "qosClass": "BestEffort"}


def _base64(value: bytes) -> str:
    return base64.b64encode(value).decode()


def _with_addresses(status: Document) -> Document:
    """Return the status with podIP and podIPs in agreement: podIP has precedence."""
    primary, several = status.get("podIP"), status.get("podIPs") or []
    if primary and (not several or several[0].get("ip") != primary):
        return status | {"podIPs": [{"ip": primary}]}
    if several and not primary:
        return status | {"podIP": several[0].get("ip", "")}
    return status


def _pod_frozen(pod: Document) -> Document:
    spec = {name: value for name, value in (pod.get("spec") or {}).items() if name not in POD_SPEC_MUTABLE}
    for field in ("containers", "initContainers"):
        if spec.get(field):
            spec[field] = [{k: v for k, v in container.items() if k != "image"} for container in spec[field]]
    return spec
