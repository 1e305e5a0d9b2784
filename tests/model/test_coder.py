from __future__ import annotations

import math
import random

import cases
import pytest
import reference
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.testing import assert_close

from ssd.model import box_coder, matcher
from ssd.model.box_coder import decode, encode, foreground
from ssd.model.boxes import pairwise_iou
from ssd.model.matcher import Targets, match
from ssd.model.priors import PriorSpec

SIDES = st.floats(1e-3, 1.2)
CENTRES = st.floats(-0.1, 1.1)
CXCYWH = st.tuples(CENTRES, CENTRES, SIDES, SIDES)


def match_images(
    images: list[list[reference.Object]], priors: Tensor, *, iou_threshold: float = 0.5, extra_padding: int = 0
) -> Targets:
    batch = cases.collate(images, extra_padding=extra_padding)
    return match(
        batch["boxes"], batch["labels"], ignore=batch["ignore"], priors_cxcywh=priors, iou_threshold=iou_threshold
    )


def outcome(targets: Targets, image: int = 0) -> list[tuple[int, int | None]]:
    """(column, object) for each prior, as reference.match gives it."""
    rows = zip(targets.columns[image].tolist(), targets.objects[image].tolist(), strict=True)
    return [(column, index if column > 0 else None) for column, index in rows]


