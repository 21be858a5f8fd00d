from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from c2lst._checks import listing

from ._figure import BLUE, VERMILLION, many_axes, tidy

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure, SubFigure
    from numpy.typing import NDArray

PANELS = {  # curve: title, where the card says how many steps
    "tokenizer": ("tokenizer: reconstruction", "tokenizer_steps"),
    "denoiser": ("denoiser: denoising", "steps"),
    "loss": ("modulation: denoising", "steps"),
}


def training(model: Any, *, fig: Figure | SubFigure | None = None) -> NDArray[np.object_]:
    """Draw the loss curves of a central or a local model.

    Points are averages over stretches of steps. The validation loss is that of patches held out of the training spots.

    Parameters
    ----------
    model
        A :class:`~c2lst.models.CentralModel` or :class:`~c2lst.models.LocalModel` whose card keeps its curves.
    fig
        Figure to draw in; `None` makes one.

    Returns
    -------
    One axes a stage of training.

    Raises
    ------
    KeyError
        If the card of the model has no curves.
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
    curves = card.get("curves") or {}
    panels = [name for name in PANELS if len(curves.get(name, ()))]
    if not panels:
        raise KeyError(
            f"The card of this {type(model).__name__} has no curves['loss'] or ['denoiser']; it has {listing(card)}. "
            "`c2lst.tl.pretrain` and `c2lst.tl.adapt` write them."
        )
    axes = many_axes(fig, 1, len(panels), (4.4 * len(panels), 3.3))[0]
    for ax, name in zip(axes, panels, strict=True):
        title, steps_key = PANELS[name]
        _draw(ax, curves[name], card.get(steps_key), curves.get("validation") if name != "tokenizer" else None)
        ax.set_title(title, fontsize=10)
    return axes


def _draw(ax: Axes, losses: list[float], steps: Any, validation: Any) -> None:
    from matplotlib.ticker import LogFormatter

    y = np.asarray(losses, dtype=float)
    known = isinstance(steps, int) and not isinstance(steps, bool) and steps >= len(y)
    # the curve may have been averaged down: point i stands for the middle of its stretch
    x = (np.arange(len(y)) + 0.5) / len(y) * (steps if known else len(y))
    ax.plot(x, y, color=BLUE, linewidth=1.2, label="training")
    if validation is not None and len(validation):
        held = np.asarray(validation, dtype=float)
        ax.plot(held[:, 0], held[:, 1], color=VERMILLION, marker="o", markersize=4, linewidth=1.2, label="held out")
    if (y > 0).all():
        ax.set_yscale("log")
        ax.yaxis.set_major_formatter("{x:g}")
        ax.yaxis.set_minor_formatter(LogFormatter(minor_thresholds=(1, 0.5)))
    ax.set_xlabel("step")
    ax.set_ylabel("loss")
    ax.legend(frameon=False, fontsize=8)
    tidy(ax)
