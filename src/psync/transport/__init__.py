"""What carries psync.v1: the websocket shell, TLS contexts, identities, pairing."""
