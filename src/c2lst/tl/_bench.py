"""What the runs of a learning curve share, and one draw of spots with all its arms."""

from __future__ import annotations

import hashlib
import math
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from c2lst._checks import check_patches, listing
from c2lst._expression import LOG1P, counts, expression
from c2lst._keys import Key
from c2lst._logging import logger
from c2lst._patches import patch_meta
from c2lst._random import derive, generator
from c2lst._resolve import several_regions
from c2lst.models._ridge import ALPHAS

from ._arms import GENERATED, PSEUDO, Extra, classical, mixup, shuffled, shuffled_within
from ._drawn import Drawn, fingerprint, told
from ._graph import graph
from ._inputs import Spots, check_scale, parent_keys, partner_keys, scale_of, spots
from ._teacher import central_teacher
from ._tissue import Tissue

if TYPE_CHECKING:
    from anndata import AnnData
    from numpy.typing import NDArray

    from c2lst.models import CentralModel

EVALUATION = "c2lst_evaluation"


@dataclass
class Bench:
    """What all runs share: real patches, their features, expression of the evaluated genes, the pool, the graphs."""

    train: list[Spots]
    test: list[Spots]
    genes: list[str]
    central: CentralModel | None
    encoder: str
    features: list[NDArray]
    test_features: list[NDArray]
    target: list[NDArray]
    test_target: list[NDArray]
    graphs: list[Any]
    blocks: list[NDArray[np.int64]]
    measured_moran: list[NDArray]
    tissue: Tissue | None
    pool_features: NDArray | None
    fingerprint: str
    patch_key: str
    said: set[str] = field(default_factory=set)  # of what was warned once

    @classmethod
    def make(
        cls, train, test, *, central, encoder, pool, n_top, n_blocks, layer, table_key, patch_key, needs_pool,
        needs_central, wants_pool=False,
    ) -> Bench:  # fmt: skip
        from c2lst import pp
        from c2lst.metrics import morans_i
        from c2lst.metrics._blocks import spatial_blocks
        from c2lst.models import central_model, get_encoder
        from c2lst.models._encoders import embed_patches

        seen = spots(train, table_key=table_key, patch_key=patch_key, at_least=8, what="learning_curve")
        held = spots(test, table_key=table_key, patch_key=patch_key, at_least=8, what="learning_curve")
        for s in [*seen, *held]:
            regions = several_regions(s.section.table)
            if regions:
                raise ValueError(
                    f"The table of section {s.section.name!r} holds {len(regions[1])} regions, {listing(regions[1])}: sections are "
                    "drawn from and scored one by one, so pass a SpatialData for each (`sdata.filter_by_coordinate_system` or "
                    "`sdata.subset`)."
                )
        both = {s.section.name for s in seen} & {s.section.name for s in held}
        if any(s.section.positional and s.section.name in both for s in [*seen, *held]):
            raise ValueError(
                f"Nothing names the sections: {listing(sorted(both))} is in train and in test. Pass {{name: section}} dicts, or set "
                f"uns[{Key.SECTION!r}] of the tables."
            )
        if both or {id(s.table) for s in seen} & {id(s.table) for s in held}:
            raise ValueError(f"Sections {listing(sorted(both))} are both in train and in test: that is leakage.")
        model = central_model(central) if needs_central or get_encoder(encoder).needs_central else None
        mpp, patch_px = scale_of(seen[0].table, patch_key) if model is None else (model.mpp, model.patch_px)
        for s in [*seen, *held]:
            who = "the first section" if model is None else f"the central model {model.name!r}"
            check_scale(s.table, mpp, patch_px, who, patch_key)
        if pool is not None:
            check_patches(pool, "pool")
        elif needs_pool or wants_pool:
            bare = [s.section.name for s in seen if s.section.sdata is None]
            if bare and needs_pool:
                raise ValueError(
                    f"The sections {listing(bare)} are tables without an image, so their tissue cannot be read; pass "
                    "pool= unpaired patches (c2lst.pp.tissue_patches), or leave out 'ridge-whitened' and 'pseudo'."
                )
            if bare:
                logger.warning(
                    "The sections %s are tables without an image: local models are adapted without unpaired tissue, unless pool= gives some.",
                    listing(bare),
                )
            else:
                pool = np.concatenate([_tissue_of(s, mpp, patch_px, table_key, patch_key) for s in seen])
        light = [_light(s, layer, patch_key) for s in seen]
        shared = set.intersection(*(set(s.table.var_names) for s in [*seen, *held]))
        if not shared:
            raise ValueError("The sections have no gene in common; are their var_names of one kind?")
        light = [t[:, [g for g in t.var_names if g in shared]].copy() for t in light]
        # library size is over all genes of a section: expression is taken before the genes are cut
        for t, s in zip(light, seen, strict=True):
            t.X = _all_genes(s, list(t.var_names), layer)
            t.uns[Key.UNS] = {**t.uns.get(Key.UNS, {}), "expression": LOG1P}
        graphs = [graph(s.table, s.rows) for s in held]  # before anything takes long: places may lack
        pp.select_genes(light, n_top=n_top, key_added=EVALUATION)
        genes = [g for g in light[0].var_names if light[0].var[EVALUATION][g]]
        features = [embed_patches(s.patches, encoder, model) for s in seen]
        test_features = [embed_patches(s.patches, encoder, model) for s in held]
        target = [expression(s.table[s.rows], genes, layer) for s in seen]
        test_target = [expression(s.table[s.rows], genes, layer) for s in held]
        places = [np.asarray(s.table.obsm[Key.obsm.SPATIAL])[s.rows][:, :2] for s in held]
        blocks = [spatial_blocks(at, n_blocks) for at in places]
        digest = hashlib.sha256()
        for s, y in zip([*seen, *held], [*target, *test_target], strict=True):
            digest.update(np.ascontiguousarray(s.patches).tobytes())
            digest.update(np.ascontiguousarray(y).tobytes())
            digest.update(
                np.ascontiguousarray(s.table.obsm[Key.obsm.SPATIAL][s.rows] if Key.obsm.SPATIAL in s.table.obsm else 0)
            )
            digest.update(repr([str(name) for name in s.names]).encode())
        for s in seen:  # of the other genes a panel is chosen
            x = counts(s.table[s.rows], layer)
            margins = [np.asarray(x.sum(axis=axis), dtype=np.float64).ravel() for axis in (0, 1)]
            digest.update(fingerprint(*margins).encode())
        if pool is not None:
            digest.update(np.ascontiguousarray(pool).tobytes())
        constant = [int((y.std(0) == 0).sum()) for y in test_target]
        if any(constant):
            logger.info("Genes constant in a test section, left out there: %s.", constant)
        return cls(
            seen, held, genes, model, encoder, features, test_features, target, test_target, graphs, blocks,
            [morans_i(y, g) for y, g in zip(test_target, graphs, strict=True)],
            None if pool is None else Tissue(pool), None if pool is None else embed_patches(pool, encoder, model), digest.hexdigest()[:16],
            patch_key,
        )  # fmt: skip


