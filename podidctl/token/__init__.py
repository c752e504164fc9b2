"""`podidctl token`: the identity whose token a pod would get, its source, or NMI's refusal.

`prediction` calls NMI's own functions; `command` defines the command. No token is fetched.
"""
