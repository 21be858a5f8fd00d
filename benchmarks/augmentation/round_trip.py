"""Do patches of the local model say what their genes say? The round trip on sections that nothing has seen.

    python benchmarks/augmentation/round_trip.py --data her2st --central starter

For each seed a local model is adapted to a tenth of the spots of the training sections, with their unpaired tissue, as
in `run.py`. For every spot of a test section it draws one patch under that spot's own genes, with the guidance that
`choose.py` left in `--out`. Judges that were fitted on all real spots of the training sections, and read nothing of the
generator, read the genes back: a ridge on EfficientNet-Lite0 and the small CNN. `share` is what they read of what they
read from the real patches of the same spots; `shuffled` are the same patches beside the genes of other spots.

`round_trip.csv` has one row a test section, judge and seed (a call that broke off goes on where it was),
`round_trip.md` is for reading.
"""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "central"))

from _data import arguments, how, read_arguments, read_settings, tables, tissue  # noqa: E402
from _results import markdown, number, provenance  # noqa: E402
from run import Part  # noqa: E402

import c2lst as c2l  # noqa: E402
from c2lst.models import central_model  # noqa: E402
from c2lst.tl._tissue import Tissue  # noqa: E402

if TYPE_CHECKING:
    from collections.abc import Iterator

    from anndata import AnnData

    from c2lst.models import CentralModel, Predictor

FRACTION = 0.1
JUDGES = {"ridge": "efficientnet-lite0", "cnn": "none"}
SCORES = ("n_genes", "pcc", "shuffled", "real", "share", "share_of_genes")


def judges(train: list[AnnData], settings: dict[str, Any], encoders: dict[str, str]) -> dict[str, Predictor]:
    """Fit the judges on all real spots, for the genes that are evaluated."""
    train = [t.copy() for t in train]
    c2l.pp.select_genes(train, n_top=settings["n_top"])
    return {
        kind: c2l.tl.fit_predictor(
            train, kind=kind, progress=False, **({"steps": settings["cnn_steps"]} if kind == "cnn" else {"encoder": encoder})
        )
        for kind, encoder in encoders.items()
    }  # fmt: skip


def trips(
    train: list[AnnData], test: dict[str, AnnData], pool: Tissue, central: CentralModel, settings: dict[str, Any],
    asked: dict[str, Any], judged_by: dict[str, Predictor], seed: int,
) -> Iterator[dict[str, Any]]:  # fmt: skip
    """Adapt to one draw of spots and read back what is drawn for every spot of each test section."""
    few = [t.copy() for t in train]
    c2l.pp.subsample(few, FRACTION, seed=seed)
    c2l.pp.select_genes(few, n_top=asked["n_condition"], subset="c2lst_sampled")
    # a gene that a test section was not asked for cannot be a condition there
    measured = set.intersection(*(set(t.var_names) for t in test.values()))
    panel = few[0].var_names[few[0].var["c2lst_genes"]]
    c2l.pp.select_genes(few, genes=[g for g in panel if g in measured])
    local = c2l.tl.adapt(
        few, central, pool=pool, subset="c2lst_sampled", seed=seed, progress=False, **settings["adapt"]
    )
    sampler = {k: asked["augment_kwargs"][k] for k in ("guidance", "sampler_steps", "precision")}
    for name, section in test.items():
        # each spot is the parent of one patch, drawn under its own genes, as measured: what its real patch is held against
        drawn = c2l.tl.augment(
            section,
            local,
            n_obs=section.n_obs,
            strategy="resample",
            n_components=None,
            seed=seed,
            progress=False,
            **sampler,
        )
        for kind, judge in judged_by.items():
            c2l.tl.round_trip(drawn, judge, real=section, seed=seed)
            found = drawn.uns["round_trip"]
            reads = np.isfinite(found["real_pcc"]) & (found["real_pcc"] > 0.1)
            with np.errstate(invalid="ignore"):
                enough = found["pcc"][reads] >= 0.8 * found["real_pcc"][reads]
            yield {
                "section": name, "judge": kind, "seed": seed, "n_spots": drawn.n_obs, "n_genes": len(found["genes"]),
                "pcc": found["mean_pcc"], "shuffled": found["shuffled_mean_pcc"], "real": found["real_mean_pcc"],
                "share": found["mean_pcc"] / found["real_mean_pcc"],
                "share_of_genes": float(enough.mean()) if reads.any() else np.nan,
                "listens": bool(local.card.get("listens", False)),
            }  # fmt: skip


