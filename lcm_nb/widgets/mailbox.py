"""Work for one thread, of which the newest wins."""

import contextvars
import threading
import time
from collections.abc import Callable

Job = Callable[[], None]


class Mailbox:
    """One slot between many posters and one worker thread: a new job replaces one that has not begun.

    The thread starts with the first job and ends with :meth:`close`. Errands are small jobs beside:
    they are done when nothing else waits, replace nothing but an older errand of the same name, and
    make no run outdated.
    """

    def __init__(self):
        self._changed = threading.Condition()
        self._job: Job | None = None
        self._errands: dict[str, Job] = {}
        self._due, self._patient = 0.0, True
        self._busy = self._dropped = self._closed = False
        self._thread: threading.Thread | None = None

    def post(self, job: Job, *, pause: float = 0.0, patient: bool = False) -> None:
        """Have ``job`` done next, ``pause`` seconds from now if nothing newer comes; nothing after ``close``.

        A ``patient`` job makes the run in flight not outdated, unless it replaces one that does: of jobs that come
        faster than runs end, some are done.
        """
        with self._changed:
            self._patient = patient and (self._job is None or self._patient)
            self._job, self._due = job, time.monotonic() + pause
            self._wake()

    def hurry(self) -> None:
        """Let the job that waits, if there is one, be patient no more."""
        with self._changed:
            self._patient = False

    def post_errand(self, name: str, job: Job) -> None:
        """Have ``job`` done when there is nothing to draw."""
        with self._changed:
            self._errands[name] = job
            self._wake()

    def drop(self) -> None:
        """Forget the job that waits, and tell the one in flight that it is outdated."""
        with self._changed:
            self._job, self._dropped = None, self._busy
            self._changed.notify_all()

    def outdated(self) -> bool:
        """Return whether newer values wait, so that the run in flight may stop."""
        newer = self._job is not None and not self._patient and time.monotonic() >= self._due
        return newer or self._dropped or self._closed

    @property
    def dropped(self) -> bool:
        """Whether what the run in flight draws is not wanted any more."""
        return self._dropped or self._closed

    @property
    def closed(self) -> bool:
        """Whether no more work is taken."""
        return self._closed

    def wait_idle(self, timeout: float | None) -> bool:
        """Wait until nothing waits or runs; return False if that takes more than ``timeout`` seconds."""

        def idle() -> bool:
            return self._closed or not (self._job or self._errands or self._busy)

        with self._changed:
            return self._changed.wait_for(idle, timeout)

    def close(self) -> None:
        """End the thread, within one step if it draws."""
        with self._changed:
            self._closed, self._job = True, None
            self._errands.clear()
            self._changed.notify_all()

    def _wake(self) -> None:
        if self._closed:
            self._job = None
            self._errands.clear()
        elif self._thread is None:
            # A copied context: some ipykernel versions find their output by context variable.
            target = contextvars.copy_context().run
            self._thread = threading.Thread(target=target, args=(self._work,), name="lcm_nb panel", daemon=True)
            self._thread.start()
        self._changed.notify_all()

    def _work(self) -> None:
        while (job := self._take()) is not None:
            job()
            del job  # or it would hold the panel while this thread sleeps

    def _take(self) -> Job | None:
        with self._changed:
            self._busy = self._dropped = False
            self._changed.notify_all()
            while not self._closed:
                rest = self._due - time.monotonic() if self._job else None
                if rest is not None and rest <= 0:
                    job, self._job, self._busy = self._job, None, True
                    return job
                if self._errands and rest is None:
                    self._busy = True
                    return self._errands.pop(next(iter(self._errands)))
                self._changed.wait(rest)
            return None
