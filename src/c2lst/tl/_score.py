from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from c2lst._checks import listing
from c2lst._docs import doc
from c2lst._expression import expression
from c2lst._notes import record
from c2lst._resolve import check_sections, sections

from ._graph import graph

if TYPE_CHECKING:
    from anndata import AnnData
    from numpy.typing import NDArray


@doc
def score(
    data: Any,
    *,
    predicted_key: str = "c2lst_predicted",
    layer: str | None = None,
    table_key: str = "table",
    library_key: str | None = None,
    key_added: str = "c2lst",
) -> None:
    """Say per gene how far to believe a prediction, where the genes were measured.

    Parameters
    ----------
    {data}
        Sections with predictions (:func:`c2lst.tl.predict`) and counts.
    predicted_key
        Key of `obsm`.
    {layer}
    {table_key}
    library_key
        Column of `obs` that names the sections of a concatenated AnnData; each column of `var` then gets its name.
    key_added
        Prefix of the columns of `var`.

    Returns
    -------
    `None`. Sets the following fields, NaN for genes outside the panel:

    `var["c2lst_pcc"]`, `var["c2lst_mse"]`
        Pearson correlation over the spots of the section (NaN for a gene constant there, 0 for a constant prediction),
        and mean squared error of log1p CP10k.
    `var["c2lst_moran"]`, `var["c2lst_moran_measured"]`
        Moran's I of the prediction and of the measurement on one graph.
    `uns["c2lst"]["score"]`
        Means over genes, and how many were constant.

    Raises
    ------
    KeyError
        There is no prediction.

    Examples
    --------
    >>> import c2lst as c2l
    >>> train, test = c2l.datasets.toy_tissue(40, sections=2)
    >>> c2l.pp.extract_patches([train, test], mpp=2.0, patch_px=64)
    >>> c2l.pp.select_genes([train, test], n_top=20)
    >>> c2l.tl.predict(test, c2l.tl.fit_predictor(train, encoder="rgb"))
    >>> c2l.tl.score(test)
    >>> int(test["table"].var["c2lst_pcc"].notna().sum())
    20
    """
    import pandas as pd

    from c2lst._notes import notes
    from c2lst.metrics import morans_i, mse, pearson

    found = sections(data, table_key=table_key, library_key=library_key)
    check_sections(found, "predictions are scored")
    ready = [measured_and_predicted(s.table, s.name, predicted_key, layer) for s in found]
    for s, (genes, rows, measured, predicted) in zip(found, ready, strict=True):
        links = graph(s.table, rows)
        columns = {
            "pcc": pearson(predicted, measured),
            "mse": mse(predicted, measured),
            "moran": morans_i(predicted, links),
            "moran_measured": morans_i(measured, links),
        }
        table = s.parent if s.parent is not None else s.table
        infix = "" if s.parent is None else f"_{s.name}"
        for name, values in columns.items():
            column = pd.Series(np.nan, index=table.var_names, dtype=float)
            column[genes] = values
            table.var[f"{key_added}_{name}{infix}"] = column
        pcc = columns["pcc"]
        summary = {
            "section": s.name,
            "n_spots": len(rows),
            "n_genes": len(genes),
            "n_constant": int(np.isnan(pcc).sum()),
            "pcc": float(np.nanmean(pcc)) if np.isfinite(pcc).any() else float("nan"),
            "mse": float(np.mean(columns["mse"])),
        }
        here = notes(table)
        here["score"] = {**here.get("score", {}), s.name: summary} if infix else summary
        record(table, "score", predicted_key=predicted_key, layer=layer)


def measured_and_predicted(
    table: AnnData, name: str, predicted_key: str, layer: str | None
) -> tuple[list[str], NDArray[np.int64], NDArray[np.float32], NDArray[np.float64]]:
    """Return genes, rows with a prediction, measured and predicted expression of these rows."""
    import pandas as pd

    if predicted_key not in table.obsm:
        raise KeyError(
            f"obsm of section {name!r} has no {predicted_key!r}; it has {listing(table.obsm)}. Call "
            "`c2lst.tl.predict(data, predictor)` first."
        )
    frame = table.obsm[predicted_key]
    if not isinstance(frame, pd.DataFrame):
        raise TypeError(f"obsm[{predicted_key!r}] must be the DataFrame that c2lst.tl.predict writes.")
    genes = [g for g in frame.columns if g in table.var_names]
    if not genes:
        raise KeyError(f"None of the predicted genes was measured in section {name!r}: {listing(frame.columns)}.")
    rows = np.flatnonzero(np.isfinite(frame.to_numpy()).all(1))
    measured = expression(table, genes, layer)[rows]
    return genes, rows, measured, frame[genes].to_numpy(dtype=float)[rows]
