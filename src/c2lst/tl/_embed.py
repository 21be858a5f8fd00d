from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from c2lst._docs import doc
from c2lst._notes import record
from c2lst._patches import get_patches
from c2lst._resolve import sections

from ._inputs import central_for, check_scale

if TYPE_CHECKING:
    from c2lst.models import CentralModel


@doc
def embed(
    data: Any,
    *,
    encoder: str = "central",
    central: CentralModel | str | None = None,
    key_added: str = "X_c2lst",
    table_key: str = "table",
    patch_key: str = "patches",
    batch_size: int = 128,
    copy: bool = False,
    progress: bool | None = None,
) -> Any:
    """Write what an image encoder says of each patch.

    Parameters
    ----------
    {data}
    {encoder}
    central
        Whose features `"central"` means; `None` takes the model noted in `uns["c2lst"]["central"]`, else the starter.
    key_added
        Key of `obsm`.
    {table_key}
    patch_key
        Where the patches are.
    {copy}
    {progress}

    Returns
    -------
    `None`, or the copy. Sets the following field:

    `obsm["X_c2lst"]` : float32 `(n_obs, dim)`
        Features; ready for `sc.pp.neighbors(adata, use_rep="X_c2lst")`.

    Raises
    ------
    KeyError
        Patches are missing, or the encoder is not registered.
    ValueError
        The patches have another scale than the central model.

    Examples
    --------
    >>> import c2lst as c2l
    >>> sdata = c2l.datasets.toy_tissue(40)
    >>> c2l.pp.extract_patches(sdata, mpp=2.0, patch_px=64)
    >>> c2l.tl.embed(sdata, encoder="rgb")
    >>> sdata["table"].obsm["X_c2lst"].shape
    (40, 6)
    """
    from c2lst.models._encoders import embed_patches
    from c2lst.pp._copying import duplicate

    data = duplicate(data) if copy else data
    found = sections(data, table_key=table_key)
    model = central_for([s.table for s in found], central, encoder=encoder)
    if model is not None:
        for s in found:
            check_scale(s.table, model.mpp, model.patch_px, f"the central model {model.name!r}", patch_key)
    done = [
        embed_patches(get_patches(s.table, patch_key), encoder, model, batch_size=batch_size, show=progress)
        for s in found
    ]
    for s, features in zip(found, done, strict=True):
        s.table.obsm[key_added] = np.ascontiguousarray(features)
        record(s.table, "embed", encoder=encoder, key_added=key_added, patch_key=patch_key)
    return data if copy else None