def _tissue_of(s: Spots, mpp: float, patch_px: int, table_key: str, patch_key: str) -> NDArray[np.uint8]:
    """Return tissue of the image that the patches of a section were cut from."""
    from c2lst import pp

    known = patch_meta(s.table, patch_key)
    image, source, system = (known.get(k) for k in ("image_key", "source_mpp", "coordinate_system"))
    return pp.tissue_patches(
        {s.section.name: s.section.sdata}, None, mpp=mpp, patch_px=patch_px, table_key=table_key,
        image_key=image if isinstance(image, str) else None,
        coordinate_system=system if isinstance(system, str) else None,
        source_mpp=float(source) if isinstance(source, int | float) else None,
    )  # fmt: skip


def _light(s: Spots, layer: str | None, patch_key: str) -> AnnData:
    """Return a table of the valid spots that shares no state with the user's."""
    import pandas as pd
    from anndata import AnnData

    x = s.table.X if layer is None else s.table.layers[layer]
    light = AnnData(
        x[s.rows],
        obs=pd.DataFrame(index=s.table.obs_names[s.rows]),
        var=pd.DataFrame(index=s.table.var_names),
        obsm={Key.obsm.PATCHES: s.patches},
    )
    if Key.obsm.SPATIAL in s.table.obsm:
        light.obsm[Key.obsm.SPATIAL] = np.asarray(s.table.obsm[Key.obsm.SPATIAL])[s.rows]
    mpp, patch_px = scale_of(s.table, patch_key)
    light.uns[Key.SECTION] = s.section.name
    light.uns[Key.UNS] = {"patches": {Key.obsm.PATCHES: {"mpp": mpp, "patch_px": patch_px}}}
    return light


