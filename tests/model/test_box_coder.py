from __future__ import annotations

import math

import reference
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.testing import assert_close

from ssd.model.box_coder import class_column, decode, encode, foreground, num_columns

SIDES = st.floats(1e-3, 1.2)
CENTRES = st.floats(-0.1, 1.1)
CXCYWH = st.tuples(CENTRES, CENTRES, SIDES, SIDES)


@given(CXCYWH, CXCYWH)
def test_decode_inverts_encode(box_cxcywh: tuple[float, ...], prior: tuple[float, ...]) -> None:
    box = torch.tensor([reference.corners(box_cxcywh)], dtype=torch.float64)
    priors = torch.tensor([prior], dtype=torch.float64)
    ratio = (box[:, 2:] - box[:, :2]) / priors[:, 2:]
    capped = bool((ratio > 1000 / 16).any())
    assert torch.allclose(decode(encode(box, priors), priors), box, rtol=0, atol=1e-9) != capped


@given(st.lists(st.floats(-8, 8), min_size=4, max_size=4), CXCYWH)
def test_encode_inverts_decode(offsets: list[float], prior: tuple[float, ...]) -> None:
    expected, priors = torch.tensor([offsets], dtype=torch.float64), torch.tensor([prior], dtype=torch.float64)
    decoded = decode(expected, priors)
    if (decoded[:, 2:] - decoded[:, :2]).min() > 1e-5:
        assert_close(encode(decoded, priors), expected, rtol=1e-6, atol=1e-6)


@given(CXCYWH, CXCYWH)
def test_encode_equals_the_loop(box_cxcywh: tuple[float, ...], prior: tuple[float, ...]) -> None:
    box = reference.corners(box_cxcywh)
    offsets = encode(torch.tensor([box], dtype=torch.float64), torch.tensor([prior], dtype=torch.float64))
    assert_close(offsets[0], torch.tensor(reference.encode(box, prior), dtype=torch.float64))


def test_offsets_of_known_boxes() -> None:
    """By hand: a shift by a tenth of the prior's width is 0.1 / 0.1; twice the height is log(2) / 0.2."""
    prior = torch.tensor([[0.5, 0.5, 0.2, 0.4]])
    same, shifted, taller = (0.4, 0.3, 0.6, 0.7), (0.42, 0.3, 0.62, 0.7), (0.4, 0.1, 0.6, 0.9)
    offsets = encode(torch.tensor([same, shifted, taller]), prior)
    expected = torch.tensor([[0, 0, 0, 0], [1, 0, 0, 0], [0, 0, 0, math.log(2) / 0.2]])
    assert_close(offsets, expected, rtol=0, atol=1e-5)


def test_an_empty_or_inverted_box_has_finite_offsets() -> None:
    boxes = torch.tensor([[0.5, 0.5, 0.5, 0.5], [0.8, 0.8, 0.2, 0.2]])
    assert encode(boxes, torch.tensor([[0.5, 0.5, 0.1, 0.1]])).isfinite().all()


def test_an_extreme_prediction_decodes_to_a_finite_box() -> None:
    """The scale of a side is capped at 1000/16, as in torchvision."""
    box = decode(torch.tensor([[0.0, 0.0, 1e6, 1e6]]), torch.tensor([[0.5, 0.5, 0.1, 0.1]]))
    assert_close(box[0, 2:] - box[0, :2], torch.tensor([6.25, 6.25]))


def test_background_is_column_0() -> None:
    scores = torch.rand(2, 3, 5)
    assert torch.equal(foreground(scores), scores[..., 1:])
    assert [class_column(label) for label in range(4)] == [1, 2, 3, 4]
    assert num_columns(4) == 5
