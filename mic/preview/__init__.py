"""`mic --plan`: the changes that MIC would make to the cluster and to Azure, without making them.

`survey` reads both once, `dry_run` runs reconcile passes in memory, `outcome` converts their result to the values in
`schema` (with `left_out`, the objects that MIC cannot act on), and `text` formats them. No module here can write: there
is no lease, no watch and no Event, and the plan works while another MIC leads.
"""
