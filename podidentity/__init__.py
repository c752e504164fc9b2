"""What both daemons stand on: the custom resources, the API server's client, Azure's names, logs, metrics, flags.

A thing belongs here when `nmi` and `mic` both use it today. Nothing here knows either of them.
"""
