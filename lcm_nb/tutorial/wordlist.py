"""The mini family's words at hand: what a prompt may name."""

import html
import textwrap
from collections.abc import Iterator

from ..models.vocabulary import COLOURS, MEDIUMS, PALETTES, PLAIN, SETTINGS, SUBJECTS


class Words(dict):
    """Kind of word -> the words. A notebook shows them as a table, a terminal as lines."""

    def __repr__(self):
        return "\n".join(
            textwrap.fill(f"{kind}: {words}", 110, subsequent_indent="    ") for kind, words in self._lines()
        )

    def _repr_html_(self) -> str:
        cell = "<td style='text-align: left; vertical-align: top'>{}</td>"
        rows = (
            f"<tr>{cell.format(f'<b>{html.escape(kind)}</b>')}{cell.format(html.escape(words))}</tr>"
            for kind, words in self._lines()
        )
        return f"<table>{''.join(rows)}</table>"

    def _lines(self) -> Iterator[tuple[str, str]]:
        for kind, words in self.items():
            yield f"{kind} ({len(words)})", ", ".join(words)


def words() -> Words:
    """Return what the mini family can draw, in words to type: a subject, where it is, and how it is drawn.

    Other words give arbitrary pictures; the guide's models know nearly every word.
    """
    return Words(
        {
            "subjects": sorted(SUBJECTS),
            "settings": [phrases[0] for phrases in SETTINGS.values()],
            "a plain ... background": list(PLAIN),
            "palettes": [phrases[0] for phrases in PALETTES.values()],
            "mediums": [phrases[0] for phrases in MEDIUMS.values()],
            "colours before a subject": list(COLOURS),
        }
    )
