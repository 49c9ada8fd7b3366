"""The last pictures that a panel drew, as a film."""

import io
from collections import deque

from PIL import Image, ImageOps

SUFFIXES = (".webp", ".gif")
FRAMES = 120  # pictures at most
BYTES = 64_000_000  # that all of them may take
EACH, LAST = 200, 2000  # milliseconds that a picture stays, and the last one


class Film:
    """Pictures in the order in which they were drawn; the oldest go when there are too many. ``len`` counts them."""

    def __init__(self):
        self._frames: deque[bytes] = deque(maxlen=FRAMES)

    def __len__(self) -> int:
        return len(self._frames)

    def add(self, png: bytes) -> None:
        """Append a picture, the bytes of a PNG file."""
        self._frames.append(png)
        while len(self._frames) > 1 and sum(map(len, self._frames)) > BYTES:
            self._frames.popleft()

    def clear(self) -> None:
        """Let go of all."""
        self._frames.clear()

    def encode(self, suffix: str) -> bytes:
        """Return the bytes of an endless film, ".webp" or ".gif", in the size of its last picture."""
        frames = [Image.open(io.BytesIO(png)).convert("RGB") for png in self._frames.copy()]
        size = frames[-1].size
        fitted = [frame if frame.size == size else ImageOps.pad(frame, size, color="white") for frame in frames]
        durations, buffer = [EACH] * (len(fitted) - 1) + [LAST], io.BytesIO()
        how = {"save_all": True, "append_images": fitted[1:], "duration": durations, "loop": 0}
        fitted[0].save(buffer, format=suffix[1:], **how | ({"quality": 85, "method": 2} if suffix == ".webp" else {}))
        return buffer.getvalue()
