"""Check of the language: counts banned phrases in the tracked files."""
