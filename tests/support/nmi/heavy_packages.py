"""Packages that a running NMI does not load."""

HEAVY = frozenset(
    (
        *("aiohttp", "azure", "cryptography", "difflib", "email", "iptc", "kubernetes", "msal", "multiprocessing"),
        *("requests", "rich", "typer", "yarl", "yaml"),
    )
)
"""Each but difflib takes megabytes. A module that needs one imports it late, outside the event loop or in another
process.
"""
