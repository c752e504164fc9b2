"""Replacement of names and identifiers in texts, each always by the same replacement. Pure."""

import ipaddress
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

from nmi.node.host_routing import LABEL as HOST_ROUTING_LABEL
from podidctl.facts.kinds import OS_LABEL
from podidentity.resources import BINDING_LABEL, NODENAME_LABEL
from podidentity.telemetry.logs import FIELDS, redact, redacted

KEPT_NAMESPACES: Final = frozenset({"default", "kube-system", "kube-public", "kube-node-lease"})
KEPT_NAMES: Final = KEPT_NAMESPACES | {"nmi", "mic", "aad-pod-identity-nmi", "aad-pod-identity-mic"}
"""Names that each cluster has."""
KEPT_ADDRESSES: Final = frozenset({"169.254.169.254", "168.63.129.16", "127.0.0.1", "0.0.0.0", "::1", "::"})  # noqa: S104 - compared
KEPT_LABELS: Final = frozenset({OS_LABEL, HOST_ROUTING_LABEL, BINDING_LABEL, NODENAME_LABEL})
"""Labels by which the checks decide. The values of the others are replaced, except KEPT_NAMES."""
LABEL_FIELDS: Final = frozenset({"labels", "podLabels", "nodeSelector"})
KEPT_VARIABLES: Final = frozenset(
    {
        *("NODE_NAME", "NODE_IP", "MIC_POD_NAMESPACE", "FORCENAMESPACED"),
        *("CLOUD", "TENANT_ID", "CLIENT_ID", "USE_MSI", "USER_ASSIGNED_MSI_CLIENT_ID", "AZURE_ENVIRONMENT_FILEPATH"),
        *("KUBERNETES_SERVICE_HOST", "KUBERNETES_SERVICE_PORT"),
    }
)
"""Environment variables of NMI and MIC that have no secret."""
PUBLIC: Final = (
    *("core.windows.net", "windows.net", "azure.net", "azure.com", "azure.us", "azure.cn", "microsoft.com"),
    *("microsoftonline.com", "microsoftonline.us", "partner.microsoftonline.cn", "chinacloudapi.cn"),
    *("microsoftazure.de", "usgovcloudapi.net"),
)
"""Domains of Azure's services, longer ones first. A host keeps them and one label more: the labels before name a
resource."""
KEPT_HOSTS: Final = frozenset(
    {"localhost", "k8s.io", "kubernetes.io", "cilium.io", "github.com", "ghcr.io", "docker.io"}
)
_KEPT_STARTS: Final = (
    *("nmi.", "mic.", "podidentity.", "podidctl.", "native.", "aiohttp.", "asyncio."),  # loggers
    *("spec.", "microsoft."),  # fields of objects, resource providers
)
_KEPT_PAIRS: Final = frozenset({"metadata", "status", "data", "rbac", "federated", "ssl", "socket"})
"""First of two parts: fields of objects, chart values, modules."""
_KEPT_ENDS: Final = (
    *(".k8s.io", ".kubernetes.io", ".cilium.io"),  # API groups
    *(".svc", ".cluster.local"),  # Services: their names are replaced one by one
    *(".json", ".yaml", ".yml", ".md", ".py", ".pyx", ".txt", ".pem", ".crt", ".key", ".lock", ".sock", ".conf"),
)
"""Dotted words that look like a host and are none."""

NAMESPACE: Final = "namespace"
LABEL: Final = "label"
"""Kind of values of labels. In texts they are replaced after `=` only, because many are usual words."""
REDACTED: Final = "<redacted>"
_RUN: Final = r"[A-Za-z0-9._+-]+"
_TOKEN: Final = re.compile(
    r"(?P<escape>\\(?:u(?!2026)[0-9A-Fa-f]{4}|[bfnrt\"\\/])|%[0-9A-Fa-f]{2})"  # belongs to no name
    r"|(?<=://)(?P<user>[^/\s\"]+@)"
    r"|(?:(?<=://)|(?<=@))(?P<host>[A-Za-z0-9](?:[A-Za-z0-9.-]*[A-Za-z0-9])?)"
    r"|(?P<short>[0-9A-Za-z-]{4}(?:…|\\u2026)[0-9A-Za-z-]{4})"  # the formatters of logs write ASCII
    r"|(?P<six>(?<![0-9A-Fa-f:])(?:[0-9A-Fa-f]{0,4}:){2,7}(?:[0-9.]{7,15}|[0-9A-Fa-f]{0,4})(?![0-9A-Fa-f:]))"
    # Each match takes the whole run: a search that begins again within it would take quadratic time.
    rf"|(?P<mail>{_RUN}@[A-Za-z0-9.-]*[A-Za-z0-9])"
    rf"|(?P<run>{_RUN})"
)
_AT: Final = re.compile(_RUN)
_UUID: Final = re.compile(
    r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}|(?<![0-9a-z])[0-9a-f]{32}(?![0-9a-z])", re.IGNORECASE
)
_FOUR: Final = re.compile(r"(?<![0-9.])(?:[0-9]{1,3}\.){3}[0-9]{1,3}(?![0-9.])")
_CAMEL: Final = re.compile(r"[a-z][A-Z]")
_PIECE: Final = re.compile(r"[^._+]+")


