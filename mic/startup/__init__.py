"""Start of MIC: configuration, and the work that a new leader does before or besides reconciliation.

`settings` reads the command line and the environment, `cloud_config` reads MIC's own credentials.
`type_upgrade` rewrites objects with old field names once (`object_upgrade` is its pure part). `startup_taint` removes
the start-up taint from nodes whose NMI is Ready.
"""
