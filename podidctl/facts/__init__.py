"""Values that the readers return."""
