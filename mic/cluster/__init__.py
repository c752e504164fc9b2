"""Cluster state: in-memory indexes of the watched objects, and the state of each host that follows from them.

`view` processes watch events (`changes`), compares the desired with the existing assignments and marks the hosts that
have work. Its indexes are `pods`, `existing_objects`, `hosts` (with the `host_state` of each) and `bindings`, which
groups bindings (`binding_groups`) and limits how many identities count for a selector (`selectors`, `limited_groups`).
`ignored_objects` and `mirror_pods` report objects that MIC does not act on.
"""
