"""Choose how synthetic spots are made and used, by validation inside the training sections.

    python benchmarks/augmentation/choose.py --data her2st

Each of C2, C3 and C4 is left out in turn; a tenth of the spots of the other two is what a model is adapted to, and all
labels of the section left out are what a setting is judged by. One factor after another is varied around the best so
far, in the order of the grid in `settings.json`; a value replaces the one before it where its gain (`synthetic` minus
`real`, mean PCC) is larger by more than a standard error of the paired difference over sections and seeds. The choice is
made once, for all fractions and both tests. The sections for testing are never opened.

`--sampled SEED` does the same with nothing but the tenth of the spots that this seed draws: what could be chosen by
somebody who has no more. A call that broke off, or was stopped by `--minutes`, goes on where it was.
"""

from __future__ import annotations

import hashlib
import json
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "central"))

from _data import SYNTHETIC, arguments, how, read_arguments, read_settings, tables, tissue  # noqa: E402
from _results import markdown, number, provenance, write_json  # noqa: E402

import c2lst as c2l  # noqa: E402
from c2lst.models import central_model  # noqa: E402
from c2lst.models._ridge import ALPHAS  # noqa: E402
from c2lst.tl._bench import Bench, Draw  # noqa: E402
from c2lst.tl._drawn import Drawn  # noqa: E402

if TYPE_CHECKING:
    from collections.abc import Callable

    from anndata import AnnData
    from numpy.typing import NDArray

    from c2lst.models import CentralModel

SAMPLED = "c2lst_sampled"


class Validation:
    """The training sections, each left out in turn. Local models are adapted when first asked for, and kept."""

    def __init__(
        self, here: dict[str, AnnData], pools: dict[str, NDArray], central: CentralModel, settings: dict[str, Any], *,
        fraction: float, kept: Path | None = None,
    ):  # fmt: skip
        self.here, self.pools, self.central, self.settings, self.fraction = here, pools, central, settings, fraction
        self.kept = Drawn(kept)
        self.benches: dict[str, Bench] = {}
        self.draws: dict[tuple[str, int, int], Draw] = {}
        self.real: dict[tuple[str, int], float] = {}

    def score(self, synthetic: dict[str, Any], held: str, seed: int) -> tuple[float, float]:
        """Return the mean PCC over recipes on a section left out, with real spots alone and with synthetic ones."""
        asked = how(synthetic, self.settings)
        draw = self.draw(held, seed, asked)
        draw.set(**{k: v for k, v in asked.items() if k != "n_condition"})
        if (held, seed) not in self.real:
            self.real[held, seed] = self.mean(draw, "real")
        return self.real[held, seed], self.mean(draw, "synthetic")

    def mean(self, draw: Draw, arm: str) -> float:
        """Return the mean PCC of an arm over the recipes a choice is made by, and of a ridge over penalties.

        A penalty chosen on a few dozen spots jumps, and by it two local models that cannot be told apart differ as much as
        settings do.
        """
        plan = self.settings["choose"]
        alone = [(float(a),) for a in plan["penalties"]]
        asked = [(kind, a) for kind in plan["predictors"] for a in (alone if kind != "cnn" else [ALPHAS] * len(alone))]
        tried = {job: draw.run(arm, job[0], alphas=job[1])["rows"][0]["pcc"] for job in dict.fromkeys(asked)}
        return float(np.mean([tried[job] for job in asked]))

    def draw(self, held: str, seed: int, asked: dict[str, Any]) -> Draw:
        """Draw the spots of the other sections; a panel of another size is another local model."""
        if held not in self.benches:
            others = [name for name in self.here if name != held]
            self.benches[held] = Bench.make(
                [self.here[name] for name in others], [self.here[held]], central=self.central,
                encoder=self.settings["choose"]["encoder"], pool=np.concatenate([self.pools[name] for name in others]),
                n_top=self.settings["n_top"], n_blocks=self.settings["n_blocks"], layer=None, table_key="table",
                patch_key="patches", needs_pool=True, needs_central=True,
            )  # fmt: skip
        key = (held, seed, asked["n_condition"])
        if key not in self.draws:
            self.draws[key] = Draw(
                self.benches[held], self.fraction, seed, layer=None, adapt_kwargs=self.settings["adapt"],
                cnn_steps=self.settings["cnn_steps"], drawn=self.kept, **asked,
            )  # fmt: skip
        return self.draws[key]


def search(
    start: dict[str, Any], grid: dict[str, list], trial: Callable[[dict[str, Any]], NDArray[np.float64] | None]
) -> tuple[dict[str, Any], bool, list[dict[str, Any]]]:
    """Vary one factor after another; `trial` returns the gains of a setting, paired, or `None` when time is up.

    Returns the best setting, whether the search is finished, and what was decided, factor by factor.
    """
    best, gains, said = dict(start), trial(start), []
    if gains is None:
        return best, False, said
    for factor, values in grid.items():
        top, top_gains, was = best[factor], gains, best[factor]
        for value in values:
            if value == was:
                continue
            tried = trial({**best, factor: value})
            if tried is None:
                return best, False, said
            # against the value the factor had: whoever stays must not win by being tried more often
            step = tried - gains
            if step.mean() > _se(step) and tried.mean() > top_gains.mean():
                top, top_gains = value, tried
        said.append({"factor": factor, "was": was, "chosen": top, "gain": float(top_gains.mean())})
        best, gains = {**best, factor: top}, top_gains
    return best, True, said


