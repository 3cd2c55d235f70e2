"""The scenarios: a file each, with `run(options)` that returns a report."""
