"""Write all files that are generated from the chart: python -m tools.chart"""

from podidctl.verify.pod import program
from tools.chart import manifests, rendering, values_table

rendering.CANARY.write_text(program())
values_table.update(rendering.CHART)
rendering.update_golden()
manifests.update()
