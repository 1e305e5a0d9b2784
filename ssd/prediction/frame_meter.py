"""How a prediction goes: frames a second."""

from __future__ import annotations

from ssd.meter import Meter


class FrameMeter(Meter):
    """Counts frames and objects; `total` frames are expected, None where that is not known."""

    def __init__(self, *, total: int | None) -> None:
        super().__init__("", total=total, stderr=True)
        self.frames = 0
        self._objects = 0

    def step(self, name: str, *, objects: int) -> None:
        """One more frame, of `name`, with so many objects."""
        self.frames += 1
        self._objects += objects
        of = "" if self.total is None else f"/{self.total}"
        self.show(name[-30:], f"{self.frames}{of} frames  {self._rate():.1f}/s", done=self.frames)

    def summary(self) -> str:
        """All in all."""
        return f"{self.frames} frames, {self._objects} objects shown, {self._rate():.1f} frames/s"

    def _rate(self) -> float:
        return self.frames / self.seconds
