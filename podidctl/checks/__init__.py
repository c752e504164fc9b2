"""Findings about the facts. Pure."""
