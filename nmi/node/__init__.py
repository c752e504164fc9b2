"""The node's plumbing: the nat rule, what it needs to work, and what it must not be combined with.

`redirect` is the rule as data and the loop that keeps it; `legacy` and `nft` read and write nat tables, one for each
backend of iptables, and `backend` finds out which is this node's; `sysctl`, `kubenet` and `conntrack` are what their
names say; `plumbing` is all of it for `nmi.app`. Nothing here knows pods, tokens or requests; no request waits here.
"""
