"""Python servers for comparison: straightforward implementations of NMI's work per request."""
