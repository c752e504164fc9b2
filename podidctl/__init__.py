"""The people's program: the sandbox, the demo, and the answers to "why does my pod get no token?"."""