class Redaction:
    """Replaces in texts what identifies a customer.

    `replacements` has what was replaced so far. It is for the operator, who can translate an answer back.
    """

    def __init__(self, names: Iterable[tuple[str, str]] = ()) -> None:
        """*names* are pairs of a kind, such as `pod`, and a name. They are replaced wherever they are a whole word, in
        any case; those of the kind LABEL only after `=`.
        """
        self.replacements: dict[str, str] = {}
        self.counts: Counter[str] = Counter()
        """Replacements by kind."""
        self._known: dict[str, str] = {}
        """Replacements by casefolded text."""
        self._labels: dict[str, str] = {}
        known = {*names}
        self._namespaces = KEPT_NAMESPACES | {name.casefold() for kind, name in known if kind == NAMESPACE}
        # Labels last, so that a value which is also a name gets the replacement of the name.
        for kind, name in sorted(known, key=lambda pair: (pair[0] == LABEL, pair[0] != NAMESPACE, pair)):
            if name and name.casefold() not in KEPT_NAMES:
                if kind == LABEL:
                    self._label(name)
                else:
                    self._replacement(name, kind)

    def text(self, text: str) -> str:
        """Return *text* without credentials, known names, UUIDs, addresses, mail addresses and private hosts.

        What follows a known namespace, as in `namespace/name` or `serviceaccount:namespace:name`, is a name too.
        """
        after, done = -1, 0

        def replaced(match: re.Match[str]) -> str:
            nonlocal after, done
            # The escape before it has replaced this text already.
            if match.end() <= done:
                return ""
            is_name, after = match.start() == after, match.end() + 1 if self._ends_namespace(match) else -1
            if match.lastgroup == "escape":
                # `ACME\nginx` may be a domain and a name.
                run = _AT.match(match.string, match.end() - 1) if match[0][0] == "\\" else None
                if run is None or (known := self._known.get(run[0].casefold())) is None:
                    return match[0]
                done = run.end()
                return f"\\{known}"
            if match.lastgroup != "run":
                return self._part(match)
            core = match[0].strip("._+-")
            before, _, behind = match[0].partition(core) if core else (match[0], "", "")
            return before + self._in_context(match, core, is_name=is_name) + behind

        return _TOKEN.sub(replaced, redact(text))

    def _in_context(self, match: re.Match[str], word: str, *, is_name: bool) -> str:
        """Return the replacement of *word*, the run of *match* without punctuation."""
        fold = word.casefold()
        # The name of a field stays, even if an object has the same name.
        if word in FIELDS and match.string.startswith(("=", '":'), match.end()):
            return word
        if is_name and word and fold not in KEPT_NAMES:
            return self._replacement(word, "object")
        if match.string[max(match.start() - 1, 0) : match.start()] == "=" and fold in self._labels:
            return self._labels[fold]
        return self._word(word)

    def _ends_namespace(self, match: re.Match[str]) -> bool:
        """Return whether a name follows. A path, such as /etc/default/kubelet, has no namespace."""
        start, end = match.span()
        in_path = match.string[max(start - 1, 0) : start] == "/"
        return match.string[end : end + 1] in {"/", ":"} and not in_path and match[0].casefold() in self._namespaces

    def value(self, value: Any, key: str = "") -> Any:
        """Return *value*, of JSON's types and in the field *key*, with its texts redacted.

        Field names stay, except the keys of labels and annotations.
        """
        match value:
            case str(text):
                # The value of a taint is that of a label.
                label = self._labels.get(text.casefold()) if key == "value" else None
                return REDACTED if _is_secret(key) else label or self.text(text)
            case Mapping() if key in LABEL_FIELDS or key == "annotations":
                kept = value if key == "annotations" else KEPT_LABELS
                return {
                    self.text(name): self.value(text, name) if name in kept else self._label(text)
                    for name, text in value.items()
                }
            case Mapping():
                return {name: self.value(item, str(name)) for name, item in value.items()}
            case list() | tuple() if key == "env":
                return [self.value(self._variable(item)) for item in value]
            case list() | tuple():
                # A secret may follow its flag as an argument of its own.
                return [self.value(item, _flag(before)) for before, item in zip(("", *value), value, strict=False)]
            case _:
                return value

    def _label(self, text: str) -> str:
        """Return the replacement of a label's value, which is that of the name with this text, if there is one."""
        if not text or text.casefold() in KEPT_NAMES:
            return text
        if (known := self._known.get(text.casefold())) is not None:
            return known
        if (known := self._labels.get(text.casefold())) is None:
            known = self._labels[text.casefold()] = self._numbered(text, LABEL)
        return known

    @staticmethod
    def _variable(variable: Mapping[str, Any]) -> dict[str, Any]:
        kept = variable.get("name") in KEPT_VARIABLES or "value" not in variable
        return {**variable, **({} if kept else {"value": REDACTED})}

    def _part(self, match: re.Match[str]) -> str:
        by_kind: Mapping[str | None, Callable[[str], str]] = {
            "user": lambda _: f"{REDACTED}@",
            "mail": lambda mail: self._replacement(mail, "mail"),
            "host": self._host,
            "short": self._short,
            "six": self._address,
        }
        return by_kind[match.lastgroup](match[0])

    def _short(self, short: str) -> str:
        dots = "…" if "…" in short else r"\u2026"
        return self._replacement(short.replace(dots, "…"), "client-id").replace("…", dots)

    def _word(self, word: str) -> str:
        if (known := self._known.get(word.casefold())) is not None:
            return known
        if _is_host(word):
            return self._host(word)
        # A name may be a part of a longer word: `pod.namespace.svc`, `name_more`, a UUID within a text.
        word = _UUID.sub(lambda uuid: self._uuid(uuid[0]), word)
        if "." in word:
            word = _FOUR.sub(lambda address: self._address(address[0]), word)
        return _PIECE.sub(lambda piece: self._known.get(piece[0].casefold(), piece[0]), word)

    def _host(self, host: str) -> str:
        fold = host.casefold()
        if fold in KEPT_ADDRESSES or fold in PUBLIC or fold in KEPT_HOSTS:
            return host
        if (address := self._address(host)) != host:
            return address
        for domain in PUBLIC:
            if fold.endswith(f".{domain}"):
                own, _, service = host[: -len(domain) - 1].rpartition(".")
                return f"{self._replacement(own, 'host')}.{service}.{domain}" if own else host
        return self._replacement(host, "host")

    def _address(self, text: str) -> str:
        if not text[:1].isdigit() and ":" not in text:
            return text
        try:
            address = ipaddress.ip_address(text)
        except ValueError:
            # A time, or an address after a colon.
            return _FOUR.sub(lambda four: self._address(four[0]), text) if ":" in text else text
        return text if str(address) in KEPT_ADDRESSES else self._replacement(text, "address")

    def _uuid(self, uuid: str) -> str:
        digits = uuid.lower().replace("-", "")
        spelled = "-".join((digits[:8], digits[8:12], digits[12:16], digits[16:20], digits[20:]))
        known = self._known.get(spelled)
        if known is None:
            self.counts["uuid"] += 1
            known = self._known[spelled] = self.replacements[spelled] = (
                f"00000000-0000-0000-0000-{self.counts['uuid']:012d}"
            )
            # Logs have client ids in a short form.
            self.replacements.setdefault(redacted(spelled), redacted(known))
            self._known.setdefault(redacted(spelled), redacted(known))
        return known if "-" in uuid else known.replace("-", "")

    def _replacement(self, text: str, kind: str) -> str:
        if (known := self._known.get(text.casefold())) is None:
            known = self._known[text.casefold()] = self._numbered(text, kind)
        return known

    def _numbered(self, text: str, kind: str) -> str:
        self.counts[kind] += 1
        self.replacements[text] = f"{kind}-{self.counts[kind]}"
        return self.replacements[text]


def _flag(argument: Any) -> str:
    """Return the name of the flag whose value is the next argument."""
    return argument.lstrip("-") if isinstance(argument, str) and argument[:1] == "-" and "=" not in argument else ""


def _is_secret(name: str) -> bool:
    """Return whether the value of a field or flag with this *name* is a credential, by the rule for logs."""
    return redact(f"{name}=x") != f"{name}=x"


def _is_host(word: str) -> bool:
    """Return whether *word* ends like a host, and is neither a name of this project nor one of Kubernetes."""
    rest, _, last = word.rpartition(".")
    fold = word.casefold()
    return (
        bool(rest)
        and len(last) > 1
        and last.isalpha()
        and not _CAMEL.search(word)  # a field
        and rest.casefold() not in _KEPT_PAIRS
        and not fold.startswith(_KEPT_STARTS)
        and not fold.endswith(_KEPT_ENDS)
    )
