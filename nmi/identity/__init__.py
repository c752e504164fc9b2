"""Who asks, and what it may have: watches feed the index (`feed`), a pure function decides (`decide`).

By day: `watching` brings what changes to `roster` (pods, by name and through `addresses` by address), `assignments` or
`managed` (whose identities are whose), and `exempting` (who gets the node's own). In doubt: `parking` waits for an
address or a name, and `reads` asks the API server. Nothing here knows HTTP or tokens.
"""
