"""Common code of both daemons: custom resources, API server client, Azure's names, logs, metrics, flags.

Code belongs here if `nmi` and `mic` both use it today. Nothing here imports either of them.
"""
