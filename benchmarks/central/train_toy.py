"""Train the "toy" central model that ships with c2lst, on simulated tissue alone.

    python benchmarks/central/train_toy.py --out toy_run

About 25 minutes on 2 cores; goes on from its checkpoints when called again. `--install` copies the finished model into
the package.
"""

from __future__ import annotations

import argparse
import hashlib
import platform
from pathlib import Path

import numpy as np
import torch

import c2lst as c2l

SECTIONS, FIRST_SEED, PER_SECTION = 20, 100_000, 250
MPP, PATCH_PX = 2.0, 64
TOKENIZER = {"latent_channels": 4, "channels": (16, 32, 64)}
DENOISER = {"width": 128, "depth": 5, "heads": 4}


def tissue() -> np.ndarray:
    """Patches of all sections in an order in which the last ones, held out, are a section of their own."""
    parts = []
    for k in range(SECTIONS):
        sdata = c2l.datasets.toy_tissue(200, seed=FIRST_SEED + k)
        parts.append(c2l.pp.tissue_patches(sdata, PER_SECTION, mpp=MPP, patch_px=PATCH_PX, min_tissue=0.3, seed=k))
    return np.concatenate(parts)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("toy_run"))
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--tokenizer-steps", type=int, default=1500)
    parser.add_argument("--install", action="store_true", help="copy the model into the package")
    args = parser.parse_args()
    patches = tissue()
    central = c2l.tl.pretrain(
        patches[:-PER_SECTION],
        mpp=MPP,
        steps=args.steps,
        tokenizer_steps=args.tokenizer_steps,
        tokenizer=TOKENIZER,
        denoiser=DENOISER,
        validation=patches[-PER_SECTION:],
        out=args.out,
        seed=0,
        card={
            "data": f"{SECTIONS - 1} simulated sections, c2lst.datasets.toy_tissue(200, seed={FIRST_SEED}...), "
            f"{PER_SECTION} patches each; one more section held out",
            "data_sha256": hashlib.sha256(patches.tobytes()).hexdigest(),
            "licence": "BSD-3-Clause; simulated, no tissue of any person",
            "limits": "Knows the simulation and nothing else. For demonstrations and tests; never for real tissue.",
            "hardware": f"{torch.get_num_threads()} threads, {platform.machine()}, torch {torch.__version__}",
            "script": "benchmarks/central/train_toy.py",
        },
    )
    print(central)
    print({k: v for k, v in central.card.items() if k != "curves"})
    central.save_pretrained(args.out / "half", overwrite=True, half=True)
    if args.install:
        place = Path(c2l.__file__).parent / "models" / "weights" / "toy"
        central.save_pretrained(place, overwrite=True, half=True)


if __name__ == "__main__":
    main()
