"""The images with the costliest errors, and how their errors are drawn."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import ImageColor
from scenes import scene

from ssd.evaluation.charts import OUTCOME_COLOURS
from ssd.evaluation.tide import Outcome, classify_errors
from ssd.evaluation.worst_images import draw_error_panel, draw_errors, resize_longer_side, worst_images

CAT, DOG = 0, 1
PLACE, FAR = (0, 0, 100, 100), (200, 200, 300, 300)
WHITE = np.full((300, 600, 3), 255, dtype=np.uint8)


def test_the_worst_image_is_first_and_has_its_errors() -> None:
    good = scene([(PLACE, CAT)], [(PLACE, CAT, 0.9)])
    wrong = scene([(PLACE, CAT)], [(PLACE, CAT, 0.9), (FAR, CAT, 0.7)])
    bad = scene([(PLACE, CAT), (FAR, DOG), ((200, 0, 300, 90), DOG)], [(PLACE, DOG, 0.9)])
    worst = worst_images([good, wrong, bad], count=5)
    assert [(item.position, item.errors.summary) for item in worst] == [(2, "2 Miss, 1 Cls"), (1, "1 Bkg")]
    assert [item.cost for item in worst] == [pytest.approx(2.9), pytest.approx(0.7)]
    assert len(worst_images([wrong, bad], count=1)) == 1


def test_both_views_are_scaled_and_have_the_colours_of_the_outcomes() -> None:
    result = scene([(PLACE, CAT), (FAR, CAT)], [(PLACE, CAT, 0.9)])
    views = draw_errors(WHITE, result, classify_errors(result), ["cat"], side_px=400)
    assert [view.shape for view in views] == [(200, 400, 3)] * 2
    colours = [ImageColor.getrgb(OUTCOME_COLOURS[outcome]) for outcome in (Outcome.CORRECT, Outcome.MISS)]
    visible = [bool((view == colour).all(axis=-1).any()) for view in views for colour in colours]
    assert visible == [True, True, True, False]
    assert draw_error_panel(views, title="1 Miss").shape == (252, 808, 3)


def test_a_scaled_copy_is_drawn_like_the_original() -> None:
    result = scene([(PLACE, CAT), (FAR, CAT)], [(PLACE, CAT, 0.9)])
    errors = classify_errors(result)
    original = draw_errors(WHITE, result, errors, ["cat"], side_px=400)
    copy = resize_longer_side(WHITE, 400)
    scaled = draw_errors(copy, result, errors, ["cat"], side_px=400, size=(300, 600))
    for one, other in zip(original, scaled, strict=True):
        np.testing.assert_array_equal(one, other)
