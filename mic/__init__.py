"""MIC, the controller: makes Azure agree with the cluster about which identity sits on which VM or scale set.

`view` is the picture of the cluster (`places`, `stakes`), `claims` what each pod wants and whether it has it, `plan`
decides (pure; `client_ids` judges whether an AzureIdentity names its own client id), `documents` renders, `apply` and
`writing` carry out at the pace of `pacing`, `reconcile` drives it from keyed queues (`queueing`) with one worker for
each VM or scale set at a time. `telling` says in Events what cannot be done, `endpoints` and `measures` show how it
goes. `upgrade` comes before all that, once (`spellings` is its pure part), and `leading` lets nothing be written by who
does not lead. `mirror_pods` reports pods that only a kubelet makes. `startup_taint` opens new nodes when their NMI is
Ready. `app` puts all of it together; `azure` is the only room that knows Resource Manager, `cloud_config` the only one
that knows MIC's own credentials. `preview` tells what would be done, and does nothing.
"""
