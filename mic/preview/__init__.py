"""`mic --plan`: what MIC would do against the live cluster and Azure, without doing it.

`survey` reads both once, `rehearsal` gives MIC's rounds on a picture in memory, `outcome` makes of that the values in
`shapes` (with `left_out`, what MIC cannot act on), `text` the lines to read. Nothing in here can write anywhere: there
is no lease, no watch and no Event, and it works beside a MIC that leads.
"""