def _se(x: NDArray[np.float64]) -> float:
    return float(x.std(ddof=1) / np.sqrt(len(x))) if len(x) > 1 else 0.0


def text(table: pd.DataFrame, chosen: dict[str, Any]) -> str:
    """Write what a person reads: every setting that was tried, in order."""
    rows = []
    for values, part in table.groupby(list(SYNTHETIC), sort=False):
        gain = part["gain"].to_numpy()
        cells = [number(part[c].mean()) for c in ("real", "synthetic", "gain")]
        rows.append([*values, *cells, number(_se(gain)), f"{(gain > 0).sum()} of {len(gain)}"])
    head = [*SYNTHETIC, "real", "synthetic", "gain", "standard error", "better in"]
    lines = [
        "# Which synthetic spots?\n",
        f"{chosen['declared']} Chosen: {json.dumps(chosen['chosen'])}"
        f"{'' if chosen['finished'] else ' so far; the search is not finished'}.\n",
        markdown(head, rows),
        markdown(["factor", "was", "chosen", "gain"], [[s["factor"], s["was"], s["chosen"], number(s["gain"])] for s in chosen["decisions"]]),
        f"Commit {chosen['commit']}; {chosen['versions']}; {chosen['machine']}.\n",
    ]  # fmt: skip
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> None:
    parser = arguments(__doc__)
    parser.add_argument("--sampled", type=int, metavar="SEED", help="with the labels of this draw alone")
    parser.add_argument("--minutes", type=float, help="begin no trial after so many")
    args = read_arguments(parser, argv)
    began, settings = time.monotonic(), read_settings(args.settings)
    plan, names = settings["choose"], settings["train"]  # settings["test"] is not read here
    central = central_model(args.central or settings["central"])
    here = tables(names, args.data, central, args.cache)
    pools = tissue(names, args.data, central, args.cache)
    fraction = plan["fraction"]
    declared = (
        f"Judged by all labels of {', '.join(names)}, each left out in turn; {fraction:.0%} of the spots of the others."
    )
    if args.sampled is not None:
        c2l.pp.subsample(list(here.values()), fraction, seed=args.sampled)
        here = {name: t[t.obs[SAMPLED]].copy() for name, t in here.items()}
        declared = f"Judged by nothing but the {fraction:.0%} of the spots of {', '.join(names)} that seed {args.sampled} draws."
        fraction = 1.0
    kept = args.cache / "runs" / "drawn"
    validation = Validation(here, pools, central, settings, fraction=fraction, kept=kept)
    stem = "choose" if args.sampled is None else f"choose_sampled_{args.sampled}"
    args.out.mkdir(parents=True, exist_ok=True)
    file = args.out / f"{stem}.csv"
    table = pd.read_csv(file, dtype={"central": str, "settings": str}) if file.is_file() else pd.DataFrame()
    fixed = {k: settings[k] for k in ("train", "n_top", "cnn_steps", "sampler_steps", "adapt", "judge")}
    fixed |= {k: plan[k] for k in ("fraction", "predictors", "penalties", "encoder")}
    digest = hashlib.sha256(json.dumps(fixed, sort_keys=True).encode()).hexdigest()[:8]
    common = {"central": central.hash[:12], "settings": digest}

    def trial(synthetic: dict[str, Any]) -> NDArray[np.float64] | None:
        nonlocal table
        gains = []
        for held in names:
            for seed in plan["seeds"]:
                key = {**common, **{k: synthetic[k] for k in SYNTHETIC}, "held_out": held, "seed": seed}
                done = _find(table, key)
                if done is None:
                    if args.minutes is not None and time.monotonic() - began > 60 * args.minutes:
                        return None
                    at = time.monotonic()
                    real, ours = validation.score(synthetic, held, seed)
                    done = {
                        "real": real,
                        "synthetic": ours,
                        "gain": ours - real,
                        "seconds": round(time.monotonic() - at, 1),
                    }
                    table = pd.concat([table, pd.DataFrame([{**key, **done}])], ignore_index=True)
                    table.to_csv(file, index=False, float_format="%.6g")
                gains.append(done["gain"])
        return np.array(gains, dtype=float)

    best, finished, said = search(settings["synthetic"], plan["grid"], trial)
    chosen = {"chosen": best, "finished": finished, "declared": declared, "decisions": said, **common, **provenance()}
    write_json(args.out / f"{stem}.json", chosen)
    if len(table):
        mine = table[(table[list(common)] == pd.Series(common)).all(axis=1)]
        (args.out / f"{stem}.md").write_text(text(mine, chosen))
    print(json.dumps(chosen, indent=1))


def _find(table: pd.DataFrame, key: dict[str, Any]) -> dict[str, Any] | None:
    if not set(key) <= set(table.columns):  # nothing yet, or of former days, when less was varied
        return None
    rows = table[(table[list(key)] == pd.Series(key)).all(axis=1)]
    return rows.iloc[0].to_dict() if len(rows) else None


if __name__ == "__main__":
    main()
