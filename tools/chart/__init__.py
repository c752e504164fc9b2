"""Generators of files from the chart: the table of its values, the golden files of tests, and the plain manifests.

`python -m tools.chart` writes all of them; tests fail if they are out of date.
"""
