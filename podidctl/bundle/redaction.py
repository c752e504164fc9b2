"""Replacement of names and identifiers in texts, each always by the same replacement. Pure."""

import ipaddress
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

from podidentity.telemetry.logs import redact, redacted

KEPT_NAMESPACES: Final = frozenset({"default", "kube-system", "kube-public", "kube-node-lease"})
KEPT_NAMES: Final = KEPT_NAMESPACES | {"nmi", "mic"}
"""Names that each cluster has."""
KEPT_ADDRESSES: Final = frozenset({"169.254.169.254", "168.63.129.16", "127.0.0.1", "0.0.0.0", "::1", "::"})  # noqa: S104 - compared
PUBLIC: Final = (
    *("core.windows.net", "windows.net", "azure.net", "azure.com", "azure.us", "azure.cn", "microsoft.com"),
    *(
        "microsoftonline.com",
        "microsoftonline.us",
        "partner.microsoftonline.cn",
        "chinacloudapi.cn",
        "usgovcloudapi.net",
    ),
)
"""Domains of Azure's services, longer ones first. A host keeps them and one label more: the labels before name a
resource."""

NAMESPACE: Final = "namespace"
_WORD: Final = r"[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?"
_PART: Final = re.compile(
    r"(?P<escape>\\u[0-9A-Fa-f]{4}|\\.)"  # a letter of an escape belongs to no name
    r"|(?P<mail>[A-Za-z0-9._%+-]+@[A-Za-z0-9.-]+[A-Za-z0-9])"
    r"|(?<=://)(?P<user>[^/\s\"]+@)"
    r"|(?:(?<=://)|(?<=@))(?P<host>[A-Za-z0-9](?:[A-Za-z0-9.-]*[A-Za-z0-9])?)"
    r"|(?P<short>[0-9A-Za-z-]{4}…[0-9A-Za-z-]{4})"
    r"|(?P<six>(?<![0-9A-Fa-f:])(?:[0-9A-Fa-f]{0,4}:){2,7}[0-9A-Fa-f]{0,4}(?![0-9A-Fa-f:]))"
    rf"|(?P<word>{_WORD})"
)
_UUID: Final = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.IGNORECASE)


class Redaction:
    """Replaces in texts what identifies a customer.

    `replacements` has what was replaced so far. It is for the operator, who can translate an answer back.
    """

    def __init__(self, names: Iterable[tuple[str, str]] = ()) -> None:
        """*names* are pairs of a kind, such as `pod`, and a name. They are replaced wherever they are a whole word."""
        self.replacements: dict[str, str] = {}
        self.counts: Counter[str] = Counter()
        """Replacements by kind."""
        known = {*names}
        self._namespaces = KEPT_NAMESPACES | {name for kind, name in known if kind == NAMESPACE}
        for kind, name in sorted(known, key=lambda pair: (pair[0] != NAMESPACE, pair)):
            if name and name not in KEPT_NAMES:
                self._replacement(name, kind)

    def text(self, text: str) -> str:
        """Return *text* without credentials, known names, UUIDs, addresses, mail addresses and private hosts.

        What follows a known namespace, as in `namespace/name` or `serviceaccount:namespace:name`, is a name too.
        """
        after = -1

        def replaced(match: re.Match[str]) -> str:
            nonlocal after
            is_name, after = match.start() == after, match.end() + 1 if self._ends_namespace(match) else -1
            if is_name and match.lastgroup == "word" and match[0] not in KEPT_NAMES:
                return self._replacement(match[0], "object")
            return self._part(match)

        return _PART.sub(replaced, redact(text))

    def _ends_namespace(self, match: re.Match[str]) -> bool:
        """Return whether a name follows. A path, such as /etc/default/kubelet, has no namespace."""
        start, end = match.span()
        in_path = match.string[max(start - 1, 0) : start] == "/"
        return match[0] in self._namespaces and match.string[end : end + 1] in {"/", ":"} and not in_path

    def value(self, value: Any) -> Any:
        """Return *value*, of JSON's types, with all its texts and keys redacted."""
        match value:
            case str(text):
                return self.text(text)
            case Mapping():
                return {self.text(str(key)): self.value(item) for key, item in value.items()}
            case list() | tuple():
                return [self.value(item) for item in value]
            case _:
                return value

    def _part(self, match: re.Match[str]) -> str:
        by_kind: Mapping[str | None, Callable[[str], str]] = {
            "escape": str,
            "user": lambda _: "<redacted>@",
            "mail": lambda mail: self._replacement(mail, "mail"),
            "host": self._host,
            "short": lambda short: self._replacement(short, "client-id"),
            "six": self._address,
            "word": self._word,
        }
        return by_kind[match.lastgroup](match[0])

    def _word(self, word: str) -> str:
        if (known := self.replacements.get(word)) is not None:
            return known
        if _UUID.fullmatch(word):
            return self._uuid(word)
        if (address := self._address(word)) != word:
            return address
        # A name may be a part of a longer word: `pod.namespace.svc`, `name_more`, a UUID within a text.
        word = _UUID.sub(lambda uuid: self._uuid(uuid[0]), word)
        return re.sub(r"[^._]+", lambda piece: self.replacements.get(piece[0], piece[0]), word)

    def _host(self, host: str) -> str:
        if host in KEPT_ADDRESSES or host in PUBLIC:
            return host
        if (address := self._address(host)) != host:
            return address
        for domain in PUBLIC:
            if host.endswith(f".{domain}"):
                own, _, service = host.removesuffix(f".{domain}").rpartition(".")
                return f"{self._replacement(own, 'host')}.{service}.{domain}" if own else host
        return self._replacement(host, "host")

    def _address(self, text: str) -> str:
        try:
            address = ipaddress.ip_address(text)
        except ValueError:
            return text
        return text if str(address) in KEPT_ADDRESSES else self._replacement(text, "address")

    def _uuid(self, uuid: str) -> str:
        known = self.replacements.get(uuid.lower())
        if known is None:
            self.counts["uuid"] += 1
            known = self.replacements[uuid.lower()] = f"00000000-0000-0000-0000-{self.counts['uuid']:012d}"
            # Logs have client ids in a short form.
            self.replacements.setdefault(redacted(uuid.lower()), redacted(known))
        return known

    def _replacement(self, text: str, kind: str) -> str:
        if (known := self.replacements.get(text)) is None:
            self.counts[kind] += 1
            known = self.replacements[text] = f"{kind}-{self.counts[kind]}"
        return known
