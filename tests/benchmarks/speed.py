"""Times our parts against torchvision's SSD in one process: python tests/benchmarks/speed.py

Prints medians and ratios; only the ratios mean something on a shared machine. Peers run with the same allocator.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor
from torchvision.models.detection import ssd300_vgg16
from torchvision.models.detection.image_list import ImageList
from torchvision.ops import box_iou

from ssd.common.runtime import keep_freed_memory
from ssd.common.structures import Predictions
from ssd.model.backbones import VGG16
from ssd.model.boxes import cxcywh_to_xyxy
from ssd.model.loss import MultiBoxLoss
from ssd.model.postprocess import PostProcess
from ssd.model.priors import PriorSpec
from ssd.model.ssd import SSD

CLASSES = 20
RUNS = 7


def median_ms(function: Callable[[], object]) -> float:
    function()
    times = []
    for _ in range(RUNS):
        start = time.perf_counter()
        function()
        times.append(time.perf_counter() - start)
    return statistics.median(times) * 1000


def report(what: str, ours: Callable[[], object], peer: Callable[[], object]) -> None:
    ours_ms, peer_ms = median_ms(ours), median_ms(peer)
    print(f"{what:58} {ours_ms:9.1f} {peer_ms:9.1f} {peer_ms / ours_ms:7.2f}x", flush=True)


def our_network() -> SSD:
    spec = PriorSpec(
        scales=[0.1, 0.2, 0.37, 0.54, 0.71, 0.88, 1.05],
        aspect_ratios=[[2], [2, 3], [2, 3], [2, 3], [2], [2]],
        steps_px={300: [8, 16, 32, 64, 100, 300]},
        clip="sizes",
    )
    backbone = VGG16(extras="300", mean=[123.0, 117.0, 104.0], std=[1.0] * 3)
    names = [f"class{number}" for number in range(CLASSES)]
    return SSD(backbone, spec, class_names=names, image_size=300).to(memory_format=torch.channels_last)


def random_objects(batch: int, objects: int) -> tuple[Tensor, Tensor]:
    low = torch.rand(batch, objects, 2) * 0.8
    return torch.cat((low, low + 0.02 + torch.rand(batch, objects, 2) * 0.18), dim=-1), torch.randint(
        0, CLASSES, (batch, objects)
    )


def match_and_loss(model: SSD, peer: torch.nn.Module, objects: int) -> None:
    batch, priors = 16, model.priors
    boxes, labels = random_objects(batch, objects)
    ignore = torch.zeros(batch, objects, dtype=torch.bool)
    logits = torch.randn(batch, len(priors), CLASSES + 1, requires_grad=True)
    offsets = torch.randn(batch, len(priors), 4, requires_grad=True)
    loss = MultiBoxLoss(match_threshold=0.5, negative_ratio=3, localization_weight=1)
    priors_px = [cxcywh_to_xyxy(priors) * 300] * batch
    targets = [{"boxes": boxes[row] * 300, "labels": labels[row] + 1} for row in range(batch)]

    def ours() -> None:
        predictions = Predictions(logits, offsets)
        loss(predictions, boxes=boxes, labels=labels, ignore=ignore, priors=priors).total.backward()

    def theirs() -> None:
        matched = [
            peer.proposal_matcher(box_iou(target["boxes"], prior))
            for target, prior in zip(targets, priors_px, strict=True)
        ]
        losses = peer.compute_loss(targets, {"bbox_regression": offsets, "cls_logits": logits}, priors_px, matched)
        sum(losses.values()).backward()

    report(f"match + loss, batch 16, {objects} objects", ours, theirs)


def post_processing(model: SSD, peer: torch.nn.Module, what: str, logits: Tensor) -> None:
    batch, priors = len(logits), model.priors
    offsets = torch.randn(batch, len(priors), 4)
    post = PostProcess(score_threshold=0.01, nms_threshold=0.45, topk_candidates=2000, max_detections=200)
    priors_px = [cxcywh_to_xyxy(priors) * 300] * batch
    sizes = [(300, 300)] * batch

    @torch.no_grad()
    def theirs() -> None:
        head = {"bbox_regression": offsets, "cls_logits": logits}
        peer.postprocess_detections(head, priors_px, sizes)

    report(f"post-processing, batch 8, {what}", lambda: post(Predictions(logits, offsets), priors), theirs)


def networks(model: SSD, peer: torch.nn.Module) -> None:
    images = torch.randint(0, 256, (8, 300, 300, 3), dtype=torch.uint8).permute(0, 3, 1, 2)
    floats = list((images.float() / 255).contiguous())
    boxes, labels = random_objects(8, 12)
    ignore = torch.zeros(8, 12, dtype=torch.bool)
    loss = MultiBoxLoss(match_threshold=0.5, negative_ratio=3, localization_weight=1)
    targets = [{"boxes": boxes[row] * 300, "labels": labels[row] + 1} for row in range(8)]

    def train_ours() -> None:
        predictions = model(images)
        loss(predictions, boxes=boxes, labels=labels, ignore=ignore, priors=model.priors).total.backward()

    def train_theirs() -> None:
        sum(peer(floats, targets).values()).backward()

    report("SSD300-VGG16 training step without update, batch 8, float32", train_ours, train_theirs)
    model.eval()
    peer.eval()
    with torch.inference_mode():
        grid = ImageList(torch.stack(floats), [(300, 300)] * 8)
        report("SSD300-VGG16 forward, batch 8, float32", lambda: model(images), lambda: peer.backbone(grid.tensors))


def main() -> None:
    keep_freed_memory()
    torch.manual_seed(0)
    model = our_network()
    peer = ssd300_vgg16(weights=None, weights_backbone=None, num_classes=CLASSES + 1)
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads; medians of {RUNS}")
    print(f"{'':58} {'ours ms':>9} {'torchv.':>9} {'gain':>8}")
    for objects in (12, 50):
        match_and_loss(model, peer, objects)
    confident = torch.full((8, len(model.priors), CLASSES + 1), -8.0)
    confident[..., 0] = 0.0
    chosen = torch.randint(0, len(model.priors), (8, 500))
    confident[torch.arange(8)[:, None], chosen, torch.randint(1, CLASSES + 1, (8, 500))] = 2.0
    post_processing(model, peer, "500 pairs over 0.01", confident)
    post_processing(model, peer, "untrained network", torch.randn_like(confident) * 0.1)
    if "quick" not in sys.argv:
        networks(model, peer)


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[2]))
    main()
