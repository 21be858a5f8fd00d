from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from c2lst._checks import listing

from ._figure import BLUE, VERMILLION, many_axes, tidy

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure, SubFigure
    from numpy.typing import NDArray

PANELS = {  # curve: title, where the card says how many steps, curve of the held-out patches
    "tokenizer": ("tokenizer: reconstruction", "tokenizer_steps", "tokenizer_validation"),
    "denoiser": ("denoiser: denoising", "steps", "validation"),
    "neon": ("denoiser on its own samples", "neon_steps", "neon_validation"),
    "guide": ("guide: denoising", "guide_steps", "guide_validation"),
    "decoder": ("decoder: reconstruction, critic", "decoder_steps", "decoder_validation"),
    "loss": ("modulation: denoising", "steps", "validation"),
}


def training(model: Any, *, run: str | None = None, fig: Figure | SubFigure | None = None) -> NDArray[np.object_]:
    """Draw the loss curves of a central or a local model.

    Points are averages over stretches of steps. The validation loss is that of patches held out of the training spots;
    of a tokenizer and its decoder it is the PSNR (dB) of held-out tissue, on an axis of its own at the right.

    Parameters
    ----------
    model
        A :class:`~c2lst.models.CentralModel` or :class:`~c2lst.models.LocalModel` whose card keeps its curves.
    run
        A run of training before the last one, by the name under which the card keeps its curves, such as "longer" of the
        starter; `None` draws the last.
    fig
        Figure to draw in; `None` makes one.

    Returns
    -------
    One axes a stage of training.

    Raises
    ------
    KeyError
        If the card of the model has no curves, or none of that `run`.
    TypeError
        If `model` has no card.

    Examples
    --------
    >>> from types import SimpleNamespace
    >>> import c2lst as c2l
    >>> model = SimpleNamespace(card={"curves": {"loss": [1.0, 0.5, 0.4], "validation": [[3, 0.45]]}})
    >>> c2l.pl.training(model)[0].get_xlabel()
    'step'
    """
    card = getattr(model, "card", None)
    if not isinstance(card, dict):
        raise TypeError(f"model must be a CentralModel or a LocalModel, not {type(model).__name__}.")
    if run is not None:
        kept = [name for name, told in card.items() if isinstance(told, dict) and told.get("curves")]
        if run not in kept:
            raise KeyError(
                f"The card of this {type(model).__name__} keeps no curves of run={run!r}; it has {listing(kept)}."
            )
        card = card[run]
    curves = card.get("curves") or {}
    panels = [name for name in PANELS if len(curves.get(name, ()))]
    if not panels:
        raise KeyError(
            f"The card of this {type(model).__name__} has no curves['loss'] or ['denoiser']; it has {listing(card)}. "
            "`c2lst.tl.pretrain` and `c2lst.tl.adapt` write them."
        )
    axes = many_axes(fig, 1, len(panels), (4.4 * len(panels), 3.3))[0]
    for ax, name in zip(axes, panels, strict=True):
        title, steps_key, held_key = PANELS[name]
        _draw(ax, curves[name], card.get(steps_key), curves.get(held_key), decibel=name in ("tokenizer", "decoder"))
        ax.set_title(title, fontsize=10)
    return axes


def _draw(ax: Axes, losses: list[float], steps: Any, validation: Any, *, decibel: bool) -> None:
    from matplotlib.ticker import LogFormatter

    class Plain(LogFormatter):
        """Chooses which ticks are labelled as its parent does, but writes 0.95 and not 1e+00."""

        def __call__(self, x: float, pos: int | None = None) -> str:
            return f"{x:.4g}" if super().__call__(x, pos) else ""

    y = np.asarray(losses, dtype=float)
    known = isinstance(steps, int) and not isinstance(steps, bool) and steps >= len(y)
    # the curve may have been averaged down: point i stands for the middle of its stretch
    x = (np.arange(len(y)) + 0.5) / len(y) * (steps if known else len(y))
    drawn = ax.plot(x, y, color=BLUE, linewidth=1.2, label="training")
    if validation is not None and len(validation):
        held = np.asarray(validation, dtype=float)
        on = ax.twinx() if decibel else ax
        label = "held out (right)" if decibel else "held out"
        drawn += on.plot(held[:, 0], held[:, 1], color=VERMILLION, marker="o", markersize=4, linewidth=1.2, label=label)
        if decibel:
            on.set_ylabel("PSNR (dB)")
            on.spines[["top", "left", "bottom"]].set_visible(False)
    if (y > 0).all():
        ax.set_yscale("log")
        ax.yaxis.set_major_formatter("{x:g}")
        ax.yaxis.set_minor_formatter(Plain(minor_thresholds=(1, 0.5)))
    ax.set_xlabel("step")
    ax.set_ylabel("loss")
    ax.legend(handles=drawn, frameon=False, fontsize=8, loc="best")
    tidy(ax)
