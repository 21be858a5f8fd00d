from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from c2lst._checks import check_choice, check_fraction, check_positive, listing
from c2lst._docs import doc
from c2lst._logging import progress as bar
from c2lst._notes import jsonable

from ._arms import ARMS, GENERATED, MORE_ARMS, PSEUDO
from ._bench import Bench, Draw
from ._drawn import Drawn, told

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    import numpy as np
    import pandas as pd
    from numpy.typing import NDArray

    from c2lst.models import CentralModel

COLUMNS = [
    "section", "fraction", "arm", "predictor", "encoder", "seed", "n_spots", "n_synthetic", "pcc", "mse",
    "moran_corr", "moran_bias", "seconds",
]  # fmt: skip


@doc
def learning_curve(
    train: Any,
    test: Any,
    *,
    central: CentralModel | str = "starter",
    fractions: Sequence[float] = (0.05, 0.1, 0.25, 0.5, 1.0),
    arms: Sequence[str] = ARMS,
    predictors: Sequence[str] = ("ridge", "ridge-whitened", "cnn"),
    encoder: str = "central",
    pool: NDArray[np.uint8] | None = None,
    seeds: Iterable[int] = range(5),
    n_top: int = 50,
    n_condition: int = 100,
    n_synthetic: int | None = None,
    weight: float | None = None,
    adapt_kwargs: dict[str, Any] | None = None,
    augment_kwargs: dict[str, Any] | None = None,
    gate_kwargs: dict[str, Any] | None = None,
    cnn_steps: int = 300,
    n_blocks: int = 12,
    layer: str | None = None,
    table_key: str = "table",
    patch_key: str = "patches",
    out: str | Path | None = None,
    keep_drawn: str | Path | None = None,
    minutes: float | None = None,
    progress: bool | None = None,
) -> pd.DataFrame:
    """Measure whether synthetic spots help on your sections: fractions x arms x predictors x seeds.

    Nothing that is fitted sees a test section. The spots of a fraction are drawn nested over fractions and stratified
    by section. The genes that are evaluated are chosen once, from all training spots; those the local model is
    conditioned on are chosen from the drawn spots alone, and an evaluated gene outside that panel has no synthetic
    label. Every arm gets the same number of extra samples (the pseudo-labelled ones what the pool has, where that is fewer),
    the same steps and the same seeds. At fraction 1 only `"real"` runs: it is the reference of :func:`c2lst.metrics.gap_closed`.

    Parameters
    ----------
    train, test
        Sections with patches (:func:`c2lst.pp.extract_patches`) and counts; lists or `{name: section}` dicts.
    central
        The central model that is adapted.
    fractions
        Shares of the training spots.
    arms
        `"real"`; `"classical"`: turns, flips, stain jitter; `"mixup"`: neighbours in expression mixed; `"pseudo"`:
        patches of the pool with predicted labels (by the same recipe); `"synthetic"`: ours; `"shuffled"`, `"shuffled-within"`: the synthetic
        patches with their genes permuted, over all or within expression clusters; `"unconditional"`: patches drawn
        without genes. Not run unless named: `"pseudo-central"`, labels predicted by a ridge on the central model's features,
        which is what that model knows without drawing a patch.
    predictors
        Recipes, see :func:`c2lst.tl.fit_predictor`.
    {encoder}
    pool
        Unpaired H&E of the training sections, uint8 `(n, H, W, 3)`; `None` takes their tissue, on a disjoint grid, where an arm
        or a recipe uses it; local models of tables without an image do without.
    seeds
        Of the draw, the initialisation and the noise.
    n_top
        Number of genes that are evaluated.
    n_condition
        Number of genes the local model is conditioned on.
    n_synthetic
        Extra samples of every arm; `None` is ten for each drawn spot, 600 at most.
    weight
        Weight of all extra samples together, in units of that of the real ones; `None` is that of
        :func:`c2lst.tl.fit_predictor`.
    adapt_kwargs, augment_kwargs
        For :func:`c2lst.tl.adapt` and :func:`c2lst.tl.augment`.
    gate_kwargs
        `{"keep": 0.75}` gates the generated arms (:func:`c2lst.tl.gate`): so many more are drawn that the arm has its
        number after. The judge is fitted on the drawn spots; `"kind"` (`"ridge"`) and `"encoder"` choose it. The controls
        are permuted first and gated after, by the same judge: a gate passes what pleases its judge, right or wrong.
    cnn_steps
        Training steps of the CNN in every arm.
    n_blocks
        Spatial blocks of equally many neighbouring spots in which a test section is cut for intervals; fewer where they
        would have less than four spots.
    {layer}
    {table_key}
    patch_key
        Where the patches are.
    out
        Directory that keeps every finished run; the same call goes on where it stopped.
    keep_drawn
        Directory that keeps local models and synthetic patches (about 15 MB a draw of spots), so that a call with other
        predictors, encoders, arms or weights need not adapt and draw again.
    minutes
        Begin no run after so many; what is finished is returned. Needs `out`.
    {progress}

    Returns
    -------
    One row a run and test section: `section, fraction, arm, predictor, encoder, seed, n_spots, n_synthetic, pcc, mse,
    moran_corr, moran_bias, seconds`. `pcc` is the mean over genes of the correlation within the section; a gene that is
    constant there is left out, and a constant prediction scores 0. `df.attrs`, which JSON can hold, has the
    evaluated `genes`, the `settings`, what each `gate` dropped, and in `blocks`, by run, the sums over spatial blocks from
    which :func:`c2lst.metrics.gap_closed` and :func:`c2lst.metrics.paired_difference` take their intervals.

    Raises
    ------
    KeyError, ValueError
        Sections lack patches, one is in both sets, or an argument is out of range; before anything is trained.

    Examples
    --------
    >>> import c2lst as c2l
    >>> train, test = c2l.datasets.toy_tissue(60, sections=2)
    >>> c2l.pp.extract_patches([train, test], mpp=2.0, patch_px=64)
    >>> df = c2l.tl.learning_curve(
    ...     train, test, central="toy", fractions=(0.5, 1.0), arms=("real", "classical"), predictors=("ridge",),
    ...     encoder="rgb", seeds=[0], n_top=20,
    ... )
    >>> df[["fraction", "arm", "n_spots"]].values.tolist()
    [[0.5, 'real', 30], [0.5, 'classical', 30], [1.0, 'real', 60]]
    """
    import pandas as pd

    from c2lst import __version__
    from c2lst.metrics._blocks import RUN, measured_sums, run_key

    seeds, fractions = [int(s) for s in seeds], sorted({float(f) for f in fractions})
    for f in fractions:
        check_fraction("fractions", f)
    for arm in arms:
        check_choice("arms", arm, (*ARMS, *MORE_ARMS))
    from c2lst.models._predictor import KINDS
    from c2lst.models._ridge import RECIPE

    for kind in predictors:
        check_choice("predictors", kind, KINDS)
    check_positive("n_blocks", n_blocks, integer=True)
    if minutes is not None:
        check_positive("minutes", minutes, zero=True)
        if out is None:
            raise ValueError("minutes= stops a call that is to go on later; that needs out=, a directory.")
    gate_kwargs = _checked_gate(gate_kwargs or {})
    began = time.monotonic()
    bench = Bench.make(
        train, test, central=central, encoder=encoder, pool=pool, n_top=n_top, n_blocks=n_blocks, layer=layer,
        table_key=table_key, patch_key=patch_key,
        needs_pool="ridge-whitened" in (*predictors, gate_kwargs.get("kind")) or bool(set(arms) & set(PSEUDO)) or pool is not None,
        wants_pool=bool(set(arms) & set(GENERATED)) and fractions[0] < 1 and "pool" not in (adapt_kwargs or {}),
        needs_central=bool(set(arms) & {*GENERATED, "pseudo-central"}) and fractions[0] < 1,
    )  # fmt: skip
    settings = jsonable(
        {
            "version": __version__, "pool": 0 if bench.tissue is None else len(bench.tissue),
            "central": bench.central.hash if bench.central is not None else None, "encoder": encoder, "n_top": n_top,
            "n_condition": n_condition, "n_synthetic": n_synthetic, "weight": weight, "adapt": told(adapt_kwargs or {}),
            "augment": told(augment_kwargs or {}), "gate": gate_kwargs, "cnn_steps": cnn_steps, "n_blocks": n_blocks,
            "data": bench.fingerprint, "genes": bench.genes, "train": [s.section.name for s in bench.train],
            "test": [s.section.name for s in bench.test], "recipe": RECIPE,
        }
    )  # fmt: skip
    kept = _Kept(out, settings)
    plan = [
        (f, seed, [a for a in arms if f < 1 or a == "real"] or ["real"])
        for f in fractions
        for seed in seeds
        if f < 1 or "real" in arms
    ]
    rows: list[dict[str, Any]] = []
    sums: dict[str, str] = {}
    gates: list[dict[str, Any]] = []
    with bar(total=sum(len(a) * len(predictors) for _, _, a in plan), desc="learning curve", show=progress) as shown:
        for fraction, seed, todo in plan:
            draw = None
            wanted = [(arm, kind) for arm in todo for kind in predictors]
            found = {job: kept.read(fraction, seed, *job) for job in wanted}
            if any(v is None for v in found.values()) and not _over(began, minutes):
                draw = Draw(
                    bench, fraction, seed, layer=layer, n_condition=n_condition, n_synthetic=n_synthetic, weight=weight,
                    adapt_kwargs=adapt_kwargs or {}, augment_kwargs=augment_kwargs or {}, gate_kwargs=gate_kwargs,
                    cnn_steps=cnn_steps, drawn=Drawn(keep_drawn),
                )  # fmt: skip
            for arm, kind in wanted:
                shown.set_postfix_str(f"{fraction:g} {arm} {kind}", refresh=True)
                run = found[arm, kind]
                if run is None and draw is not None and not _over(began, minutes):
                    run = draw.run(arm, kind)
                    kept.write(fraction, seed, arm, kind, run)
                if run is None:  # no time is left
                    continue
                rows += run["rows"]
                sums |= {run_key([row[c] for c in RUN]): run["blocks"][row["section"]] for row in run["rows"]}
                if run["gate"] is not None and run["gate"] not in gates:
                    gates.append(run["gate"])
                shown.update()
    df = pd.DataFrame(rows, columns=COLUMNS)
    measured = {
        s.section.name: measured_sums(y, block)
        for s, y, block in zip(bench.test, bench.test_target, bench.blocks, strict=True)
    }
    df.attrs.update(genes=bench.genes, settings=settings, gate=gates, blocks={"sections": measured, "runs": sums})
    return df


