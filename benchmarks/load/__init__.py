"""NMI under load compared with other servers: complete programs over loopback.

`generator` generates the load with a small C program; `requests` has the requests that it sends.
"""
