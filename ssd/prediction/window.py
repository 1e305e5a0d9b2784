"""Shows pictures on the screen, where OpenCV can."""

from __future__ import annotations

import cv2

from ssd.errors import MachineError
from ssd.images import Picture

_TITLE = "ssd: q closes"
_QUIT = (ord("q"), 27)  # Esc


class Window:
    """A window; use it from the main thread only.

    Raises:
        MachineError: this OpenCV has none, or there is no screen.
    """

    def __init__(self) -> None:
        try:
            cv2.namedWindow(_TITLE, cv2.WINDOW_NORMAL | cv2.WINDOW_KEEPRATIO)
        except cv2.error:
            raise MachineError(
                "show=true: no screen, or an OpenCV without windows: "
                "pip uninstall opencv-python-headless && pip install opencv-python"
            ) from None

    def show(self, picture: Picture) -> bool:
        """Whether the user wants to see more."""
        cv2.imshow(_TITLE, cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))
        return cv2.waitKey(1) not in _QUIT
