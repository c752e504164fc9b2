"""Write all files that are generated from the chart: python -m tools.chart"""

from tools.chart import manifests, rendering, values_table

values_table.update(rendering.CHART)
rendering.update_golden()
manifests.update()
