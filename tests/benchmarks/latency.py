"""Times exported networks against eager PyTorch at batch 1, in one process: python tests/benchmarks/latency.py [ROUNDS]

Prints medians and ratios; only the ratios mean something on a shared machine. First with the system's allocator, as
PyTorch runs in a program of one's own, then with memory kept, as predict.py runs. Post-processing alone: speed.py.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from torchvision.models.detection import ssd300_vgg16

CLASSES = 20


def calm(heads: Iterable[torch.nn.Module]) -> None:
    """Lets background win nearly everywhere, as in a trained network; column 0 of each prior's logits."""
    for head in heads:
        head.bias.data.view(-1, CLASSES + 1)[:, 0] += 5


def peer() -> Callable[[Any], Any]:
    """torchvision's SSD300-VGG16 on an image."""
    network = ssd300_vgg16(weights=None, weights_backbone=None, num_classes=CLASSES + 1).eval()
    calm(network.head.classification_head.module_list)

    @torch.inference_mode()
    def predict(images: Any) -> Any:
        return network([torch.from_numpy(image).permute(2, 0, 1).float() / 255 for image in images])

    return predict


def main() -> None:
    from ssd.common.runtime import keep_freed_memory
    from ssd.export.onnx_graph import to_onnx
    from ssd.export.timing import time_interleaved
    from ssd.inference.onnx_predictor import OnnxPredictor
    from ssd.inference.torch_predictor import TorchPredictor
    from ssd.model.backbones import VGG16, MobileNetV1
    from ssd.model.postprocess import PostProcess
    from ssd.model.ssd import SSD

    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 30
    torch.manual_seed(0)
    post = PostProcess()
    images = [np.random.default_rng(0).integers(0, 256, (300, 300, 3), dtype=np.uint8)]
    backbones = {"mobilenet_v1": MobileNetV1(), "vgg16": VGG16()}
    predictors: dict[str, dict[str, Callable[[Any], Any]]] = {}
    with TemporaryDirectory() as folder:
        for name, backbone in backbones.items():
            classes = [f"class{number}" for number in range(CLASSES)]
            model = SSD(backbone, backbone.default_priors, class_names=classes, image_size=300).eval()
            calm(model.classification_heads)
            file = Path(folder, f"{name}.onnx")
            file.write_bytes(to_onnx(model, post).SerializeToString())
            predictors[name] = {
                "PyTorch": TorchPredictor(model, post, device="cpu"),
                "ONNX Runtime": OnnxPredictor(file),
                "OpenVINO": OnnxPredictor(file, runtime="openvino"),
            }
    predictors["vgg16"] = {"torchvision": peer()} | predictors["vgg16"]
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads; {rounds} rounds, batch 1")
    for memory in ("system allocator", "memory kept"):
        for name, those in predictors.items():
            timings = time_interleaved(those, images, rounds=rounds, batch_size=1)
            first = next(iter(timings.values())).p50_ms
            for runtime, timing in timings.items():
                gain = first / timing.p50_ms
                print(f"{memory:18} {name:14} {runtime:14} {timing.p50_ms:9.1f} ms {gain:6.2f}x", flush=True)
        keep_freed_memory()


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[2]))
    main()
