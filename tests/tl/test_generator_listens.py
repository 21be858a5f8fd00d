"""Does the local model listen to its genes? Needs trained toy weights; about a minute on two cores."""

from __future__ import annotations

import logging

import numpy as np
import pytest
from scipy.stats import spearmanr

import c2lst as c2l

PALE = 0.25  # optical density: simulated stain is paler than the frozen tissue the default threshold is for


@pytest.fixture(scope="module")
def taught():
    central = c2l.models.CentralModel.from_pretrained("toy")
    if central.card.get("steps", 0) < 100:
        pytest.skip("placeholder weights")
    train = c2l.datasets.toy_tissue(120, sections=2)
    c2l.pp.extract_patches(train, mpp=2.0, patch_px=64)
    var = train[0]["table"].var
    panel = [g for p in var["program"].unique() if p != "NOISE" for g in var.index[var["program"] == p][:8]]
    c2l.pp.select_genes(train, genes=panel)
    return train, c2l.tl.adapt(train, central, steps=250, progress=False)


def test_nuclei_follow_the_density_program(taught):
    train, local = taught
    assert local.card["listens"]
    table = train[0]["table"]
    # what the measure can see in real patches
    real = c2l.metrics.haematoxylin_area(table.obsm["patches"], threshold=PALE)
    assert spearmanr(real, table.obsm["factors"]["nuclear_density"]).statistic > 0.6

    from c2lst._expression import expression

    base = expression(table, local.genes).mean(0)
    program = table.var["loading_nuclear_density"][[g for g in local.genes if g.startswith("DENS")]]
    values = np.linspace(-2, 2, 25)  # of the factor, about two of its standard deviations either way
    swept = c2l.tl.gene_sweep(local, program, values=values, base=base, n=8, sampler_steps=8, progress=False)
    assert swept.n_obs == 200
    area = c2l.metrics.haematoxylin_area(swept.obsm["patches"], threshold=PALE)
    moved = swept.obs["c2lst_value"].to_numpy()
    assert spearmanr(area, moved).statistic > 0.5
    order = np.random.default_rng(0).permutation(len(moved))
    shuffled = local.sample(np.asarray(swept.X)[order], index=swept.obs["c2lst_replicate"].to_numpy(), steps=8, seed=1)
    assert spearmanr(c2l.metrics.haematoxylin_area(shuffled, threshold=PALE), moved).statistic < 0.2


@pytest.mark.parametrize("within", [False, True], ids=["over all", "within sections"])
def test_genes_that_belong_to_other_patches_are_found_out(caplog, within):
    sections = c2l.datasets.toy_tissue(60, sections=2)
    c2l.pp.extract_patches(sections, mpp=2.0, patch_px=64)
    c2l.pp.select_genes(sections, n_top=40)
    train = [s["table"].copy() for s in sections]
    pool = c2l.pp.tissue_patches(sections, 60, mpp=2.0, patch_px=64)
    settings = {"pool": pool, "steps": 40, "batch_size": 16, "progress": False}
    own = {} if within else c2l.tl.adapt(train, "toy", **settings).card
    counts = [t.X.toarray() if hasattr(t.X, "toarray") else t.X for t in train]
    rng = np.random.default_rng(0)
    if within:  # genes still go with the section's stain
        counts = [x[rng.permutation(len(x))] for x in counts]
    else:
        mixed = np.concatenate(counts)
        counts = np.split(mixed[rng.permutation(len(mixed))], [train[0].n_obs])
    for table, x in zip(train, counts, strict=True):
        table.X = x
    with caplog.at_level(logging.WARNING, logger="c2lst"):
        other = c2l.tl.adapt(train, "toy", **settings).card
    assert not other["listens"] and "does not demonstrably listen" in caplog.text
    if not within:
        assert own["listens"] and own["gain_from_genes"] > own["gain_standard_error"] > 0
        assert other["gain_from_genes"] < 0.5 * own["gain_from_genes"]
