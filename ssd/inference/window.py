"""Shows frames in a window while they are processed (show=true)."""

from __future__ import annotations

import cv2

from ssd.common.errors import MachineError
from ssd.common.images import ImageArray

_TITLE = "ssd: q closes"
_QUIT_KEYS = (ord("q"), 27)  # 27 is Esc


class Window:
    """A window on the screen; use it from the main thread only.

    Raises:
        MachineError: no screen, or OpenCV was built without windows.
    """

    def __init__(self) -> None:
        try:
            cv2.namedWindow(_TITLE, cv2.WINDOW_NORMAL | cv2.WINDOW_KEEPRATIO)
        except cv2.error:
            raise MachineError(
                "show=true: no screen, or an OpenCV without windows: "
                "pip uninstall opencv-python-headless && pip install opencv-python"
            ) from None

    def show(self, image: ImageArray) -> bool:
        """Shows an RGB image; returns False once the user has closed the window by key."""
        cv2.imshow(_TITLE, cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
        return cv2.waitKey(1) not in _QUIT_KEYS
