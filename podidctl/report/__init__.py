"""Text and documents of all commands."""
