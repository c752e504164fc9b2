"""Values of custom resources without nulls, and with each text stored once. Pure."""

from collections.abc import Mapping
from typing import Any, Final

SEEN_MAX: Final = 4096
"""Number of texts that are stored once and shared."""
SEEN_CHARS: Final = 512
"""Maximum length of such a text; the id of an identity has about 200 characters. An attacker can fill 2 MiB, or 8 MiB
with wide characters.
"""
_SEEN: Final[dict[str, str]] = {}


def without_nulls(document: Mapping[str, Any]) -> dict[str, Any]:
    """Return *document* without its null fields, at any depth of maps, and with shared texts."""
    return {name: _compacted(value) for name, value in document.items() if value is not None}


def _compacted(value: Any) -> Any:
    match value:
        case dict():
            return without_nulls(value)
        case str():
            return _shared_text(value)
        case _:
            return value


def _shared_text(text: str) -> str:
    """Return *text* as a shared object if it was seen recently: thousands of objects name few identities.

    `sys.intern` is not used, because some versions of Python never free its strings.
    """
    if len(text) > SEEN_CHARS:
        return text
    if len(_SEEN) >= SEEN_MAX:
        _SEEN.clear()
    return _SEEN.setdefault(text, text)
