"""Seconds that each common corruption takes, next to a package that makes one image at a time.

    python benchmarks/corruptions.py --side 32 --images 1000 --threads 2 [--peer] [--severity 3]
    [--out benchmarks/results]

Images are smooth random colours, enlarged from 6 x 6 to the side. Ours gets them as one float
batch and hands back a float batch, the peer (`pip install corrupt-tta==0.1.7`, for --peer only)
gets and returns one array of bytes or floats after the other, as it is made to. Both are warmed up
on a few images; ours is the median of --repeats runs. Seconds are those of the clock; processor
seconds, summed over the threads, stand next to them, because on a machine that others use too only
those can be compared with another day's. With --peer-images the peer makes only so many, and its
time is scaled.
"""
from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import statistics
import time
from pathlib import Path

import torch
import torch.nn.functional as F

from tta_lab.data.corruptions import EXTRA_4, NOTES, STANDARD_15, corrupt


def smooth_images(n, side, seed=0):
    """Bytes (n, 3, side, side): random colours on a 6 x 6 grid, enlarged with cubic splines."""
    grid = torch.rand(n, 3, 6, 6, generator=torch.Generator().manual_seed(seed))
    return torch.cat([(F.interpolate(part, (side, side), mode="bicubic") * 255).clamp(0,
                                                                                      255).byte()
                      for part in grid.split(100)])


def seconds_of_ours(name, x, severity, repeats):
    corrupt(x[:8], name, severity)
    times = []
    for _ in range(repeats):
        start, work = time.perf_counter(), time.process_time()
        corrupt(x, name, severity)
        times.append((time.perf_counter() - start, time.process_time() - work))
    return [statistics.median(t) for t in zip(*times, strict=True)]


def load_peer(threads):
    try:
        import corrupt_tta
        import cv2
    except ImportError as error:
        raise SystemExit(f"--peer needs the package it compares with ({error}): pip install "
                         f"corrupt-tta==0.1.7") from None
    cv2.setNumThreads(threads)
    return corrupt_tta.corrupt


def seconds_of_peer(call, name, images, severity):
    call(images[0], severity=severity, corruption_name=name)
    start, work = time.perf_counter(), time.process_time()
    for image in images:
        call(image, severity=severity, corruption_name=name)
    return time.perf_counter() - start, time.process_time() - work


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--side", type=int, default=32)
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--severity", type=int, default=3)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--extra", action="store_true", help="the four extra corruptions too, "
                                                             "outside the total")
    parser.add_argument("--peer", action="store_true", help="time the package corrupt-tta too")
    parser.add_argument("--peer-images", type=int, help="time the peer on so many images only, "
                                                        "and scale")
    parser.add_argument("--out", type=Path, help="folder for a dated JSON")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    busy = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    call = load_peer(options.threads) if options.peer else None
    data = smooth_images(options.images, options.side)
    x = data.float() / 255
    few = min(options.peer_images or options.images, options.images)
    images = [image.permute(1, 2, 0).contiguous().numpy() for image in data[:few]]
    rows = []
    for name in STANDARD_15 + (EXTRA_4 if options.extra else ()):
        row = ({"corruption": name} | dict(
            zip(("seconds", "cpu_seconds"),
                seconds_of_ours(name, x, options.severity, options.repeats), strict=True)))
        if call:
            wall, work = (t * options.images / few
                          for t in seconds_of_peer(call, name, images, options.severity))
            row |= {
                "peer_seconds": wall, "peer_cpu_seconds": work, "ratio": wall / row["seconds"],
                "cpu_ratio": work / row["cpu_seconds"]
            }
        rows.append(row)
        if name == STANDARD_15[0]:
            print(" " * 18 + "".join(f"{key:>18}" for key in list(row)[1:]))
        print(f"{name:<18}" + "".join(f"{value:18.3f}" for value in list(row.values())[1:]),
              flush=True)
    total = {
        key: sum(row[key] for row in rows if row["corruption"] in STANDARD_15) for key in rows[0]
        if key.endswith("seconds")
    }
    if call:
        total |= {
            "ratio": total["peer_seconds"] / total["seconds"],
            "cpu_ratio": total["peer_cpu_seconds"] / total["cpu_seconds"]
        }
    print(f"{'the 15 together':<18}" + "".join(f"{value:18.3f}" for value in total.values()))
    result = {
        "date": datetime.date.today().isoformat(),
        "device": f"{platform.processor() or platform.machine()}, {options.threads} threads",
        "torch": str(torch.__version__), "python": platform.python_version(), "load_before": busy,
        "side": options.side, "images": options.images, "severity": options.severity,
        "total_of_15": total, "rows": rows, "notes": NOTES
    }
    if call:
        import corrupt_tta
        result["peer"] = f"corrupt-tta {corrupt_tta.__version__}, one image at a time"
        result["peer_images"] = few
        result["peer_scaled"] = few < options.images
    if options.out:
        options.out.mkdir(parents=True, exist_ok=True)
        path = (options.out /
                f"corruptions_{options.side}_severity_{options.severity}_{result['date']}.json")
        path.write_text(json.dumps(result, indent=1) + "\n")
        print(f"written to {path}")


if __name__ == "__main__":
    main()
