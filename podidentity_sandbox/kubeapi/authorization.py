"""Authorization by roles and their bindings (RBAC), and the three kinds of access reviews. Pure.

The administrator is a member of `system:masters`, which may do everything. Roles are not aggregated, and a rule for
paths outside of kinds is ignored: every authenticated client may read those.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from podidentity_sandbox.kubeapi.history import History
from podidentity_sandbox.kubeapi.requests import Target
from podidentity_sandbox.kubeapi.statuses import Document, forbidden

GROUP: Final = "authorization.k8s.io"
REVIEWS: Final = {
    f"/apis/{GROUP}/v1/{kind.lower()}s": kind
    for kind in ("SubjectAccessReview", "SelfSubjectAccessReview", "SelfSubjectRulesReview")
}
"""The path of each review to its kind."""
ACCOUNT_PREFIX: Final = "system:serviceaccount:"
_ALL: Final = "*"
_RBAC: Final = "rbac.authorization.k8s.io"
_VERBS: Final = {"POST": "create", "PUT": "update", "PATCH": "patch", "GET": "get", "HEAD": "get", "DELETE": "delete"}


@dataclass(frozen=True, slots=True)
class User:
    """An authenticated client."""

    name: str
    groups: Sequence[str]


ADMINISTRATOR: Final = User("system:admin", ("system:masters", "system:authenticated"))


@dataclass(frozen=True, slots=True)
class Access:
    """A request for a kind, with the attributes by which it is authorized."""

    verb: str
    group: str
    resource: str
    """The plural, with `/SUBRESOURCE` if there is one."""
    namespace: str = ""
    name: str = ""


def service_account_user(name: str) -> User:
    """Return the user of a service account's token. *name* is `system:serviceaccount:NAMESPACE:NAME`."""
    namespace = name.removeprefix(ACCOUNT_PREFIX).partition(":")[0]
    return User(name, ("system:serviceaccounts", f"system:serviceaccounts:{namespace}", "system:authenticated"))


def access_of(method: str, target: Target, *, watch: bool) -> Access:
    """Return the access that a request of *method* needs."""
    verb = _VERBS.get(method, method.lower())
    if not target.name:
        verb = {"get": "watch" if watch else "list", "delete": "deletecollection"}.get(verb, verb)
    resource = target.resource.plural + (f"/{target.subresource}" if target.subresource else "")
    return Access(verb, target.resource.group, resource, target.namespace, target.name)


class Authorizer:
    """Decides by the roles and bindings in *history*; with *rbac* false, everything is allowed to everyone."""

    def __init__(self, history: History, *, rbac: bool) -> None:
        self._history = history
        self._rbac = rbac

    def check(self, user: User, access: Access) -> None:
        """Raise StatusError 403 if *user* may not do this."""
        if not self.allows(user, access):
            where = f'in the namespace "{access.namespace}"' if access.namespace else "at the cluster scope"
            reason = (
                f'User "{user.name}" cannot {access.verb} resource "{access.resource}" in API group '
                f'"{access.group}" {where}'
            )
            raise forbidden(access.resource.partition("/")[0], access.group, access.name, reason)

    def allows(self, user: User, access: Access) -> bool:
        return any(_matches(rule, access) for rule in self._rules(user, access.namespace))

    def review(self, kind: str, document: Document, user: User) -> Document:
        """Return the review with its status. Raise StatusError 403 for a client that may not review others."""
        spec = document.get("spec") or {}
        if kind == "SelfSubjectRulesReview":
            rules = [_with_all_fields(rule) for rule in self._rules(user, str(spec.get("namespace") or ""))]
            paths = [{"verbs": ["get"], "nonResourceURLs": [_ALL]}]
            return document | {"status": {"resourceRules": rules, "nonResourceRules": paths, "incomplete": False}}
        if kind == "SubjectAccessReview":
            self.check(user, Access("create", GROUP, "subjectaccessreviews"))
            user = User(str(spec.get("user") or ""), tuple(spec.get("groups") or ()))
        attributes = spec.get("resourceAttributes")
        allowed = attributes is None or self.allows(user, _asked_access(attributes))
        return document | {"status": {"allowed": allowed, "reason": "" if self._rbac else "no authorizer is active"}}

    def _rules(self, user: User, namespace: str) -> Iterator[Document]:
        """Return the rules of the roles that *user* has in *namespace*; with an empty one, in all namespaces."""
        if not self._rbac or "system:masters" in user.groups:
            yield {"verbs": [_ALL], "apiGroups": [_ALL], "resources": [_ALL]}
            return
        for kind in ("clusterrolebindings", *(["rolebindings"] if namespace else [])):
            for (place, _), item in self._history.items(f"{kind}.{_RBAC}"):
                if place in {"", namespace} and any(
                    _names(subject, user, place) for subject in item.document.get("subjects") or ()
                ):
                    yield from self._rules_of(item.document.get("roleRef") or {}, place)

    def _rules_of(self, reference: Document, namespace: str) -> Sequence[Document]:
        plural, place = ("roles", namespace) if reference.get("kind") == "Role" else ("clusterroles", "")
        role = self._history.get(f"{plural}.{_RBAC}", (place, str(reference.get("name", ""))))
        return () if role is None else role.document.get("rules") or ()


def _names(subject: Document, user: User, namespace: str) -> bool:
    """Return whether the subject of a binding in *namespace* is *user* or one of its groups."""
    kind, name = subject.get("kind"), subject.get("name")
    if kind == "ServiceAccount":
        return user.name == f"{ACCOUNT_PREFIX}{subject.get('namespace') or namespace}:{name}"
    return name in user.groups if kind == "Group" else kind == "User" and name == user.name


def _matches(rule: Document, access: Access) -> bool:
    names = rule.get("resourceNames") or ()
    _, _, subresource = access.resource.partition("/")
    resources = {_ALL, access.resource, *([f"*/{subresource}"] if subresource else [])}
    return (
        not {_ALL, access.verb}.isdisjoint(rule.get("verbs") or ())
        and not {_ALL, access.group}.isdisjoint(rule.get("apiGroups") or ())
        and not resources.isdisjoint(rule.get("resources") or ())
        and (not names or access.name in names)
    )


def _asked_access(attributes: Document) -> Access:
    """Return the access of a review's `resourceAttributes`."""
    text = {name: str(value or "") for name, value in attributes.items()}
    resource, subresource = text.get("resource", ""), text.get("subresource", "")
    return Access(
        text.get("verb", ""),
        text.get("group", ""),
        f"{resource}/{subresource}" if subresource else resource,
        text.get("namespace", ""),
        text.get("name", ""),
    )


def _with_all_fields(rule: Document) -> Document:
    return {name: rule.get(name) or [] for name in ("verbs", "apiGroups", "resources", "resourceNames")}
