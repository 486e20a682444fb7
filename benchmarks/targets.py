"""Targets next to results: every benchmark collects these, prints them, and may write them to a file.

results = Results()
results.add("lstm (64, 64, 512), 2 threads: compiled / torch.nn", 1.02, at_least=0.95)
results.close(path)          # prints a table; with a path, also appends a JSON line each, for benchmarks/bench.py
"""

import json
from pathlib import Path


class Results:
    """Results with their targets, lower or upper bounds."""

    def __init__(self):
        self.rows = []

    def add(self, what, figure, unit="", at_least=None, at_most=None):
        """Add a result; print nothing yet."""
        asked = at_least if at_least is not None else at_most
        met = figure >= asked if at_least is not None else figure <= asked
        sign = "at least" if at_least is not None else "at most"
        self.rows.append({"what": what, "figure": figure, "unit": unit, "asked": f"{sign} {asked:g}", "met": met})

    def close(self, path=None):
        """Print all results and, with a path, append them to that file."""
        print()
        for row in self.rows:
            print(shown(row))
        if path:
            with Path(path).open("a") as file:
                file.writelines(json.dumps(row) + "\n" for row in self.rows)


def shown(row):
    """A line of the table."""
    figure = f"{row['figure']:.3g} {row['unit']}".strip()
    return f"{'met   ' if row['met'] else 'MISSED'}  {row['what']:68} {figure:>12}  (target: {row['asked']})"
