"""Evaluation of the facts by the daemons' own rules. Pure."""
