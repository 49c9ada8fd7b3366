"""What the notebooks teach with: checkers, the judge, measures, plots, and the mini family's words."""

from .wordlist import words

__all__ = ["words"]