def _over(began: float, minutes: float | None) -> bool:
    return minutes is not None and time.monotonic() - began >= 60 * minutes


def _checked_gate(gate: dict[str, Any]) -> dict[str, Any]:
    """Check what is asked of the gate before anything is trained."""
    from c2lst.models import get_encoder
    from c2lst.models._predictor import KINDS

    if not gate:
        return {}
    odd = sorted(set(gate) - {"keep", "kind", "encoder"})
    if "keep" not in gate or odd:
        why = " With a threshold the arms would not have equally many samples." if "threshold" in odd else ""
        raise ValueError(f"gate_kwargs takes 'keep' (needed), 'kind' and 'encoder', not {listing(gate)}.{why}")
    check_fraction("gate_kwargs['keep']", gate["keep"])
    check_choice("gate_kwargs['kind']", gate.get("kind", "ridge"), KINDS)
    get_encoder(gate.get("encoder", "rgb"))
    return dict(gate)


class _Kept:
    """Finished runs in a directory, one small JSON each; written beside and renamed."""

    def __init__(self, path: str | Path | None, settings: dict[str, Any]):
        self.path = None if path is None else Path(path)
        if self.path is None:
            return
        self.path.mkdir(parents=True, exist_ok=True)
        file = self.path / "settings.json"
        if file.is_file():
            old = json.loads(file.read_text())
            # runs that needed no central model go with any; from the first that needs one on, it is settled
            open_ = "none" in (old.get("central"), settings["central"])
            changed = sorted(k for k in {*old, *settings} if old.get(k) != settings.get(k))
            changed = [k for k in changed if not (open_ and k == "central")]
            if changed:
                raise ValueError(
                    f"{self.path} holds runs with other settings ({listing(changed)}); choose another out= or the same "
                    "settings and data."
                )
            if open_ and old.get("central") != settings["central"] != "none":
                self._put(file, settings)
        else:
            self._put(file, settings)

    def _file(self, fraction: float, seed: int, arm: str, kind: str) -> Path:
        return self.path / f"{fraction:g}_{seed}_{arm}_{kind}.json"

    def read(self, *job: Any) -> dict[str, Any] | None:
        """Return a finished run."""
        if self.path is None or not self._file(*job).is_file():
            return None
        return json.loads(self._file(*job).read_text())

    def write(self, fraction: float, seed: int, arm: str, kind: str, run: dict[str, Any]) -> None:
        """Keep a run."""
        if self.path is not None:
            self._put(self._file(fraction, seed, arm, kind), run)

    @staticmethod
    def _put(file: Path, value: Any) -> None:
        part = file.with_suffix(".part")
        part.write_text(json.dumps(value))
        os.replace(part, file)