def text(table: pd.DataFrame, central: CentralModel, asked: dict[str, Any], origin: str) -> str:
    """Write what a person reads."""
    rows = []
    for (section, judge), part in table.groupby(["section", "judge"], sort=False):
        cells = [f"{number(part[c].mean())} ({number(part[c].std(ddof=1))})" for c in SCORES[1:]]
        rows.append([section, judge, str(len(part)), f"{part['n_genes'].min()} to {part['n_genes'].max()}", *cells])
    made = provenance()
    commits = sorted(set(table["commit"].dropna().astype(str))) if "commit" in table else []
    return "\n".join(
        [
            "# The round trip\n",
            f"Central model {central.name} ({central.hash[:12]}), adapted to {FRACTION:.0%} of the spots; {asked['n_condition']} genes, guidance "
            f"{asked['augment_kwargs']['guidance']:g}. {origin}\n",
            "Mean Pearson correlation of what a judge reads in a patch with the genes it was drawn for; mean (sd) over seeds. *Real*: the same of the spots' real patches. "
            "*Share*: the one as a part of the other. *Of genes*: of those that real patches tell at all (above .1), how many reach .8 of it.\n",
            markdown(["section", "judge", "seeds", "genes", "synthetic", "shuffled", "real", "share", "of genes"], rows),
            f"Commit {', '.join(commits) or made['commit']}; {made['versions']}; {made['machine']}.\n",
        ]
    )  # fmt: skip


def digest(value: Any) -> str:
    """Tell settings from others."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:8]


def main(argv: list[str] | None = None) -> None:
    parser = arguments(__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    args = read_arguments(parser, argv)
    settings = read_settings(args.settings)
    chosen = Part(next(iter(settings["parts"])), settings, args.out)
    asked = how(chosen.synthetic, settings)
    central = central_model(args.central or settings["central"])
    train = list(tables(settings["train"], args.data, central, args.cache).values())
    test = tables(settings["test"], args.data, central, args.cache)
    pool = Tissue(np.concatenate(list(tissue(settings["train"], args.data, central, args.cache).values())))

    args.out.mkdir(parents=True, exist_ok=True)
    file = args.out / "round_trip.csv"
    table = pd.read_csv(file, dtype={"central": str}) if file.is_file() else pd.DataFrame()
    key = {
        "central": central.hash[:12],
        "guidance": asked["augment_kwargs"]["guidance"],
        "n_condition": asked["n_condition"],
        "settings": digest(
            {
                **{k: settings[k] for k in ("train", "n_top", "cnn_steps", "adapt")},
                "asked": asked,
                "profiles": "measured",
            }
        ),
    }
    if len(table) and "settings" not in table:  # of before it was noted
        table.insert(3, "settings", "")
    known = table[(table[list(key)] == pd.Series(key)).all(axis=1)] if len(table) else table
    wanted = {(name, seed) for name in test for seed in args.seeds}
    found = set(zip(known["section"], known["seed"], strict=True)) if len(known) else set()
    left = sorted({seed for _, seed in wanted - found})
    if len(known):  # a seed is done again as a whole
        again = (table[list(key)] == pd.Series(key)).all(axis=1) & table["seed"].isin(left)
        table = table[~again]
    judged_by = judges(train, settings, JUDGES) if left else {}
    for seed in left:
        commit = provenance()["commit"]
        rows = [
            {**key, **row, "commit": commit}
            for row in trips(train, test, pool, central, settings, asked, judged_by, seed)
        ]
        table = pd.concat([table, pd.DataFrame(rows)], ignore_index=True)
        table.to_csv(file, index=False, float_format="%.6g")
    known = table[(table[list(key)] == pd.Series(key)).all(axis=1)]
    (args.out / "round_trip.md").write_text(text(known, central, asked, chosen.origin))
    print(known.groupby(["section", "judge"])[["pcc", "shuffled", "real", "share"]].mean())


if __name__ == "__main__":
    main()
