"""`podidctl verify`: a canary pod on each node requests the metadata address, and NMI's log proves who answered."""
