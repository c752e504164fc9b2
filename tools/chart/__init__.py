"""What is made of the chart: the table of its values, the rendered files that tests compare with, the plain manifests.

`python -m tools.chart` makes all of it anew; tests hold that nobody has forgotten to.
"""
