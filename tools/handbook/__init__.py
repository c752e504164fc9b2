"""The made parts of docs/flags.md and docs/metrics.md: `python -m tools.handbook`, or `make docs`.

Both come from what the programs themselves use, so they say what a program does and not what somebody remembers of it.
"""
