"""SSD object detection.

detector = ssd.load("model.safetensors")
detections = detector("street.jpg")
detections.draw("out.jpg")
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ssd.inference.detector import Detector, ImageDetections, load

os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # albumentations asks PyPI for a newer release on import

__version__ = "0.2.0"
__all__ = ["Detector", "ImageDetections", "__version__", "load"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from ssd.inference import detector  # on first use, so that `import ssd` stays light

    return getattr(detector, name)
