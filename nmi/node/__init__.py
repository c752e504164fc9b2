"""The node's plumbing: the nat rule as data with one driver for each iptables backend, route_localnet, kubenet check."""
