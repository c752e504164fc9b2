"""API server client: access and authentication, requests, informers, the Lease elector, Events.

`access` and `kubeconfig` give the address and the credentials. `transport` sends requests as raw bytes, `client` adds
the typed ones, `lists` reads lists in pages, and `watch_lines` splits a watch into lines; `response_limits` has their
sizes, `paths` their paths. `decoding` and `scanning` read the bytes. An `informer` keeps an `object_store` equal to the
server and reports what it cannot read to `skipped`; `first_contact` starts several. `lease` and `locks` elect a leader,
`events` sends Events.

Errors of the HTTP library never leave this package. Callers receive the classes of `kube.errors`, one for each
reaction.
"""
