"""Rows of tables that are kept as they are measured."""

import json
from collections.abc import Callable
from pathlib import Path


class Rows:
    """Rows of tables, kept in a file as they are measured, so that ``--resume`` goes on where a run stopped."""

    def __init__(self, path: Path, *, resume: bool):
        path.parent.mkdir(exist_ok=True)
        lines = path.read_text().splitlines() if resume and path.exists() else []
        self.path, self.rows = path, [json.loads(line) for line in lines]

    def row(self, case: dict, measure: Callable[..., dict], *arguments) -> dict:
        """Return the case with what ``measure(*arguments)`` returns, or returned before."""
        for row in self.rows:
            if case.items() <= row.items():
                return dict(row)
        self.rows.append(case | measure(*arguments))
        self.path.write_text("".join(json.dumps(row) + "\n" for row in self.rows))
        return dict(self.rows[-1])
