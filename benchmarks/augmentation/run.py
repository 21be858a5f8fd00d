"""Do synthetic spots help? The protocol of benchmarks/README.md, in parts.

    python benchmarks/augmentation/choose.py --data her2st            # once, inside the training sections
    python benchmarks/augmentation/choose.py --data her2st --sampled 0
    python benchmarks/augmentation/run.py --data her2st --central starter

`settings.json` holds fractions, arms, recipes, seeds and budgets; how synthetic spots are made and used is what
`choose.py` left in `--out`, and what the settings say where it was not run. A call that broke off, or was stopped by
`--minutes`, goes on where it was; `--only` runs some parts. After every call the tables and figures are written from
what is finished:

`runs.csv`
    One row a run and test section (`c2lst.tl.learning_curve`); `part` says which part asked for it.
`gap_closed.csv`, `differences.csv`
    Gap closed, and `synthetic` minus every other arm, with intervals over seeds and spatial blocks of the test section.
`gate.csv`
    What the gate dropped of what was drawn, by draw and arm.
`<part>.csv` ...
    The same four for the part whose settings were chosen otherwise (`"settings": "sampled"`).
`learning_curve_<encoder>.png`, `results.md`, `provenance.json`
    Figures, what a person reads, and with which commit, versions and machine each call ran.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "central"))

from _data import SETTINGS, arguments, how, read_arguments, read_settings, tables, tissue  # noqa: E402
from _results import markdown, number, provenance, write_json  # noqa: E402

import c2lst as c2l  # noqa: E402
from c2lst.models import central_model  # noqa: E402

if TYPE_CHECKING:
    from anndata import AnnData
    from numpy.typing import NDArray

    from c2lst.models import CentralModel

FILES = {"chosen": "choose.json", "sampled": "choose_sampled_{seed}.json"}


class Part:
    """Some of the runs: one call of `c2lst.tl.learning_curve`."""

    def __init__(self, name: str, settings: dict[str, Any], out: Path):
        said = settings["parts"][name]
        self.name, self.encoder, self.settings = name, said["encoder"], settings
        self.fractions, self.seeds, self.predictors = said["fractions"], said["seeds"], said["predictors"]
        self.arms = said.get("arms", settings["arms"])
        self.source = said.get("settings", "chosen")
        file = out / FILES[self.source].format(seed=self.seeds[0])
        self.synthetic, self.origin = settings["synthetic"], "settings.json, not chosen by validation"
        self.missing, self.central = file, None
        found = json.loads(file.read_text()) if file.is_file() else {"finished": False}
        if found["finished"]:
            # what a choice of former days did not vary is as the settings say
            self.synthetic, self.origin = {**self.synthetic, **found["chosen"]}, found["declared"]
            self.missing, self.central = None, found["central"]

    @property
    def n_runs(self) -> int:
        """Return how many runs the part has."""
        below = sum(f < 1 for f in self.fractions)
        full = len(self.fractions) - below
        return len(self.seeds) * len(self.predictors) * (below * len(self.arms) + full)

    def run(
        self, train: list[AnnData], test: list[AnnData], pool: NDArray[np.uint8], central: CentralModel, work: Path,
        minutes: float | None,
    ) -> pd.DataFrame:  # fmt: skip
        """Run what is not finished, for so many minutes, and return what is."""
        s = self.settings
        df = c2l.tl.learning_curve(
            train, test, central=central, fractions=self.fractions, arms=self.arms, predictors=self.predictors,
            encoder=self.encoder, pool=pool, seeds=self.seeds, n_top=s["n_top"],
            adapt_kwargs=s["adapt"], cnn_steps=s["cnn_steps"], n_blocks=s["n_blocks"], minutes=minutes,
            out=work / central.hash[:12] / self.source / self.encoder, keep_drawn=work / "drawn",
            **how(self.synthetic, s),
        )  # fmt: skip
        kept = {"asked": self.asked(), "rows": df.to_dict("records"), "attrs": df.attrs}
        self.file(central, work).write_text(json.dumps(kept))
        return df

    def read(self, central: CentralModel, work: Path) -> pd.DataFrame | None:
        """Return what an earlier call left of the same runs."""
        file = self.file(central, work)
        kept = json.loads(file.read_text()) if file.is_file() else {}
        if not kept.get("rows") or kept["asked"] != json.loads(json.dumps(self.asked())):
            return None
        df = pd.DataFrame(kept["rows"])
        df.attrs = kept["attrs"]
        return df

    def file(self, central: CentralModel, work: Path) -> Path:
        """Return where the runs of this part are kept together."""
        return work / central.hash[:12] / f"{self.name}.json"

    def asked(self) -> dict[str, Any]:
        """Return all that the runs depend on, but for the data."""
        fixed = ("train", "test", "n_top", "cnn_steps", "n_blocks", "adapt")
        return {
            **{k: self.settings[k] for k in fixed}, **how(self.synthetic, self.settings), "encoder": self.encoder,
            "fractions": self.fractions, "seeds": self.seeds, "predictors": self.predictors, "arms": self.arms,
        }  # fmt: skip


def results(frames: dict[str, pd.DataFrame], n_boot: int) -> dict[str, pd.DataFrame]:
    """Put the parts together: runs, gap closed, differences, and what the gate dropped."""
    blocks = [df.attrs["blocks"] for df in frames.values()]
    gates = [{"part": name, **g} for name, df in frames.items() for g in df.attrs["gate"]]
    bare = []
    for name, df in frames.items():
        part = df.copy()
        part.attrs = {}
        part.insert(0, "part", name)
        bare.append(part)
    runs = pd.concat(bare, ignore_index=True)
    made = {"runs": runs, "gate": pd.DataFrame(gates)}
    if ((runs["arm"] == "real") & (runs["fraction"] == 1)).any() and (runs["fraction"] < 1).any():
        made["gap_closed"] = c2l.metrics.gap_closed(runs, blocks=blocks, n_boot=n_boot)
    if (runs["arm"] == "synthetic").any():
        made["differences"] = c2l.metrics.paired_difference(runs, blocks=blocks, n_boot=n_boot)
    return made


def figures(runs: pd.DataFrame, blocks: list[dict[str, Any]], out: Path, stem: str) -> list[str]:
    """Draw a learning curve for each encoder, the CNN beside the first."""
    import matplotlib.pyplot as plt

    names, shown = [], runs.drop(columns="part")
    encoders = [e for e in shown["encoder"].unique() if e != "none"]
    for i, encoder in enumerate(encoders):
        part = shown[shown["encoder"].isin([encoder, "none"] if i == 0 else [encoder])]
        axes = c2l.pl.learning_curve(part, blocks=blocks)
        figure = axes[0, 0].get_figure()
        figure.suptitle(f"features of {encoder}", fontsize=10)
        names.append(f"{stem}_{encoder}.png")
        figure.savefig(out / names[-1], dpi=110)
        plt.close(figure)
    return names


def interval(row: Any, value: str, low: str, high: str) -> str:
    """Write a figure with its interval."""
    if not np.isfinite(row[value]):
        return ""
    return f"{row[value]:.3f}" + (f" [{row[low]:.3f}, {row[high]:.3f}]" if np.isfinite(row[low]) else "")


def text(found: dict[str, pd.DataFrame], title: str, done: list[list[str]], pictures: list[str]) -> str:
    """Write what a person reads."""
    lines = [f"## {title}\n", markdown(["part", "runs finished", "of", "synthetic spots", "chosen"], done)]
    runs = found["runs"]
    if len(runs):
        lines.append("Mean PCC, and mean over seeds of the other scores:\n")
        by = ["section", "predictor", "encoder", "fraction", "arm"]
        mean = runs.groupby(by, sort=False)[["pcc", "mse", "moran_corr", "moran_bias"]].mean()
        seeds = runs.groupby(by, sort=False)["seed"].nunique()
        rows = [
            [*(f"{k:g}" if isinstance(k, float) else k for k in key), *map(number, row), seeds[key]]
            for key, row in zip(mean.index, mean.to_numpy(), strict=True)
        ]
        lines.append(
            markdown([*by, *mean.columns, "seeds"], sorted(rows, key=lambda r: (r[0], r[1], r[2], float(r[3]))))
        )
    if "gap_closed" in found:
        lines.append("Gap closed; empty where the gap is too small or too uncertain, where the difference speaks:\n")
        rows = [
            [
                r["section"], r["predictor"], r["encoder"], f"{r['fraction']:g}", r["arm"], interval(r, "gap", "gap_low", "gap_high"),
                interval(r, "gap_closed", "low", "high"), interval(r, "difference", "difference_low", "difference_high"),
                r["n_seeds"], r["interval"],
            ]
            for _, r in found["gap_closed"].iterrows()
        ]  # fmt: skip
        head = [
            "section",
            "predictor",
            "encoder",
            "fraction",
            "arm",
            "gap",
            "gap closed",
            "minus real",
            "seeds",
            "interval over",
        ]
        lines.append(markdown(head, rows))
    if "differences" in found:
        lines.append("`synthetic` minus the other arms:\n")
        rows = [
            [
                r["section"], r["predictor"], r["encoder"], f"{r['fraction']:g}", r["control"], interval(r, "difference", "low", "high"),
                f"{r['seeds_above_0']} of {r['n_seeds']}", r["interval"],
            ]
            for _, r in found["differences"].iterrows()
        ]  # fmt: skip
        head = [
            "section",
            "predictor",
            "encoder",
            "fraction",
            "minus",
            "difference",
            "better in seeds",
            "interval over",
        ]
        lines.append(markdown(head, rows))
    if len(found["gate"]):
        lines.append(
            "What the gate dropped, and how well patches agree with their genes (chance: with those of others):\n"
        )
        columns = ["share_dropped", "agreement", "agreement_kept", "agreement_chance", "rank"]
        mean = found["gate"].groupby(["fraction", "arm"], sort=False)[columns].mean()
        rows = [[f"{f:g}", arm, *map(number, row)] for (f, arm), row in zip(mean.index, mean.to_numpy(), strict=True)]
        lines.append(markdown(["fraction", "arm", *columns], rows))
    return "\n".join([*lines, *(f"![]({name})\n" for name in pictures)])


def main(argv: list[str] | None = None) -> None:
    parser = arguments(__doc__)
    parser.add_argument("--only", nargs="+", metavar="PART", help="names of parts; left out, all")
    parser.add_argument("--minutes", type=float, help="begin no run after so many")
    parser.add_argument(
        "--as-set", action="store_true", help="synthetic spots as settings.json says, where nothing is chosen"
    )
    args = read_arguments(parser, argv)
    began, settings, kept = time.monotonic(), read_settings(args.settings), args.cache / "runs"
    if args.settings != SETTINGS:
        kept = kept / args.settings.stem
    unknown = sorted(set(args.only or []) - set(settings["parts"]))
    if unknown:
        parser.error(f"there is no part {unknown}; there are {list(settings['parts'])}")
    parts = [Part(name, settings, args.out) for name in settings["parts"]]
    asked = [p for p in parts if p.name in (args.only or settings["parts"])]
    missing = sorted({str(p.missing) for p in asked if p.missing is not None})
    if missing and not args.as_set:
        parser.error(f"{missing} are not there, or not finished: run choose.py first, or pass --as-set")
    central = central_model(args.central or settings["central"])
    other = sorted({p.central for p in asked if p.central} - {central.hash[:12]})
    if other:
        parser.error(f"settings were chosen with the central model {other}, this is {central.hash[:12]}: choose again")
    here = tables([*settings["train"], *settings["test"]], args.data, central, args.cache)
    pool = np.concatenate(list(tissue(settings["train"], args.data, central, args.cache).values()))
    train, test = ([here[name] for name in settings[k]] for k in ("train", "test"))
    args.out.mkdir(parents=True, exist_ok=True)

    frames = {}
    for part in parts:
        left = None if args.minutes is None else args.minutes - (time.monotonic() - began) / 60
        if part in asked and (left is None or left > 0):
            frames[part.name] = part.run(train, test, pool, central, kept, left)
    for part in parts:  # at the end: another call beside this one may have finished some
        if part.name not in frames and (known := part.read(central, kept)) is not None:
            frames[part.name] = known
    frames = {part.name: frames[part.name] for part in parts if part.name in frames}
    n_test = len(settings["test"])
    pages = [f"# Do synthetic spots help?\n\nCentral model {central.name} ({central.hash[:12]}).\n"]
    groups = {"main": [p for p in parts if p.source == "chosen"]}
    groups |= {p.name: [p] for p in parts if p.source != "chosen"}
    for group, members in groups.items():
        own = {p.name: frames[p.name] for p in members if p.name in frames and len(frames[p.name])}
        if not own:
            continue
        found = results(own, settings["n_boot"])
        stem = "" if group == "main" else f"{group}_"
        for name, table in found.items():
            if len(table):
                table.to_csv(args.out / f"{stem}{name}.csv", index=False, float_format="%.6g")
        done = [
            [p.name, str(len(own[p.name]) // n_test if p.name in own else 0), str(p.n_runs), json.dumps(p.synthetic), p.origin]
            for p in members
        ]  # fmt: skip
        blocks = [df.attrs["blocks"] for df in own.values()]
        pictures = figures(found["runs"], blocks, args.out, f"{stem}learning_curve")
        pages.append(text(found, group, done, pictures))
    history = args.out / "provenance.json"
    calls = json.loads(history.read_text()) if history.is_file() else []
    runs_done = {name: len(df) // n_test for name, df in frames.items()}
    calls.append(
        {**provenance(), "central": central.hash[:12], "parts": [p.name for p in asked], "runs_finished": runs_done}
    )
    write_json(history, calls)
    made_with = {(c["commit"], c["versions"], c["machine"]) for c in calls}
    pages += [f"Commit {commit}; {versions}; {machine}.\n" for commit, versions, machine in sorted(made_with)]
    (args.out / "results.md").write_text("\n".join(pages))
    print(*(f"{p.name}: {runs_done.get(p.name, 0)} of {p.n_runs} runs" for p in parts), sep="\n")


if __name__ == "__main__":
    main()
