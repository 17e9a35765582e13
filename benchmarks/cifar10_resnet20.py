"""CIFAR-10 with a CIFAR ResNet-20: error of source, BN-1 and Tent under the 15 corruptions at
severity 5.

    python benchmarks/cifar10_resnet20.py --images FOLDER --checkpoint FILE [--per-shift 2000]
    [--seeds 1] [--cache runs/cifar10]

FOLDER holds one folder of test images per class; FILE is a state dict of the CIFAR ResNet-20
(akamaster form, ImageNet mean and std). The corruptions are made here (32 x 32 table), so the
numbers are not those of the published CIFAR-10-C files. Budget: about 15 minutes on 2 cores at
2000 images a shift, 75 minutes at all 10 000; with --cache an interrupted run goes on where it
stopped.
"""
import argparse
import datetime
import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch

from tta_lab.data.corruptions import STANDARD_15
from tta_lab.data.load import load
from tta_lab.experiments.runner import compare, spread
from tta_lab.methods import make
from tta_lab.models.cifar_networks import load_cifar
from tta_lab.streams.protocols import continual, reset_each_shift


def main():
    options = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    options.add_argument("--images", required=True, type=Path)
    options.add_argument("--checkpoint", required=True, type=Path)
    options.add_argument("--per-shift", type=int, default=2000, help="0 takes all")
    options.add_argument("--seeds", type=int, default=1)
    options.add_argument("--threads", type=int, default=2)
    options.add_argument("--cache", type=Path)
    options.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    options = options.parse_args()
    torch.set_num_threads(options.threads)

    model = load_cifar(options.checkpoint)
    images = load(f"folder:{options.images}")
    with torch.no_grad():
        right = sum(
            int((model(images.images(rows)).argmax(1) == images.y[rows]).sum())
            for rows in torch.arange(len(images)).split(500))
    settings = {"per_shift": options.per_shift or None, "batch": 200, "severity": 5}
    streams = {
        "reset_each_shift": reset_each_shift(images, **settings),
        "continual": continual(images, **settings)
    }
    recipes = {
        "source": make("source"), "batch_norm": make("batch_norm"), "tent": make("tent", lr=1e-3)
    }
    table = compare(recipes, streams, model, range(options.seeds), cache=options.cache,
                    progress=True, device="cpu", channels_last=True)
    columns = ["error", *(f"error:{name}" for name in STANDARD_15)]
    print(spread(table, ["error"]).round(2).to_string(index=False))

    stamp = datetime.date.today().isoformat()
    place = options.out / f"cifar10_resnet20_{stamp}.json"
    options.out.mkdir(parents=True, exist_ok=True)
    keep = [
        "stream", "recipe", "seed", *columns, "ece", "nll", "brier", "forwards", "backwards",
        "ms_per_image", "images", "scored", "reset", "answer", "stream_hash", "weights", "torch",
        "tta_lab", "settings"
    ]
    rows = [{k: round(v, 4) if isinstance(v, float) else v for k, v in row.items()}
            for row in table[keep].to_dict("records")]
    place.write_text(
        json.dumps(
            {
                "date": stamp, "data": "CIFAR-10 test images as JPEG copies",
                "clean_accuracy": round(100 * right / len(images), 2), "clean_images": len(
                    images), "threads": options.threads, "runs": rows
            }, indent=1) + "\n")
    print(f"clean accuracy {100 * right / len(images):.2f} % of {len(images)} images; written to "
          f"{place}")


if __name__ == "__main__":
    main()
