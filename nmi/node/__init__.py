"""The node's plumbing: the rules in its tables, what they need to work, and what they must not be combined with.

`rules` is what must stand where, as data; `upkeep` keeps it there and `alarm` wakes it; `legacy` and `nft` read and
write tables, one for each backend of iptables, and `backend` finds out which is this node's; `sysctl`, `kubenet` and
`conntrack` are what their names say; `plumbing` is all of it for `nmi.app`, `cleanup` its undoing for `nmi --cleanup`.
Nothing here knows pods, tokens or requests; no request waits here.
"""
