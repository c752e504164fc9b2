"""Tokens: the broker (cache, single flight, refresh ahead), the governor towards IMDS, and the sources by type."""
