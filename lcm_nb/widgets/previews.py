"""When a preview is worth its time."""

import time

SHARE = 0.05  # of a run's time that its previews may take
BRIEF = 0.5  # seconds: a shorter run is not followed, for a browser on the same computer takes its time from it
WORTH = 0.12  # seconds: a preview that the next picture replaces sooner is not seen


class Previews:
    """Decide for each step of a run whether to show a preview.

    What steps and previews take is measured, and remembered from run to run, so that previews
    never take more than a twentieth of a run that they are part of.
    """

    def __init__(self):
        self._cost = 0.01  # seconds: a guess, until one was made
        self._began = self._spent = 0.0

    def begin(self) -> None:
        """Start the clock of a run."""
        self._began, self._spent = time.perf_counter(), 0.0

    def worth(self, step) -> bool:
        """Return whether to make a preview of ``step``: ``number`` of ``total``, of ``picture`` of ``pictures``."""
        if step.number >= step.total or not step.preview:
            return False
        each = self._each(step)
        rest = each * (step.total - step.number)
        return rest > WORTH and self._spent + self._cost < SHARE * each * step.total * step.pictures

    def is_brief(self, step) -> bool:
        """Return whether the run of ``step`` seems to be over before anybody looks at how far it is."""
        return self._each(step) * step.total * step.pictures < BRIEF

    def _each(self, step) -> float:
        """Return the seconds that a step of this run took so far."""
        done = (step.picture - 1) * step.total + step.number
        return (time.perf_counter() - self._began - self._spent) / done

    def made(self, seconds: float) -> None:
        """Take note of what a preview took, from decoding to sending."""
        self._cost = seconds
        self._spent += seconds
