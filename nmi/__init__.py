"""NMI, the node daemon: it decides whether the pod at an address may have a token, and returns the token.

`app` builds all objects. `server` parses requests and writes responses. `identity` knows the pod of a request and its
identities, and decides. `tokens` fetches and caches tokens. `node` redirects pods' requests to NMI (iptables,
route_localnet) and reads the kernel's reports about the network.
"""
