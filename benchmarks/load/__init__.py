"""What the node's daemon does under load, beside its yardsticks: whole programs over loopback.

`generator` makes the load, by a small C program of its own, and `requests` are what it sends.
"""
