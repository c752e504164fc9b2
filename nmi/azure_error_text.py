"""Azure's sentence about a refused token, filtered for the pod. Pure.

Azure writes ids and names of tenants, applications and hosts into its errors. The pod receives only its own (the client
id and tenant of its identity, the audience of its request). The filter removes all others, every text that could be a
credential, and the term by which SDKs detect a missing endpoint.
"""

import re
from collections.abc import Iterable
from typing import Final

from podidentity.telemetry.logs import redact, redacted

REMOVED: Final = "<removed>"
LONG_WORD: Final = 24
"""Characters. Longer words are ids, parts of tokens or secrets, not English."""

_FOREIGN: Final = re.compile(
    r"/(?:subscriptions|providers|resourcegroups)/[^\s'\"<>,;]*"
    r"|[a-z][a-z0-9+.-]*://[^\s'\"<>,;]*"
    r"|(?<!\w)'.*?(?:'(?!\w)|$)"
    r"|(?<!\w)\"[^\"]*(?:\"|$)"
    r"|(?<!\w)`[^`]*(?:`|$)"
    r"|[\u2018\u201c][^\u2019\u201d]*(?:[\u2019\u201d]|$)"
    r"|(?<=\bnamed ).+?(?=\s(?:was|were|is|are|in|of|for|with|does|has|cannot|could)\s|[.,;](?:\s|$)|$)"
    r"|[0-9a-f]{8}(?:-?[0-9a-f]{4}){3}-?[0-9a-f]{12}"
    r"|[^\s'\"<>,;@]+@[^\s'\"<>,;]+"
    r"|(?:[0-9a-f]{0,4}:){3,7}[0-9a-f]{0,4}"
    r"|\b(?:[0-9]{1,3}\.){3}[0-9]{1,3}\b"
    r"|\b(?:[a-z0-9_-]+\.)+[a-z]{2,}\b"
    rf"|[^\s'\"<>,;:()]{{{LONG_WORD},}}",
    re.IGNORECASE,
)
"""Resource ids, URLs, quoted texts (also with a truncated end), names after `named`, GUIDs, mail addresses, IPv6 and
IPv4 addresses, host names, and long words: in this order, at each position the first match."""

_SPOILED: Final = re.compile("unreachable", re.IGNORECASE)
_EDGES: Final = "'\"`.,;:()/\u2018\u2019\u201c\u201d"


def for_pod(sentence: str, own: Iterable[str]) -> str:
    """Return the part of *sentence* that a pod may read: printable ASCII on one line, at most a few characters
    longer than *sentence*.

    *own* are the ids and names that are the pod's own. Empty for an empty *sentence*.
    """
    kept = {form.strip(_EDGES).casefold() for name in own if name.strip() for form in (name, redacted(name))}

    def replacement(match: re.Match[str]) -> str:
        return match[0] if match[0].strip(_EDGES).casefold() in kept else REMOVED

    text = " ".join(sentence.split())
    if text.endswith("\u2026"):
        text = text[:-1].rpartition(" ")[0] + " ..."  # half an id is not recognised as an id
    text = _FOREIGN.sub(replacement, redact(text))
    text = "".join(char if char.isascii() and char.isprintable() else "?" for char in text.replace("\u2026", "..."))
    return _SPOILED.sub("not answering", text)
