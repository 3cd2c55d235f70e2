"""Settings of hypothesis, and what the tests say at the end of a run.

A test that has something to tell writes it with pytest's `record_property`, which also works from
the worker processes of `-n`:

    record_property("summary", "one line that is printed as it is")
    record_property("count/crash states/append", 1200)   # summed over all tests, one table a name
"""

from collections import Counter, defaultdict

import pytest
from hypothesis import settings

settings.register_profile("default", deadline=None, print_blob=True)
settings.register_profile("fuzz", deadline=None, print_blob=True, max_examples=20_000)
settings.load_profile("default")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print the lines and the tables that tests recorded."""
    lines: list[str] = []
    tables: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for report in terminalreporter.stats.get("passed", []):
        for name, value in getattr(report, "user_properties", []):
            if name == "summary":
                lines.append(str(value))
            elif name.startswith("count/"):
                _, table, row = name.split("/", 2)
                tables[table][row] += int(str(value))
    if lines or tables:
        terminalreporter.section("what the tests measured")
    for line in sorted(lines):
        terminalreporter.line(line)
    for table, rows in sorted(tables.items()):
        terminalreporter.line(f"{table}: {sum(rows.values()):,} in all")
        for row, count in sorted(rows.items()):
            terminalreporter.line(f"  {row:<24} {count:>12,}")
