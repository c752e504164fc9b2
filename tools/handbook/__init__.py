"""Generator of the tables in docs/flags.md and docs/metrics.md: `python -m tools.handbook`, or `make docs`.

The tables are generated from the definitions that the programs use, so they cannot differ from the programs.
"""
