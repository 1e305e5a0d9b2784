from __future__ import annotations

import random

import cases
import pytest
import reference
import torch
from torch import Tensor
from torch.testing import assert_close

from ssd.common.structures import Predictions
from ssd.model import box_coder, matcher
from ssd.model.loss import Losses, MultiBoxLoss, hard_negative_mining

LOSS = MultiBoxLoss()


def random_predictions(images: int, priors: Tensor) -> Predictions:
    generator = torch.Generator().manual_seed(images)
    logits = 3 * torch.randn(images, len(priors), cases.CLASSES + 1, generator=generator)
    return Predictions(logits, torch.randn(images, len(priors), 4, generator=generator))


def loss_of(
    images: list[list[reference.Object]],
    priors: Tensor,
    *,
    predictions: Predictions | None = None,
    loss: MultiBoxLoss = LOSS,
    extra_padding: int = 0,
) -> Losses:
    predictions = predictions or random_predictions(len(images), priors)
    return loss(predictions, **cases.collate(images, extra_padding=extra_padding), priors=priors)


def loss_by_loop(
    images: list[list[reference.Object]], priors: Tensor, *, negative_ratio: float = 3.0
) -> tuple[float, float, int]:
    predictions = random_predictions(len(images), priors)
    rows = zip(predictions.logits.tolist(), predictions.offsets.tolist(), images, strict=True)
    return reference.multibox_loss(list(rows), priors.tolist(), threshold=0.5, negative_ratio=negative_ratio)


def one_of_every_kind() -> list[list[reference.Object]]:
    return [make(random.Random(1)) for make in cases.KINDS.values()]


