from __future__ import annotations

import numpy as np
import pytest

import c2lst as c2l
from c2lst.metrics import pearson
from c2lst.tl._teacher import central_teacher, stretched
from c2lst.tl._tissue import Tissue


def test_stretched_profiles_spread_as_measured_ones_and_keep_their_order():
    draws = np.random.default_rng(0)
    measured = draws.normal(2.0, [1.0, 0.1, 3.0], size=(200, 3)).astype(np.float32)
    predicted = (5 + 0.2 * draws.normal(0, [1.0, 0.01, 3.0], size=(500, 3))).astype(np.float32)
    out = stretched(predicted, measured)
    np.testing.assert_allclose(out.mean(0), measured.mean(0), atol=1e-3)
    # in units of each gene's standard deviation, all genes together vary as they did
    assert np.square((out - out.mean(0)) / measured.std(0)).sum(1).mean() == pytest.approx(3.0, rel=1e-3)
    # one factor for all: the gene that was hardly predicted stays nearly constant
    ratio = out.std(0) / predicted.std(0)
    np.testing.assert_allclose(ratio, ratio[0], rtol=1e-3)
    assert pearson(out, predicted).min() > 0.999


def test_predictions_that_vary_enough_are_not_shrunk_and_constant_ones_stay():
    draws = np.random.default_rng(1)
    measured, wide = draws.normal(size=(50, 4)), 3 * draws.normal(size=(50, 4))
    out = stretched(wide, measured)
    np.testing.assert_allclose(out - out.mean(0), wide - wide.mean(0), atol=1e-5)
    np.testing.assert_allclose(stretched(np.ones((6, 4)), measured), np.tile(measured.mean(0), (6, 1)), atol=1e-6)


def test_a_teacher_knows_genes_that_patches_show(coloured):
    central = c2l.models.CentralModel.from_pretrained("toy")
    table = coloured(80, seed=0, px=64)
    from c2lst._expression import expression

    genes = list(table.var_names)
    values, patches = expression(table, genes), table.obsm["patches"]
    teacher = central_teacher(patches[:50], values[:50], np.arange(50) % 4, central)
    assert np.nanmax(pearson(teacher(Tissue(patches[50:])), values[50:])) > 0.5
    # and nothing of those it was not shown
    values[50:] += 9
    patches = patches.copy()
    patches[50:] = 0
    again = central_teacher(patches[:50], values[:50], np.arange(50) % 4, central)
    np.testing.assert_array_equal(teacher(Tissue(patches[:50])), again(Tissue(patches[:50])))
