"""The `molia` command: a thin client of a running node, and the root that builds the node."""
