"""Who may run now: one thread at a time, in the process that loaded what is run."""

import contextlib
import os
import threading
from collections.abc import Callable, Iterator

PAUSE = 0.05  # seconds between two looks whether one still wants to wait


class Turn:
    """A lock that says in a sentence why it cannot be had, rather than never to return.

    A pipeline that threads share gives wrong pictures silently; one that a forked child uses hangs, because torch's
    threads stay in the parent.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._holder: int | None = None
        self._process = os.getpid()

    @contextlib.contextmanager
    def taken(self, waiting: Callable[[], object] | None = None) -> Iterator[None]:
        """Hold the turn; while another thread has it, call ``waiting`` twenty times a second.

        What ``waiting`` raises ends the wait.

        Raises
        ------
        ValueError
            If this very thread holds it, or the process was forked.
        """
        check_process(self._process)
        if self._holder == threading.get_ident():
            raise ValueError(
                "generate was called inside on_step, while the studio draws; let on_step note what is to be drawn, "
                "and draw it after the run, or load a second studio."
            )
        held = False
        try:
            while not (held := self._lock.acquire(timeout=PAUSE)):
                if waiting:
                    waiting()
            self._holder = threading.get_ident()
            yield
        finally:
            if held:
                self._holder = None
                self._lock.release()


def check_process(loaded_in: int) -> None:
    """Refuse to go on in a process that was forked from the one with this id.

    Raises
    ------
    ValueError
        With the remedy.
    """
    if os.getpid() != loaded_in:
        raise ValueError(
            f"This process ({os.getpid()}) was forked from one that had loaded models ({loaded_in}), and torch would "
            "hang in it; start it with multiprocessing.get_context('spawn') and load the section there."
        )
