"""Servers in Python that do NMI's job as one would write it at first, to be compared with."""
