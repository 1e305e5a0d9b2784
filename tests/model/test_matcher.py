from __future__ import annotations

import random

import cases
import pytest
import reference
import torch
from torch import Tensor

from ssd.model import matcher
from ssd.model.box_coder import BACKGROUND, IGNORED
from ssd.model.boxes import pairwise_iou
from ssd.model.matcher import Targets, match
from ssd.model.priors import PriorSpec


def match_images(
    images: list[list[reference.Object]], priors: Tensor, *, match_threshold: float = 0.5, extra_padding: int = 0
) -> Targets:
    batch = cases.collate(images, extra_padding=extra_padding)
    return match(
        batch["boxes"], batch["labels"], ignore=batch["ignore"], priors_cxcywh=priors, match_threshold=match_threshold
    )


def outcome(targets: Targets, image: int = 0) -> list[tuple[int, int | None]]:
    """(class target, matched box) of each prior, as reference.match returns them."""
    rows = zip(targets.class_targets[image].tolist(), targets.matched_gt[image].tolist(), strict=True)
    return [(column, index if column > 0 else None) for column, index in rows]


@pytest.fixture
def unlimited_rounds(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lifts the limit of 8 rounds, which the reference loop does not have."""
    monkeypatch.setattr(matcher, "_MAX_BIPARTITE_ROUNDS", 10**6)


@pytest.mark.usefixtures("unlimited_rounds")
@pytest.mark.parametrize("threshold", [0.2, 0.5])
@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("kind", cases.KINDS)
def test_match_equals_the_loop(kind: str, seed: int, threshold: float, few_priors: Tensor) -> None:
    objects = cases.KINDS[kind](random.Random(seed))
    expected = reference.match(objects, few_priors.tolist(), threshold)
    assert outcome(match_images([objects], few_priors, match_threshold=threshold)) == expected


@pytest.mark.usefixtures("unlimited_rounds")
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


def test_padding_gives_the_same_result(few_priors: Tensor) -> None:
    images = batch_of_every_kind()
    plain, padded = match_images(images, few_priors), match_images(images, few_priors, extra_padding=7)
    assert torch.equal(plain.class_targets, padded.class_targets)
    assert all(outcome(plain, index) == outcome(padded, index) for index in range(len(images)))


def test_a_batch_without_boxes_is_all_background(few_priors: Tensor) -> None:
    targets = match_images([[], []], few_priors)
    assert torch.equal(targets.class_targets, torch.zeros(2, len(few_priors), dtype=torch.int64))


def test_chunking_gives_the_same_result(few_priors: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    images = batch_of_every_kind()
    whole = match_images(images, few_priors)
    monkeypatch.setattr(matcher, "_CHUNK_BYTES", {"cpu": 1})
    in_chunks = match_images(images, few_priors)
    assert torch.equal(whole.class_targets, in_chunks.class_targets)
    assert torch.equal(whole.matched_gt, in_chunks.matched_gt)


def test_the_gpu_path_without_synchronisation_gives_the_same_result(
    few_priors: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a GPU every round of bipartite matching runs, without checking whether it is needed."""
    images = batch_of_every_kind()
    synchronising = match_images(images, few_priors)
    monkeypatch.setattr(matcher, "_known_empty", lambda mask: False)
    without = match_images(images, few_priors)
    assert torch.equal(synchronising.class_targets, without.class_targets)
    assert torch.equal(synchronising.matched_gt, without.matched_gt)


@pytest.mark.parametrize("seed", range(5))
def test_the_order_of_boxes_does_not_matter(seed: int, few_priors: Tensor) -> None:
    rng = random.Random(seed)
    objects = [cases.an_object(rng, ignored=index % 5 == 4) for index in range(20)] + cases.overlapping(rng)
    order = rng.sample(range(len(objects)), len(objects))
    shuffled = outcome(match_images([[objects[index] for index in order]], few_priors))
    back = [(column, None if index is None else order[index]) for column, index in shuffled]
    assert back == outcome(match_images([objects], few_priors))


@pytest.mark.parametrize("kind", ["overlapping", "duplicates"])
@pytest.mark.parametrize("seed", range(5))
def test_every_box_gets_its_own_prior(kind: str, seed: int, few_priors: Tensor) -> None:
    """amdegroot, qfgaohao and lufficc give a prior that several boxes compete for to the last box only."""
    objects = cases.KINDS[kind](random.Random(seed))
    assert {index for _, index in outcome(match_images([objects], few_priors))} - {None} == set(range(len(objects)))


def test_in_a_chain_of_more_than_8_boxes_the_last_get_no_prior(few_priors: Tensor) -> None:
    objects = cases.duplicates(random.Random(0), count=12)
    assert {index for _, index in outcome(match_images([objects], few_priors))} - {None} == set(range(8))


def test_a_box_below_the_threshold_gets_its_best_prior(few_priors: Tensor) -> None:
    tiny = (0.40, 0.40, 0.42, 0.42)
    matched = outcome(match_images([[(tiny, 2, False)]], few_priors))
    overlaps = [reference.iou(tiny, reference.corners(prior)) for prior in few_priors.tolist()]
    assert max(overlaps) < 0.5
    assert [prior for prior, (column, _) in enumerate(matched) if column > 0] == [overlaps.index(max(overlaps))]


def test_a_box_equal_to_a_prior_is_matched_at_threshold_1(few_priors: Tensor) -> None:
    prior = 100
    box = torch.tensor([[reference.corners(few_priors[prior].tolist())]], dtype=torch.float64)
    targets = match(
        box,
        torch.tensor([[1]]),
        ignore=torch.tensor([[False]]),
        priors_cxcywh=few_priors,
        match_threshold=1.0,
    )
    assert (targets.class_targets[0] > 0).nonzero().flatten().tolist() == [prior]


def test_priors_covered_by_an_ignored_box_are_ignored(few_priors: Tensor) -> None:
    """A box over the whole image covers every prior inside it."""
    ignored = ((0.0, 0.0, 1.0, 1.0), 0, True)
    real = ((0.3, 0.3, 0.6, 0.6), 1, False)
    both = match_images([[ignored, real]], few_priors).class_targets
    alone = match_images([[real]], few_priors).class_targets
    assert set(both[alone == BACKGROUND].tolist()) == {IGNORED}
    assert torch.equal(both[alone > BACKGROUND], alone[alone > BACKGROUND])


def test_positives_reach_the_threshold_or_are_bipartite_matches(few_priors: Tensor) -> None:
    objects = [cases.an_object(random.Random(seed)) for seed in range(10)]
    batch = cases.collate([objects])
    targets = match_images([objects], few_priors)
    priors_xyxy = torch.tensor([reference.corners(prior) for prior in few_priors.tolist()], dtype=torch.float64)
    overlaps = pairwise_iou(batch["boxes"][0], priors_xyxy)
    positive = targets.class_targets[0] > 0
    below = positive & (overlaps.amax(dim=0) < 0.5)
    assert (overlaps.amax(dim=0)[~positive] < 0.5).all()
    assert targets.matched_gt[0][below].unique().numel() == below.sum()
    assert torch.equal(targets.class_targets[0][positive], batch["labels"][0][targets.matched_gt[0][positive]] + 1)
