"""The encrypted transport: packets, handshake, sessions, admission, streams. Sans-IO cores."""
