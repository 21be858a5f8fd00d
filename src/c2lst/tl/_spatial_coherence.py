from __future__ import annotations

from typing import Any

from c2lst._docs import doc
from c2lst._notes import jsonable
from c2lst._resolve import check_sections, sections

from ._graph import N_NEIGHBOURS, graph
from ._score import measured_and_predicted


@doc
def spatial_coherence(
    data: Any,
    *,
    predicted_key: str = "c2lst_predicted",
    layer: str | None = None,
    table_key: str = "table",
    library_key: str | None = None,
    key_added: str = "spatial_coherence",
) -> None:
    """Compare the spatial order of predicted genes with that of measured ones, by Moran's I on one graph.

    A prediction is smoother than counts, and smoothing raises Moran's I: read the signed difference beside that of a
    predictor trained on all real spots.

    Parameters
    ----------
    {data}
        Sections with predictions (:func:`c2lst.tl.predict`), counts and `obsm["spatial"]`.
    predicted_key
        Key of `obsm`.
    {layer}
    {table_key}
    library_key
        Column of `obs` that names the sections of a concatenated AnnData, or the regions of one table.
    key_added
        Key of `uns`.

    Returns
    -------
    `None`. Sets `uns["spatial_coherence"]` of each section (with `library_key`, `{section: ...}` of the table), a dict:

    `genes`, `measured`, `predicted`
        Moran's I (Moran 1950) of each gene, on the graph of six nearest neighbours.
    `corr`, `bias`
        Pearson correlation over genes; mean of predicted minus measured.

    Raises
    ------
    KeyError
        There is no prediction, or no positions.
    ValueError
        A table holds several regions and no `library_key` is given, or there are too few spots.

    Examples
    --------
    >>> import c2lst as c2l
    >>> train, test = c2l.datasets.toy_tissue(40, sections=2)
    >>> c2l.pp.extract_patches([train, test], mpp=2.0, patch_px=64)
    >>> c2l.pp.select_genes([train, test], n_top=20)
    >>> c2l.tl.predict(test, c2l.tl.fit_predictor(train, encoder="rgb"))
    >>> c2l.tl.spatial_coherence(test)
    >>> len(test["table"].uns["spatial_coherence"]["genes"])
    20
    """
    from c2lst.metrics import moran_agreement, morans_i

    done = []
    found = sections(data, table_key=table_key, library_key=library_key)
    check_sections(found, "Moran's I is taken")
    for s in found:
        genes, rows, measured, predicted = measured_and_predicted(s.table, s.name, predicted_key, layer)
        links = graph(s.table, rows)
        ours, theirs = morans_i(predicted, links), morans_i(measured, links)
        agreement = moran_agreement(ours, theirs)
        done.append(
            {
                "genes": genes,
                "measured": theirs,
                "predicted": ours,
                "corr": float(agreement["corr"]),
                "bias": float(agreement["bias"]),
                "params": jsonable({"predicted_key": predicted_key, "layer": layer, "n_neighbors": N_NEIGHBOURS}),
            }
        )
    for s, result in zip(found, done, strict=True):
        if s.parent is None:
            s.table.uns[key_added] = result
    if found[0].parent is not None:
        found[0].parent.uns[key_added] = {s.name: result for s, result in zip(found, done, strict=True)}
