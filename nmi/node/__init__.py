"""The node: the rules of NMI, their requirements, and the kernel's reports about the network.

`rules` defines the rules as data. `rule_maintenance` keeps them in place, and `rule_changes` wakes it. `legacy_driver`,
`nft_driver` and `nftables_driver` read and write tables, one for each backend. `node_facts` reads what the choice of
the backend depends on, and `redirect_choice` chooses. `leftovers` removes NMI's rules from other backends, and `effect`
collects evidence that packets bypass the redirect. `cilium_redirect` notices and repairs a redirect that Cilium has
lost. `route_localnet`, `kubenet` and `conntrack` handle what their names state. `traffic_redirect` combines these
modules for `nmi.app`; `cleanup` removes the rules for `nmi --cleanup`.
`network_monitor` and `rtnetlink` deliver the kernel's reports to `nmi.identity`. No module here knows pods, tokens or
requests, and no request waits here.
"""
