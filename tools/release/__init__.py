"""The artifacts of a release: sdist, wheel, chart, bills of materials, OpenVEX, checksums, provenance, release notes.

`python -m tools.release` is the command; docs/releasing.md describes its use. `versions`, `contents`, `provenance`,
`summary` and `vulnerabilities` are pure. `distributions`, `chart`, `installation` and `bills` run other programs, which
release.lock pins; only `validation` imports packages that are in that lock alone.
"""
