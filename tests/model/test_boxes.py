from __future__ import annotations

import pytest
import reference
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.testing import assert_close

from ssd.model.boxes import area, cxcywh_to_xyxy, intersection, pairwise_iou, xyxy_to_cxcywh


@st.composite
def boxes(draw: st.DrawFn, *, smallest: float = 1e-3) -> Tensor:
    """One to six boxes inside the image."""
    fraction = st.floats(0, 1, width=32)

    def box() -> list[float]:
        width, height = (smallest + (1 - smallest) * draw(fraction) for _ in range(2))
        x, y = draw(fraction) * (1 - width), draw(fraction) * (1 - height)
        return [x, y, x + width, y + height]

    return torch.tensor([box() for _ in range(draw(st.integers(1, 6)))])


@given(boxes())
def test_corners_to_centre_and_back_is_identity(boxes_xyxy: Tensor) -> None:
    assert_close(cxcywh_to_xyxy(xyxy_to_cxcywh(boxes_xyxy)), boxes_xyxy, rtol=0, atol=1e-6)


@given(boxes())
def test_centre_to_corners_and_back_is_identity(boxes_cxcywh: Tensor) -> None:
    assert_close(xyxy_to_cxcywh(cxcywh_to_xyxy(boxes_cxcywh)), boxes_cxcywh, rtol=0, atol=1e-6)


@given(boxes(), boxes())
def test_iou_is_symmetric(a: Tensor, b: Tensor) -> None:
    assert torch.equal(pairwise_iou(a, b), pairwise_iou(b, a).T)


@given(boxes(), boxes())
def test_iou_lies_between_0_and_1(a: Tensor, b: Tensor) -> None:
    overlaps = pairwise_iou(a, b)
    assert overlaps.min() >= 0
    assert overlaps.max() <= 1 + 1e-6


@given(boxes())
def test_iou_of_a_box_with_itself_is_1(some: Tensor) -> None:
    assert_close(pairwise_iou(some, some).diagonal(), torch.ones(len(some)))


@given(boxes(), boxes())
def test_iou_equals_the_loop(a: Tensor, b: Tensor) -> None:
    looped = [[reference.iou(one, other) for other in b.tolist()] for one in a.tolist()]
    assert_close(pairwise_iou(a, b), torch.tensor(looped), rtol=1e-3, atol=1e-5)


@given(boxes(), boxes())
def test_intersection_is_at_most_the_smaller_area(a: Tensor, b: Tensor) -> None:
    assert (intersection(a, b) <= torch.minimum(area(a)[:, None], area(b)) + 1e-6).all()


def test_iou_of_a_box_of_1_percent_with_itself_is_1() -> None:
    """qfgaohao and lufficc add 1e-5 to the union: 0.909."""
    box = torch.tensor([[0.50, 0.50, 0.51, 0.51]])
    assert_close(pairwise_iou(box, box), torch.ones(1, 1))


@pytest.mark.parametrize("empty", [(0.5, 0.5, 0.5, 0.5), (0.2, 0.5, 0.8, 0.5), (0.8, 0.8, 0.2, 0.2)])
def test_iou_with_an_empty_or_inverted_box_is_0(empty: tuple[float, ...]) -> None:
    box = torch.tensor([empty])
    assert pairwise_iou(box, torch.tensor([[0.0, 0.0, 1.0, 1.0]])) == 0
    assert pairwise_iou(box, box) == 0
    assert area(box) == 0


def test_no_boxes_give_an_empty_table() -> None:
    assert pairwise_iou(torch.zeros(0, 4), torch.rand(3, 4)).shape == (0, 3)
    assert pairwise_iou(torch.rand(3, 4), torch.zeros(0, 4)).shape == (3, 0)


def test_iou_of_a_batch_equals_that_of_each_image() -> None:
    a, b = torch.rand(2, 5, 4), torch.rand(7, 4)
    assert torch.equal(pairwise_iou(a, b), torch.stack([pairwise_iou(image, b) for image in a]))


def test_iou_is_written_where_asked() -> None:
    a, b = torch.rand(5, 4), torch.rand(7, 4)
    out = torch.empty(5, 7)
    assert pairwise_iou(a, b, out=out) is out
    assert torch.equal(out, pairwise_iou(a, b))


def test_iou_of_two_quarters_is_a_seventh() -> None:
    """By hand: squares of side 2 that share a square of side 1: 1 / (4 + 4 - 1)."""
    a, b = torch.tensor([[0.0, 0.0, 0.2, 0.2]]), torch.tensor([[0.1, 0.1, 0.3, 0.3]])
    assert_close(pairwise_iou(a, b), torch.tensor([[1 / 7]]))
