"""The node: the iptables rules of NMI, their requirements, and the kernel's reports about the network.

`rules` defines the rules as data. `rule_maintenance` keeps them in place, and `rule_changes` wakes it. `legacy_driver`
and `nft_driver` read and write tables, one for each backend of iptables, and `backend` detects the node's backend.
`route_localnet`, `kubenet` and `conntrack` handle what their names state. `traffic_redirect` combines these modules for
`nmi.app`; `cleanup` removes the rules for `nmi --cleanup`. `network_monitor` and `rtnetlink` deliver the kernel's
reports to `nmi.identity`. No module here knows pods, tokens or requests, and no request waits here.
"""