def _all_genes(s: Spots, genes: list[str], layer: str | None):
    """Return log1p CP10k of all `genes`, sparse; library size over all genes of the section."""
    import scipy.sparse as sp

    from c2lst._expression import check_genes, counts, library_size

    table = s.table[s.rows]
    size = library_size(table, layer)
    x = sp.csr_matrix(counts(table, layer), dtype=np.float64)
    x = sp.diags(np.divide(1e4, size, out=np.zeros_like(size), where=size > 0)) @ x
    return sp.csr_matrix(x.log1p()[:, check_genes(table, genes)], dtype=np.float32)


class Draw:
    """One draw of spots: its arms are made when they are first asked for."""

    def __init__(
        self, bench, fraction, seed, *, layer, n_condition, n_synthetic, weight, adapt_kwargs, augment_kwargs,
        gate_kwargs, cnn_steps, drawn=None,
    ):  # fmt: skip
        self.bench, self.fraction, self.seed, self.layer = bench, fraction, seed, layer
        self.n_condition, self.cnn_steps, self.adapt_kwargs = n_condition, cnn_steps, adapt_kwargs
        self.light = [_light(s, layer, bench.patch_key) for s in bench.train]
        from c2lst import pp

        pp.subsample(self.light, fraction, seed=seed)
        masks = [t.obs[Key.obs.SAMPLED].to_numpy() for t in self.light]
        self.patches = np.concatenate([s.patches[m] for s, m in zip(bench.train, masks, strict=True)])
        self.target = np.concatenate([y[m] for y, m in zip(bench.target, masks, strict=True)])
        self.features = np.concatenate([x[m] for x, m in zip(bench.features, masks, strict=True)])
        self.groups = np.concatenate(
            [np.repeat(s.section.name, m.sum()) for s, m in zip(bench.train, masks, strict=True)]
        )
        self.names = np.concatenate([t.obs_names[m] for t, m in zip(self.light, masks, strict=True)])
        at = [t.obsm[Key.obsm.SPATIAL][m] for t, m in zip(self.light, masks, strict=True) if "spatial" in t.obsm]
        self.positions = np.concatenate(at) if len(at) == len(self.light) else None
        self.local = None
        self.kept = Drawn() if drawn is None else drawn
        self.teachers: dict[str, Any] = {}
        self.drawn_as: Any = None
        self.seen: str | None = None
        self.set(n_synthetic=n_synthetic, weight=weight, augment_kwargs=augment_kwargs, gate_kwargs=gate_kwargs)

    def set(self, *, n_synthetic, weight, augment_kwargs, gate_kwargs) -> None:
        """Set how synthetic spots are made and used; the local model stays, and patches that would be the same."""
        self.weight, self.augment_kwargs, self.gate_kwargs = weight, augment_kwargs, gate_kwargs
        self.n_extra = min(600, 10 * len(self.patches)) if n_synthetic is None else int(n_synthetic)
        self.extras: dict[str, Extra | None] = {"real": None}
        self.gates: dict[str, dict[str, Any]] = {}
        # where a gate follows, as many more are drawn as it drops
        self.n_drawn = math.ceil(self.n_extra / gate_kwargs["keep"] - 1e-9) if gate_kwargs else self.n_extra
        drawn_as = (augment_kwargs, self.n_drawn, {k: v for k, v in gate_kwargs.items() if k != "keep"})
        if drawn_as != self.drawn_as:
            self.drawn: Extra | None = None
            self.centre: NDArray | None = None
            self.panel: list[str] = []
            self.judge = None
            self.drawn_as = drawn_as

    def run(self, arm: str, kind: str, *, alphas: tuple[float, ...] = ALPHAS) -> dict[str, Any]:
        """Train one recipe on one arm and score it on every test section; a ridge chooses its penalty among `alphas`.

        Returns its `rows`, for each section the sums over `blocks`, and what the `gate` did.
        """
        from c2lst.metrics import moran_agreement, morans_i, mse, pearson
        from c2lst.metrics._blocks import run_sums

        begun = time.monotonic()
        extra = self.pseudo(arm, kind) if arm in PSEUDO else self.extra(arm)
        predict = self.fit(kind, extra, alphas)
        if arm == "real" and alphas == ALPHAS:
            self.teachers[kind] = predict
        rows, sums = [], {}
        bench = self.bench
        for i, s in enumerate(bench.test):
            guess = predict(s.patches, bench.test_features[i])
            agreement = moran_agreement(morans_i(guess, bench.graphs[i]), bench.measured_moran[i])
            pcc = pearson(guess, bench.test_target[i])
            sums[s.section.name] = run_sums(guess, bench.test_target[i], bench.blocks[i])
            rows.append(
                {
                    "section": s.section.name, "fraction": self.fraction, "arm": arm, "predictor": kind,
                    "encoder": "none" if kind == "cnn" else bench.encoder, "seed": self.seed,
                    "n_spots": len(self.patches), "n_synthetic": 0 if extra is None else len(extra.patches),
                    "pcc": float(np.nanmean(pcc)), "mse": float(mse(guess, bench.test_target[i]).mean()),
                    "moran_corr": float(agreement["corr"]), "moran_bias": float(agreement["bias"]),
                    "seconds": 0.0,
                }
            )  # fmt: skip
        for row in rows:
            row["seconds"] = round(time.monotonic() - begun, 2)
        return {"rows": rows, "blocks": sums, "gate": self.gates.get(arm)}

    def fit(self, kind: str, extra: Extra | None, alphas: tuple[float, ...] = ALPHAS):
        """Fit a recipe; returns a function from (patches, features) to expression."""
        from c2lst.models import Predictor
        from c2lst.models._cnn import fit_cnn
        from c2lst.models._ridge import fit_ridge, folds

        from ._fit_predictor import usual_weight

        bench, n = self.bench, len(self.patches)
        target, weight = self.target, np.ones(n)
        fold = second = folds(self.groups, self.positions)
        if extra is not None:
            target = np.concatenate([target, extra.target])
            share = usual_weight(kind, bench.encoder) if self.weight is None else self.weight
            weight = np.concatenate([weight, np.full(len(extra.patches), share * n / len(extra.patches))])
            partner = extra.parent if extra.partner is None else extra.partner
            second = np.concatenate([fold, np.where(partner >= 0, fold[partner], -1)])
            fold = np.concatenate([fold, np.where(extra.parent >= 0, fold[extra.parent], -1)])
        real = np.arange(len(target)) < n
        network = None
        if kind == "cnn":
            parts = [self.patches] + ([] if extra is None else [extra.patches])
            network, arrays = fit_cnn(parts, target, weight, real, steps=self.cnn_steps, seed=derive(self.seed, 98))
        else:
            features = self.features
            if extra is not None:
                features = np.concatenate([features, self.featured(extra)])
            pool = bench.pool_features if kind == "ridge-whitened" else None
            without = None
            if extra is not None and extra.without is not None and len(alphas) > 1:
                without = {k: np.concatenate([self.target, y]) for k, y in extra.without.items()}
            arrays, _ = fit_ridge(
                features, target, weight, real, fold, pool=pool, alphas=alphas, without=without, second=second
            )
        mpp, patch_px = scale_of(self.light[0])
        fitted = Predictor(kind, bench.genes, arrays, network=network, mpp=mpp, patch_px=patch_px)
        return lambda patches, features: fitted.from_patches(patches, features=features)

    def featured(self, extra: Extra) -> NDArray[np.float32]:
        """Features of an arm's samples, computed once."""
        from c2lst.models._encoders import embed_patches

        if extra.features is None:
            extra.features = embed_patches(extra.patches, self.bench.encoder, self.bench.central)
        return extra.features

    def extra(self, arm: str) -> Extra | None:
        """Make what joins the real spots in an arm (once)."""
        if arm not in self.extras:
            if arm == "classical":
                made = classical(self.patches, self.target, self.n_extra, self.seed)
            elif arm == "mixup":
                made = mixup(self.patches, self.target, self.n_extra, self.seed)
            elif arm in GENERATED:
                made = self.generated(arm)
            else:
                raise ValueError(f"The arm {arm!r} has no samples of its own.")
            self.extras[arm] = made
        return self.extras[arm]

    def generated(self, arm: str) -> Extra:
        """Make the pairs of an arm from all that was drawn, then gate them.

        In that order: a control is paired wrongly first and passes the same gate after, with the same judge and the
        same share kept. A gate lets through wrong pairs that please its judge too, which is pseudo-labelling; shuffled
        after the gate, a control would be without that help, and its gain be taken for the generator's.
        """
        if self.drawn is None:
            self.drawn = self.synthetic()
        ours = self.drawn
        if arm == "synthetic":
            made = ours
        elif arm == "unconditional":
            settings = {"steps": self.augment_kwargs.get("sampler_steps", 16)}
            settings |= {k: v for k, v in self.augment_kwargs.items() if k == "precision"}
            drawn = self.kept.patches(
                {**self.depends(), **settings, "n": len(ours.patches)},
                lambda: self.adapted().sample(None, n=len(ours.patches), seed=derive(self.seed, 99), **settings),
            )
            made = Extra(drawn, ours.target, ours.parent, profiles=ours.profiles, partner=ours.partner)
        else:
            if self.gate_kwargs:
                self.judged(ours)
            else:
                self.featured(ours)  # once: the controls have the same patches
            made = shuffled(ours, self.seed) if arm == "shuffled" else shuffled_within(ours, self.seed)
        return self.gated(made, arm) if self.gate_kwargs else made

    def gated(self, made: Extra, arm: str) -> Extra:
        """Keep as many pairs as every arm has, those whose patch says best what its genes say."""
        from ._gate import agreement, best, summary

        own, rank, chance = agreement(self.judged(made), made.profiles, self.centre)
        kept = best(own, self.n_extra)
        self.gates[arm] = {
            "fraction": self.fraction, "seed": self.seed, "arm": arm, **summary(own, rank, chance, kept)
        }  # fmt: skip
        return made.take(np.flatnonzero(kept))

    def judged(self, made: Extra) -> NDArray[np.float32]:
        """Predict the profiles of patches by a judge that saw the drawn spots alone, once."""
        from ._fit_predictor import fit_predictor
        from ._gate import check_judge

        if self.judge is None:
            local = self.adapted()  # first: it marks the panel
            bench, kind = self.bench, self.gate_kwargs.get("kind", "ridge")
            self.judge = fit_predictor(
                self.light, kind=kind, encoder=self.gate_kwargs.get("encoder", bench.encoder), central=bench.central,
                pool=bench.tissue.patches if kind == "ridge-whitened" else None, subset=Key.obs.SAMPLED,
                seed=derive(self.seed, 101), progress=False,
            )  # fmt: skip
            check_judge(self.judge.card, local.card)
        if made.judged is None:
            same = self.judge.kind != "cnn" and self.judge.encoder == self.bench.encoder
            features = self.featured(made) if same else None
            said = self.judge.from_patches(made.patches, features=features)
            made.judged = said[:, [self.judge.genes.index(g) for g in self.panel]]
        return made.judged

    def depends(self) -> dict[str, Any]:
        """Return all that the local model depends on."""
        if self.seen is None:
            tissue = [] if self.bench.tissue is None else [self.bench.tissue.patches]
            few = [t[t.obs[Key.obs.SAMPLED].to_numpy()] for t in self.light]
            counts = [np.asarray(t.X.todense() if hasattr(t.X, "todense") else t.X, dtype=np.float32) for t in few]
            self.seen = fingerprint(self.patches, *counts, *tissue)
        return {
            "central": self.bench.central.hash, "seen": self.seen, "genes": list(self.light[0].var_names), "seed": self.seed,
            "n_condition": self.n_condition, "adapt": told(self.adapt_kwargs), "spots": self.spots_digest(),
        }  # fmt: skip

    def spots_digest(self) -> str:
        """Tell names, sections and places of the drawn spots from others: parents are noted by them, folds made of them."""
        named = repr(list(zip(map(str, self.groups), map(str, self.names), strict=True))).encode()
        places = "" if self.positions is None else fingerprint(np.asarray(self.positions))
        return hashlib.sha256(named + places.encode()).hexdigest()[:16]

    def adapted(self):
        """Adapt on the drawn spots, once."""
        from c2lst import pp

        from ._adapt import adapt

        if self.local is None:
            pp.select_genes(self.light, n_top=self.n_condition, subset=Key.obs.SAMPLED)
            kwargs = {"seed": self.seed, **self.adapt_kwargs}
            if "pool" not in kwargs:
                kwargs["pool"] = self.bench.tissue
            self.local = self.kept.local(
                self.depends(), self.bench.central,
                lambda: adapt(self.light, self.bench.central, subset=Key.obs.SAMPLED, progress=False, **kwargs),
            )  # fmt: skip
        return self.local

    def synthetic(self) -> Extra:
        """Generate from the drawn spots and label each patch with the profile it was drawn for."""
        from ._augment import N_COMPONENTS, augment

        kwargs = {"seed": self.seed, "n_components": N_COMPONENTS, **self.augment_kwargs}
        made = self.kept.table(
            {**self.depends(), **told(kwargs), "n": self.n_drawn, "partners": "noted"},
            lambda: augment(
                self.light, self.adapted(), n_obs=self.n_drawn, subset=Key.obs.SAMPLED, progress=False, **kwargs
            ),
        )
        profiles = np.asarray(made.X)
        self.panel, self.centre = list(made.var_names), made.var[Key.var.MEAN].to_numpy()
        target = np.full((made.n_obs, len(self.bench.genes)), np.nan, dtype=np.float32)
        for j, gene in enumerate(self.bench.genes):
            if gene in made.var_names:
                target[:, j] = profiles[:, made.var_names.get_loc(gene)]
        where = {k: i for i, k in enumerate(zip(self.groups, self.names.astype(str), strict=True))}
        parents, partners = (np.array([where[k] for k in of(made)]) for of in (parent_keys, partner_keys))
        return Extra(made.obsm[Key.obsm.PATCHES], target, parents, profiles=profiles, partner=partners)

    def pseudo(self, arm: str, kind: str) -> Extra:
        """Patches of the pool, labelled by the same recipe fitted on the real spots, or by a ridge on central features.

        Where a section is left out to choose a penalty, the labels are those of a teacher that did not see it either.
        """
        from c2lst.models._encoders import embed_patches
        from c2lst.models._ridge import fit_ridge, folds, ridge_predict

        key = f"pseudo-{kind}" if arm == "pseudo" else arm
        if key not in self.extras:
            rows = generator(self.seed, 90).permutation(len(self.bench.tissue))[: self.n_extra]
            if len(rows) < self.n_extra and arm not in self.bench.said:
                self.bench.said.add(arm)
                logger.warning(
                    "The pool has %d patches; %s labels no more, other arms get %d.", len(rows), arm, self.n_extra
                )
            patches, features = self.bench.tissue.patches[rows], self.bench.pool_features[rows]
            fold = folds(self.groups, self.positions)
            left = [] if kind == "cnn" and arm == "pseudo" else [int(k) for k in np.unique(fold)]
            without = {}
            if arm == "pseudo-central":
                seen = embed_patches(self.patches, "central", self.bench.central)
                some = self.bench.tissue.take(rows)

                def labelled(known: NDArray[np.bool_]) -> NDArray[np.float32]:
                    teacher = central_teacher(
                        self.patches[known], self.target[known], fold[known], self.bench.central, seen[known]
                    )
                    return teacher(some)

                labels = labelled(np.ones(len(fold), dtype=bool))
            else:
                if kind not in self.teachers:
                    self.teachers[kind] = self.fit(kind, None)
                labels = self.teachers[kind](patches, features)
                pool = self.bench.pool_features if kind == "ridge-whitened" else None

                def labelled(known: NDArray[np.bool_]) -> NDArray[np.float32]:
                    n = int(known.sum())
                    arrays, _ = fit_ridge(
                        self.features[known],
                        self.target[known],
                        np.ones(n),
                        np.ones(n, dtype=bool),
                        fold[known],
                        pool=pool,
                    )
                    return ridge_predict(arrays, features)

            for k in left:
                known = fold != k
                without[k] = labelled(known) if known.sum() > 1 else labels
            self.extras[key] = Extra(patches, labels, np.full(len(rows), -1), features, without=without or None)
        return self.extras[key]
