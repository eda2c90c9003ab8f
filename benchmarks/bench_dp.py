"""What private training costs: time and memory of a DP-SGD step against an ordinary one, and Opacus' modes beside ours.

    python benchmarks/bench_dp.py            the CNN
    python benchmarks/bench_dp.py --all      ResNet18 with GroupNorm and a ViT-Tiny too

CPU seconds on one core, each mode in turn within one loop, so that a busy machine slows all alike; the ratios are what counts.
Memory: the peak of a process of its own for each mode.
"""

import argparse
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from privacy.gradients import Clipping, UnitGradients
from privacy.noise import secret

Case = tuple[nn.Module, Tensor]
MODES = ("plain", "ours", "opacus hooks", "opacus functorch", "opacus ghost")


def cnn() -> Case:
    """The project's CNN, 0.45 M parameters, 64 images of 28 × 28."""
    from fedvision.models.small import Cnn

    return Cnn((1, 28, 28), 10, 32, 128, 0.0, None), torch.randn(64, 1, 28, 28)


def resnet() -> Case:
    """ResNet18 with GroupNorm, 11.2 M parameters, 64 images of 64 × 64."""
    from torchvision.models import resnet18

    return resnet18(num_classes=10, norm_layer=lambda c: nn.GroupNorm(32, c)), torch.randn(64, 3, 64, 64)


def vit() -> Case:
    """ViT-Tiny, 5.5 M parameters, 16 images of 64 × 64 in patches of 8."""
    import timm

    return timm.create_model("vit_tiny_patch16_224", img_size=64, patch_size=8, num_classes=10), torch.randn(16, 3, 64, 64)


CASES: dict[str, Callable[[], Case]] = {"cnn": cnn, "resnet18-gn": resnet, "vit-tiny": vit}


def step_of(mode: str, model: nn.Module, images: Tensor) -> Callable[[], None]:
    """One training step of that mode, noise and optimiser included."""
    targets = torch.arange(len(images)) % 10
    optimizer = torch.optim.SGD(model.parameters(), 0.01)
    if mode == "plain":
        return lambda: _plain(model, images, targets, optimizer)
    if mode == "ours":
        return _ours(model, images, targets, optimizer)
    return _opacus(mode.split()[1], model, images, targets, optimizer)


def _plain(model: nn.Module, images: Tensor, targets: Tensor, optimizer: torch.optim.Optimizer) -> None:
    optimizer.zero_grad(set_to_none=True)
    functional.cross_entropy(model(images), targets).backward()
    optimizer.step()


def _ours(model: nn.Module, images: Tensor, targets: Tensor, optimizer: torch.optim.Optimizer) -> Callable[[], None]:
    gradients, source, rows = UnitGradients(model, [name for name, _ in model.named_parameters()]), secret(), torch.ones(len(images))
    total = torch.empty(gradients.total)

    def step() -> None:
        total.zero_()
        gradients.clipped_sum(
            images, targets, lambda o, t: functional.cross_entropy(o, t, reduction="none"), rows, len(images), Clipping(1.0), total
        )
        source.add_gaussian(total, 1.0)
        gradients.give(total.div_(len(images)))
        optimizer.step()

    return step


def _opacus(mode: str, model: nn.Module, images: Tensor, targets: Tensor, optimizer: torch.optim.Optimizer) -> Callable[[], None]:
    from privacy.dpsgd import made_private

    for module in model.modules():
        if isinstance(module, nn.ReLU):
            module.inplace = False
    private, noisy, criterion = made_private(mode, model, optimizer, torch.utils.data.TensorDataset(images, targets))

    def step() -> None:
        noisy.zero_grad(set_to_none=True)
        criterion(private(images), targets).backward()
        noisy.step()

    return step


def seconds(case: str, times: int) -> dict[str, float]:
    """CPU seconds a step of each mode; a mode that refuses the model is left out."""
    steps = {}
    for mode in MODES:
        try:
            step = step_of(mode, *CASES[case]())
            step()
            steps[mode] = step
        except (RuntimeError, NotImplementedError, ValueError) as error:
            print(f"{case:12} {mode:17} refuses: {str(error).splitlines()[0][:80]}")
    spent = dict.fromkeys(steps, float("inf"))
    for _ in range(times):
        for mode, step in steps.items():
            began = time.process_time()
            step()
            spent[mode] = min(spent[mode], time.process_time() - began)
    return spent


def memory(case: str, mode: str) -> float:
    """Peak memory of a process that takes two steps, MiB."""
    done = subprocess.run([sys.executable, __file__, "--once", case, mode], capture_output=True, text=True, check=False)
    return float(done.stdout) if done.returncode == 0 else float("nan")


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--all", action="store_true")
    parser.add_argument("--times", type=int, default=7)
    parser.add_argument("--once", nargs=2, metavar=("CASE", "MODE"))
    given = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    if given.once:
        step = step_of(given.once[1], *CASES[given.once[0]]())
        for _ in range(2):
            step()
        peak = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
        print(float(peak.split()[1]) / 1024)
        return
    for case in CASES if given.all else ["cnn"]:
        spent = seconds(case, given.times)
        base = memory(case, "plain")
        for mode, each in spent.items():
            print(
                f"{case:12} {mode:17} {each * 1e3:8.1f} ms a step  {each / spent['plain']:5.2f} ×  memory {memory(case, mode) / base:5.2f} ×"
            )


if __name__ == "__main__":
    main()