@pytest.fixture
def unlimited_rounds(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lifts the limit of 8 rounds, which the reference loop does not have."""
    monkeypatch.setattr(matcher, "_MAX_BIPARTITE_ROUNDS", 10**6)


# Against the loop


@pytest.mark.usefixtures("unlimited_rounds")
@pytest.mark.parametrize("kind", cases.KINDS)
def test_loss_equals_the_loop(kind: str, few_priors: Tensor) -> None:
    images = [cases.KINDS[kind](random.Random(seed)) for seed in range(2)]
    losses = loss_of(images, few_priors)
    classification, localization, positives = loss_by_loop(images, few_priors)
    assert losses.positives == positives
    assert losses.classification.item() == pytest.approx(classification, rel=1e-5)
    assert losses.localization.item() == pytest.approx(localization, rel=1e-5)


@pytest.mark.usefixtures("unlimited_rounds")
def test_loss_of_a_mixed_batch_equals_the_loop(few_priors: Tensor) -> None:
    images = one_of_every_kind()
    losses = loss_of(images, few_priors)
    classification, localization, positives = loss_by_loop(images, few_priors)
    assert losses.positives == positives
    assert losses.total.item() == pytest.approx(classification + localization, rel=1e-5)


@pytest.mark.parametrize("ratio", [0.0, 0.5, 2.5, 1e4])
def test_any_negative_ratio_equals_the_loop(ratio: float, few_priors: Tensor) -> None:
    images = [cases.KINDS["some"](random.Random(3)), cases.KINDS["ignored"](random.Random(3))]
    loss = MultiBoxLoss(negative_ratio=ratio)
    classification, *_ = loss_by_loop(images, few_priors, negative_ratio=ratio)
    assert loss_of(images, few_priors, loss=loss).classification.item() == pytest.approx(classification, rel=1e-5)


def test_the_weight_multiplies_localization(few_priors: Tensor) -> None:
    images = [cases.KINDS["some"](random.Random(3))]
    losses = loss_of(images, few_priors, loss=MultiBoxLoss(localization_weight=2.5))
    assert_close(losses.total, losses.classification + 2.5 * losses.localization)


# Laws


def test_padding_changes_nothing(few_priors: Tensor) -> None:
    images = one_of_every_kind()
    plain, padded = loss_of(images, few_priors), loss_of(images, few_priors, extra_padding=9)
    assert torch.equal(plain.total, padded.total)


def test_a_batch_is_the_mean_of_its_images_weighted_by_positives(few_priors: Tensor) -> None:
    images = one_of_every_kind()
    predictions = random_predictions(len(images), few_priors)
    together = loss_of(images, few_priors, predictions=predictions)
    total = torch.zeros(())
    for index, objects in enumerate(images):
        alone = Predictions(predictions.logits[index : index + 1], predictions.offsets[index : index + 1])
        losses = loss_of([objects], few_priors, predictions=alone)
        total = total + losses.total * losses.positives
    assert_close(together.total * together.positives, total, check_dtype=False, rtol=1e-5, atol=0)


def test_perfect_predictions_have_next_to_no_loss(few_priors: Tensor) -> None:
    images = [cases.KINDS["some"](random.Random(seed)) for seed in range(3)]
    batch = cases.collate(images)
    targets = matcher.match(
        batch["boxes"], batch["labels"], ignore=batch["ignore"], priors_cxcywh=few_priors, match_threshold=0.5
    )
    logits = 50 * torch.nn.functional.one_hot(targets.class_targets, cases.CLASSES + 1).float()
    matched = batch["boxes"].gather(1, targets.matched_gt[..., None].expand(-1, -1, 4))
    predictions = Predictions(logits, box_coder.encode(matched, few_priors))
    assert loss_of(images, few_priors, predictions=predictions).total < 1e-4


def test_negatives_are_the_hardest_three_for_each_positive() -> None:
    logits = torch.randn(2, 100, 3)
    class_targets = torch.zeros(2, 100, dtype=torch.int64)
    class_targets[0, :4], class_targets[1, 10:12], class_targets[:, 50:60] = 1, 2, box_coder.IGNORED
    background_loss = logits.logsumexp(dim=-1) - logits[..., 0]
    mined, counted = hard_negative_mining(logits, class_targets, negative_ratio=3)
    for image, positives in enumerate((4, 2)):
        taken = set(mined[image][counted[image]].tolist())
        negatives = [prior for prior in range(100) if class_targets[image, prior] == 0]
        hardest = sorted(negatives, key=lambda prior: -background_loss[image, prior])[: 3 * positives]
        assert taken == set(hardest) | set((class_targets[image] > 0).nonzero().flatten().tolist())


def test_ignored_priors_have_no_gradient(few_priors: Tensor) -> None:
    """A real object inside an ignored one that covers every other prior in the image."""
    images = [[((0.3, 0.3, 0.6, 0.6), 1, False), ((0.0, 0.0, 1.0, 1.0), 0, True)]]
    batch = cases.collate(images)
    targets = matcher.match(
        batch["boxes"], batch["labels"], ignore=batch["ignore"], priors_cxcywh=few_priors, match_threshold=0.5
    )
    predictions, losses = with_gradients(images, few_priors)
    losses.total.backward()
    assert predictions.logits.grad is not None
    assert (predictions.logits.grad[targets.class_targets == box_coder.IGNORED] == 0).all()
    assert (predictions.logits.grad[targets.class_targets > 0] != 0).all()


# Always finite


def with_gradients(images: list[list[reference.Object]], priors: Tensor) -> tuple[Predictions, Losses]:
    random_ones = random_predictions(len(images), priors)
    predictions = Predictions(random_ones.logits.requires_grad_(), random_ones.offsets.requires_grad_())
    return predictions, loss_of(images, priors, predictions=predictions)


def assert_finite_with_gradients(images: list[list[reference.Object]], priors: Tensor) -> Losses:
    predictions, losses = with_gradients(images, priors)
    losses.total.backward()
    assert losses.total.isfinite()
    for tensor in (predictions.logits, predictions.offsets):
        assert tensor.grad is not None
        assert tensor.grad.isfinite().all()
    return losses


@pytest.mark.parametrize("extra", [[], cases.KINDS["ignored only"](random.Random(0))])
def test_a_batch_without_objects_has_loss_0(extra: list[reference.Object], few_priors: Tensor) -> None:
    assert assert_finite_with_gradients([[], extra], few_priors).total == 0


def test_images_without_objects_add_no_positives(few_priors: Tensor) -> None:
    some = cases.KINDS["some"](random.Random(0))
    losses = assert_finite_with_gradients([[], some, []], few_priors)
    assert losses.positives == loss_of([some], few_priors).positives


@pytest.mark.parametrize("seed", range(3))
def test_inverted_and_empty_boxes_never_give_nan(seed: int, few_priors: Tensor) -> None:
    """In other programs the log() of a negative side makes the weights NaN (CONVENTIONS, trap 1)."""
    broken = cases.KINDS["without area"](random.Random(seed))
    assert_finite_with_gradients([broken, broken[:4]], few_priors)
    assert loss_of([broken[:4]], few_priors).positives == 0


def test_an_infinite_loss_of_a_prior_that_does_not_count_is_left_out(few_priors: Tensor) -> None:
    """The second image has no object: its priors fill the table that the first image's positives make large."""
    images: list[list[reference.Object]] = [cases.KINDS["some"](random.Random(0)), []]
    predictions = random_predictions(2, few_priors)
    expected = loss_of(images, few_priors, predictions=predictions).total
    logits = predictions.logits.clone()
    logits[1, :, 0] = -torch.inf
    logits.requires_grad_()
    total = loss_of(images, few_priors, predictions=Predictions(logits, predictions.offsets)).total
    total.backward()
    assert torch.equal(total, expected)
    assert logits.grad is not None
    assert logits.grad.isfinite().all()


def test_the_loss_of_half_precision_logits_is_computed_in_single_precision(few_priors: Tensor) -> None:
    images = one_of_every_kind()
    single = random_predictions(len(images), few_priors)
    half = Predictions(single.logits.bfloat16().requires_grad_(), single.offsets.bfloat16().requires_grad_())
    rounded = Predictions(half.logits.detach().float(), half.offsets.detach().float())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        losses = loss_of(images, few_priors, predictions=half)
    losses.total.backward()
    assert torch.equal(losses.total, loss_of(images, few_priors, predictions=rounded).total)
    assert half.logits.grad is not None
    assert half.logits.grad.isfinite().all()
