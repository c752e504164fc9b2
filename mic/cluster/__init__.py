"""Cluster state: in-memory indexes of the watched objects, and the state of each host that follows from them.

`view` processes watch events and marks the hosts that they affect. `bindings` and `pods` are its indexes, `host_state`
is the state of one host. `ignored_objects` and `mirror_pods` report objects that MIC does not act on.
"""
