"""Write all files that are generated from the chart: python -m tools.chart"""

from tools.chart import canary, manifests, rendering, values_table

canary.update()
values_table.update(rendering.CHART)
rendering.update_golden()
manifests.update()
