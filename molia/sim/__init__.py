"""The deterministic world: a disk that loses power, and later a network that loses packets.

Nothing imports this package but tests and `python -m molia.sim`. It is the only place where
randomness comes from a seed.
"""