@pytest.fixture
def unbounded_contest(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the bound of 8 rounds, which the loop does not have."""
    monkeypatch.setattr(matcher, "_MAX_CONTEST_ROUNDS", 10**6)


# Encode and decode


@given(CXCYWH, CXCYWH)
def test_decode_inverts_encode(box_cxcywh: tuple[float, ...], prior: tuple[float, ...]) -> None:
    box = torch.tensor([reference.corners(box_cxcywh)], dtype=torch.float64)
    priors = torch.tensor([prior], dtype=torch.float64)
    ratio = (box[:, 2:] - box[:, :2]) / priors[:, 2:]
    capped = bool((ratio > 1000 / 16).any())
    assert torch.allclose(decode(encode(box, priors), priors), box, rtol=0, atol=1e-9) != capped


@given(st.lists(st.floats(-8, 8), min_size=4, max_size=4), CXCYWH)
def test_encode_inverts_decode(offsets: list[float], prior: tuple[float, ...]) -> None:
    wanted, priors = torch.tensor([offsets], dtype=torch.float64), torch.tensor([prior], dtype=torch.float64)
    decoded = decode(wanted, priors)
    if (decoded[:, 2:] - decoded[:, :2]).min() > 1e-5:
        assert_close(encode(decoded, priors), wanted, rtol=1e-6, atol=1e-6)


@given(CXCYWH, CXCYWH)
def test_encode_equals_the_loop(box_cxcywh: tuple[float, ...], prior: tuple[float, ...]) -> None:
    box = reference.corners(box_cxcywh)
    offsets = encode(torch.tensor([box], dtype=torch.float64), torch.tensor([prior], dtype=torch.float64))
    assert_close(offsets[0], torch.tensor(reference.encode(box, prior), dtype=torch.float64))


def test_offsets_of_known_boxes() -> None:
    """By hand: a tenth of the prior's width to the right is 0.1 / 0.1; twice as tall is log(2) / 0.2."""
    prior = torch.tensor([[0.5, 0.5, 0.2, 0.4]])
    same, shifted, taller = (0.4, 0.3, 0.6, 0.7), (0.42, 0.3, 0.62, 0.7), (0.4, 0.1, 0.6, 0.9)
    offsets = encode(torch.tensor([same, shifted, taller]), prior)
    expected = torch.tensor([[0, 0, 0, 0], [1, 0, 0, 0], [0, 0, 0, math.log(2) / 0.2]])
    assert_close(offsets, expected, rtol=0, atol=1e-5)


def test_an_empty_or_inverted_box_has_finite_offsets() -> None:
    boxes = torch.tensor([[0.5, 0.5, 0.5, 0.5], [0.8, 0.8, 0.2, 0.2]])
    assert encode(boxes, torch.tensor([[0.5, 0.5, 0.1, 0.1]])).isfinite().all()


def test_a_wild_prediction_decodes_to_a_finite_box() -> None:
    """Sides grow by 1000/16 at most, as in torchvision."""
    box = decode(torch.tensor([[0.0, 0.0, 1e6, 1e6]]), torch.tensor([[0.5, 0.5, 0.1, 0.1]]))
    assert_close(box[0, 2:] - box[0, :2], torch.tensor([6.25, 6.25]))


def test_background_is_column_0() -> None:
    scores = torch.rand(2, 3, 5)
    assert torch.equal(foreground(scores), scores[..., 1:])


# Match


@pytest.mark.usefixtures("unbounded_contest")
@pytest.mark.parametrize("threshold", [0.2, 0.5])
@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("kind", cases.KINDS)
def test_match_equals_the_loop(kind: str, seed: int, threshold: float, few_priors: Tensor) -> None:
    objects = cases.KINDS[kind](random.Random(seed))
    expected = reference.match(objects, few_priors.tolist(), threshold)
    assert outcome(match_images([objects], few_priors, iou_threshold=threshold)) == expected


@pytest.mark.usefixtures("unbounded_contest")
def test_match_equals_the_loop_on_the_priors_of_ssd300(vgg16_300: PriorSpec) -> None:
    priors = vgg16_300.build([(side, side) for side in (38, 19, 10, 5, 3, 1)], image_size=300).double()
    rng = random.Random(0)
    objects = [cases.an_object(rng, ignored=index % 4 == 0) for index in range(12)]
    assert outcome(match_images([objects], priors)) == reference.match(objects, priors.tolist(), 0.5)


def batch_of_every_kind(seed: int = 0) -> list[list[reference.Object]]:
    return [make(random.Random(seed)) for make in cases.KINDS.values()]


def test_a_batch_equals_its_images(few_priors: Tensor) -> None:
    images = batch_of_every_kind()
    together = match_images(images, few_priors)
    for index, objects in enumerate(images):
        assert outcome(together, index) == outcome(match_images([objects], few_priors))


def test_padding_changes_nothing(few_priors: Tensor) -> None:
    images = batch_of_every_kind()
    plain, padded = match_images(images, few_priors), match_images(images, few_priors, extra_padding=7)
    assert torch.equal(plain.columns, padded.columns)
    assert all(outcome(plain, index) == outcome(padded, index) for index in range(len(images)))


def test_no_room_for_objects_gives_background_only(few_priors: Tensor) -> None:
    targets = match_images([[], []], few_priors)
    assert torch.equal(targets.columns, torch.zeros(2, len(few_priors), dtype=torch.int64))


def test_chunks_change_nothing(few_priors: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    images = batch_of_every_kind()
    whole = match_images(images, few_priors)
    monkeypatch.setattr(matcher, "_CHUNK_BYTES", {"cpu": 1})
    in_chunks = match_images(images, few_priors)
    assert torch.equal(whole.columns, in_chunks.columns)
    assert torch.equal(whole.objects, in_chunks.objects)


def test_not_looking_at_the_data_changes_nothing(few_priors: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a GPU every round of the contest runs, without a look whether one is needed."""
    images = batch_of_every_kind()
    looking = match_images(images, few_priors)
    monkeypatch.setattr(matcher, "_surely_none", lambda mask: False)
    blind = match_images(images, few_priors)
    assert torch.equal(looking.columns, blind.columns)
    assert torch.equal(looking.objects, blind.objects)


@pytest.mark.parametrize("seed", range(5))
def test_the_order_of_objects_changes_nothing(seed: int, few_priors: Tensor) -> None:
    rng = random.Random(seed)
    objects = [cases.an_object(rng, ignored=index % 5 == 4) for index in range(20)] + cases.overlapping(rng)
    order = rng.sample(range(len(objects)), len(objects))
    shuffled = outcome(match_images([[objects[index] for index in order]], few_priors))
    back = [(column, None if index is None else order[index]) for column, index in shuffled]
    assert back == outcome(match_images([objects], few_priors))


@pytest.mark.parametrize("kind", ["overlapping", "duplicates"])
@pytest.mark.parametrize("seed", range(5))
def test_every_object_keeps_a_prior_of_its_own(kind: str, seed: int, few_priors: Tensor) -> None:
    """amdegroot, qfgaohao and lufficc give the contested prior to the last object alone."""
    objects = cases.KINDS[kind](random.Random(seed))
    assert {index for _, index in outcome(match_images([objects], few_priors))} - {None} == set(range(len(objects)))


def test_a_chain_of_more_than_8_leaves_the_last_without_a_prior(few_priors: Tensor) -> None:
    objects = cases.duplicates(random.Random(0), count=12)
    assert {index for _, index in outcome(match_images([objects], few_priors))} - {None} == set(range(8))


def test_an_object_too_small_for_the_threshold_gets_its_best_prior(few_priors: Tensor) -> None:
    tiny = (0.40, 0.40, 0.42, 0.42)
    matched = outcome(match_images([[(tiny, 2, False)]], few_priors))
    overlaps = [reference.iou(tiny, reference.corners(prior)) for prior in few_priors.tolist()]
    assert max(overlaps) < 0.5
    assert [prior for prior, (column, _) in enumerate(matched) if column > 0] == [overlaps.index(max(overlaps))]


def test_an_object_that_is_a_prior_is_matched_at_threshold_1(few_priors: Tensor) -> None:
    prior = 100
    box = torch.tensor([[reference.corners(few_priors[prior].tolist())]], dtype=torch.float64)
    targets = match(
        box,
        torch.tensor([[1]]),
        ignore=torch.tensor([[False]]),
        priors_cxcywh=few_priors,
        iou_threshold=1.0,
    )
    assert (targets.columns[0] > 0).nonzero().flatten().tolist() == [prior]


def test_ignored_objects_are_neither_positive_nor_negative(few_priors: Tensor) -> None:
    """A box over the whole image covers every prior inside it."""
    ignored = ((0.0, 0.0, 1.0, 1.0), 0, True)
    real = ((0.3, 0.3, 0.6, 0.6), 1, False)
    columns = match_images([[ignored, real]], few_priors).columns
    alone = match_images([[real]], few_priors).columns
    assert set(columns[alone == 0].tolist()) == {box_coder.IGNORED}
    assert torch.equal(columns[alone > 0], alone[alone > 0])


def test_positives_overlap_by_the_threshold_or_are_their_objects_own(few_priors: Tensor) -> None:
    objects = [cases.an_object(random.Random(seed)) for seed in range(10)]
    batch = cases.collate([objects])
    targets = match_images([objects], few_priors)
    priors_xyxy = torch.tensor([reference.corners(prior) for prior in few_priors.tolist()], dtype=torch.float64)
    overlaps = pairwise_iou(batch["boxes"][0], priors_xyxy)
    positive = targets.columns[0] > 0
    below = positive & (overlaps.amax(dim=0) < 0.5)
    assert (overlaps.amax(dim=0)[~positive] < 0.5).all()
    assert targets.objects[0][below].unique().numel() == below.sum()
    assert torch.equal(targets.columns[0][positive], batch["labels"][0][targets.objects[0][positive]] + 1)
