"""`podidctl top`: what NMI does on each node now: pods, requests, refusals, tokens and calls to IMDS."""
