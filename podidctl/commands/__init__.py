"""Commands of `podidctl`, their options and their connection to the cluster."""
