"""collapse.py"""
from __future__ import annotations

import argparse
import os
import time
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import torch
from collapse_corpus import DEVELOPMENT, HELD_OUT, STREAMS, Models, make_runs


def main():
    options = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    options.add_argument("stage", choices=("runs",))
    options.add_argument("--runs", type=Path, required=True, help="folder of the finished runs")
    options.add_argument("--part", choices=("development", "held_out"), default="development")
    options.add_argument("--sources", nargs="+")
    options.add_argument("--streams", nargs="+", default=tuple(STREAMS))
    options.add_argument("--seeds", nargs="+", type=int, default=[0])
    options.add_argument("--budget", type=float, default=3600)
    options.add_argument("--threads", type=int, default=1)
    options.add_argument("--images", type=Path)
    options.add_argument("--checkpoint", type=Path)
    options = options.parse_args()
    torch.set_num_threads(options.threads)
    sources = options.sources or {"development": DEVELOPMENT, "held_out": HELD_OUT}[options.part]
    done = make_runs(options.runs, sources, options.seeds, Models(options.images, options.checkpoint), time.monotonic() + options.budget,
                     options.streams)
    print("complete" if done else "time is up")


if __name__ == "__main__":
    main()
