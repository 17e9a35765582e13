"""What a Tent step costs, as a ratio to a plain forward pass interleaved in the same run.

    python benchmarks/speed.py [--device cpu] [--threads 2] [--repeats 30] [--out
    benchmarks/results]

A ResNet-20 for 32 x 32 images, batch 200, random weights and images (cost does not depend on
them). Each round times every variant once, in turn, so that a slow minute of the machine slows all
of them; the ratio is taken round by round and its median is quoted.
"""
from __future__ import annotations

import argparse
import csv
import datetime
import os
import platform
import statistics
import time
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import torch
import torch.nn.functional as F
from torch import nn

from tta_lab import Adapter, ConfidenceRise, make
from tta_lab.core.scores import entropy


class Block(nn.Module):
    def __init__(self, before, width, stride):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(before, width, 3, stride, 1,
                                         bias=False), nn.BatchNorm2d(width)
        self.conv2, self.bn2 = nn.Conv2d(width, width, 3, 1, 1, bias=False), nn.BatchNorm2d(width)
        self.stride, self.extra = stride, width - before

    def forward(self, x):
        y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        if self.extra:
            x = F.pad(x[:, :, ::self.stride, ::self.stride],
                      (0, 0, 0, 0, self.extra // 2, self.extra - self.extra // 2))
        return F.relu(y + x)


def resnet20():
    """The CIFAR ResNet-20 of He et al. (1512.03385) with padded shortcuts."""
    layers = [nn.Conv2d(3, 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU()]
    before = 16
    for width in (16, 32, 64):
        for i in range(3):
            layers.append(Block(before, width, 2 if i == 0 and width > 16 else 1))
            before = width
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10))


def bare_step(model):
    """Forward, entropy, backward through the whole network to the affine parameters, Adam: Tent
    without a library."""
    model = model.train()
    params = [p for m in model.modules() if isinstance(m, nn.BatchNorm2d) for p in m.parameters()]
    model.requires_grad_(False)
    for p in params:
        p.requires_grad_(True)
    optimizer = torch.optim.Adam(params, lr=1e-3, foreach=True)

    def step(x):
        optimizer.zero_grad(set_to_none=True)
        entropy(model(x)).mean().backward()
        optimizer.step()
    return step


def variants(device):
    torch.manual_seed(0)
    model = resnet20().eval().to(device)
    last = torch.channels_last
    tent, crowd = make("tent"), make("tent").where(ConfidenceRise())

    def adapter(recipe, **options):
        return Adapter(model, recipe, device=device, **options)

    def plain(network):
        def forward(x):
            with torch.no_grad():
                network(x)
        return forward

    from copy import deepcopy
    x = torch.rand(200, 3, 32, 32, device=device)
    made = {
        "plain forward": (plain(model), x),
        "plain forward, channels last": (plain(deepcopy(model).to(memory_format=last)),
                                         x.contiguous(memory_format=last)),
        "bare forward + backward + Adam": (bare_step(deepcopy(model)), x),
        "Tent, not recorded": (adapter(tent, record="off"), x),
        "Tent, recorded": (adapter(tent), x),
        "Tent, source recorded too": (adapter(tent, record="source"), x),
        "Tent, channels last": (adapter(tent,
                                        channels_last=True), x.contiguous(memory_format=last)),
        "Tent + filter, not recorded": (adapter(crowd, record="off"), x),
        "Tent + filter, recorded": (adapter(crowd), x),
        "wisdom_of_crowds, recorded": (adapter(make("wisdom_of_crowds")), x),
    }
    return made


def measure(device, repeats):
    made, seconds = variants(device), {}
    wait = torch.cuda.synchronize if device.type == "cuda" else lambda: None
    for i in range(repeats + 3):
        for name, (step, x) in made.items():
            wait()
            start = time.perf_counter()
            step(x)
            wait()
            if i >= 3:
                seconds.setdefault(name, []).append(time.perf_counter() - start)
    return seconds


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=30)
    parser.add_argument("--out", type=Path, help="folder for a dated CSV")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    device = torch.device(options.device)
    seconds = measure(device, options.repeats)
    base = seconds["plain forward"]
    record = {
        "Tent": ("Tent, recorded", "Tent, not recorded"),
        "Tent + filter": ("Tent + filter, recorded", "Tent + filter, not recorded")
    }
    rows = []
    for name, values in seconds.items():
        ratios = sorted(v / b for v, b in zip(values, base, strict=True))
        rows.append({
            "variant": name, "ratio_median": round(statistics.median(ratios), 3),
            "ratio_low": round(ratios[len(ratios) // 10],
                               3), "ratio_high": round(ratios[-1 - len(ratios) // 10], 3),
            "ms_median": round(1e3 * statistics.median(values), 2)
        })
    for name, (on, off) in record.items():
        shares = sorted(a / b - 1 for a, b in zip(seconds[on], seconds[off], strict=True))
        rows.append({
            "variant": f"recording adds to {name}",
            "ratio_median": round(statistics.median(shares),
                                  4), "ratio_low": round(shares[len(shares) // 10], 4),
            "ratio_high": round(shares[-1 - len(shares) // 10], 4), "ms_median": ""
        })
    for row in rows:
        print(f"{row['variant']:<34}{row['ratio_median']:>8}  ({row['ratio_low']} to "
              f"{row['ratio_high']})   {row['ms_median']} ms")
    name = (torch.cuda.get_device_name() if device.type == "cuda" else
            f"{platform.processor() or platform.machine()}, {options.threads} threads")
    stamp = {
        "date": datetime.date.today().isoformat(), "device": name, "torch": str(torch.__version__),
        "python": platform.python_version()
    }
    print(stamp)
    if options.out:
        options.out.mkdir(parents=True, exist_ok=True)
        path = options.out / f"speed_{stamp['date']}_{device.type}.csv"
        with open(path, "w", newline="") as f:
            writer = csv.DictWriter(f, [*rows[0], *stamp])
            writer.writeheader()
            writer.writerows({**row, **stamp} for row in rows)
        print(f"written to {path}")


if __name__ == "__main__":
    main()
