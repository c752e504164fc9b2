"""The people's program: sandbox, demo, what MIC would do, and the answers to "why does my pod get no token?"."""
