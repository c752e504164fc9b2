"""The command-line tool: explains why a pod gets no token, checks an installation, previews MIC's changes, migrates."""
