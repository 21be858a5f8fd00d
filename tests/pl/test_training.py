from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

import c2lst as c2l


def test_a_central_model_has_two_panels():
    curves = {"tokenizer": [3.0, 2.0], "denoiser": [1.0, 0.5, 0.4, 0.3], "validation": [[50, 0.6], [100, 0.5]]}
    model = SimpleNamespace(card={"steps": 100, "tokenizer_steps": 20, "curves": curves})
    tokenizer, denoiser = c2l.pl.training(model)
    np.testing.assert_allclose(tokenizer.lines[0].get_xydata(), [[5, 3], [15, 2]])
    np.testing.assert_allclose(denoiser.lines[0].get_xdata(), [12.5, 37.5, 62.5, 87.5])
    np.testing.assert_allclose(denoiser.lines[1].get_xydata(), [[50, 0.6], [100, 0.5]])
    assert len(tokenizer.lines) == 1
    assert tokenizer.figure.axes == [tokenizer, denoiser]


def test_held_out_tissue_of_the_tokenizer_has_decibels_at_the_right():
    curves = {"tokenizer": [3.0, 2.0], "tokenizer_validation": [[10, 21.5], [20, 24.0]]}
    (ax,) = c2l.pl.training(SimpleNamespace(card={"tokenizer_steps": 20, "curves": curves}))
    _, right = ax.figure.axes
    np.testing.assert_allclose(right.lines[0].get_xydata(), [[10, 21.5], [20, 24]])
    assert right.get_ylabel() == "PSNR (dB)"
    assert [t.get_text() for t in ax.get_legend().get_texts()] == ["training", "held out (right)"]


def test_a_local_model_has_one_panel():
    axes = c2l.pl.training(SimpleNamespace(card={"curves": {"loss": [1.0, 0.5], "validation": []}}))
    assert len(axes) == 1
    assert [t.get_text() for t in axes[0].get_legend().get_texts()] == ["training"]


def test_an_earlier_run_is_drawn_by_its_name():
    before = {"steps": 40, "curves": {"denoiser": [2.0, 1.0], "validation": [[40, 0.9]]}}
    model = SimpleNamespace(
        card={"steps": 0, "guide_steps": 10, "first": before, "init": {"hash": "a"}, "curves": {"guide": [3.0, 2.5]}}
    )
    assert [ax.get_title() for ax in c2l.pl.training(model)] == ["guide: denoising"]
    (ax,) = c2l.pl.training(model, run="first")
    assert ax.get_title() == "denoiser: denoising"
    np.testing.assert_allclose(ax.lines[0].get_xydata(), [[10, 2], [30, 1]])
    with pytest.raises(KeyError, match="run='init'; it has \\['first'\\]"):
        c2l.pl.training(model, run="init")


def test_every_run_of_the_starter_can_be_drawn():
    starter = c2l.models.CentralModel.from_pretrained("starter")
    runs = [name for name, told in starter.card.items() if isinstance(told, dict) and told.get("curves")]
    assert {"wide", "narrow", "detail", "further", "longer"} <= set(runs)
    for run in [None, *runs]:
        assert len(c2l.pl.training(starter, run=run)) >= 1


def test_a_model_without_curves_is_named():
    with pytest.raises(KeyError, match="it has \\['seed'\\].*c2lst.tl.pretrain"):
        c2l.pl.training(SimpleNamespace(card={"seed": 0}))
    with pytest.raises(TypeError, match="not dict"):
        c2l.pl.training({})


@pytest.mark.parametrize("low", [0.88, 0.05])
def test_ticks_are_plain_and_differ(low):
    losses = list(np.geomspace(1.13, low, 40))
    (ax,) = c2l.pl.training(SimpleNamespace(card={"curves": {"loss": losses, "validation": [[10, low], [40, low]]}}))
    ax.figure.canvas.draw()
    bottom, top = ax.get_ylim()
    labels = {}
    for minor in (False, True):
        for at, tick in zip(ax.yaxis.get_ticklocs(minor=minor), ax.get_yticklabels(minor=minor), strict=True):
            if bottom <= at <= top and tick.get_text():
                labels[at] = tick.get_text()
    assert len(labels) >= 2 and len(set(labels.values())) == len(labels)
    assert all(float(text) == pytest.approx(at, rel=1e-3) and "e" not in text for at, text in labels.items())
