from __future__ import annotations

import hashlib

import numpy as np
import pytest


def _digest(value) -> str:
    import pandas as pd
    import scipy.sparse as sp

    if value is None:
        return "none"
    if sp.issparse(value):
        value = value.tocsr()
        parts = [np.array(value.shape), value.data, value.indices, value.indptr]
    elif isinstance(value, pd.DataFrame):
        return value.to_json() + str(list(value.dtypes)) + str(list(value.columns))
    elif isinstance(value, pd.Series):
        return str(value.dtype) + value.astype(str).to_json()
    elif isinstance(value, np.ndarray | list):
        parts = [np.asarray(value)]
    else:
        return repr(value)
    digest = hashlib.sha256()
    for part in parts:
        digest.update(str((part.dtype, part.shape)).encode())
        digest.update(repr(part.tolist()).encode() if part.dtype == object else np.ascontiguousarray(part).tobytes())
    return digest.hexdigest()


def _leaves(value, path: str):
    if isinstance(value, dict) or hasattr(value, "items") and not hasattr(value, "iloc"):
        for key, item in value.items():
            yield from _leaves(item, f"{path}/{key}")
    else:
        yield path, _digest(value)


def _snapshot(table) -> dict[str, str]:
    """Everything a table holds, leaf by leaf."""
    out = {
        "X": _digest(table.X),
        "obs_names": _digest(list(table.obs_names)),
        "var_names": _digest(list(table.var_names)),
    }
    for slot in ("obs", "var"):
        frame = getattr(table, slot)
        out |= {f"{slot}/{key}": _digest(frame[key]) for key in frame}
    for slot in ("layers", "obsm", "varm", "obsp", "uns"):
        out |= dict(_leaves(dict(getattr(table, slot)), slot))
    return out


@pytest.fixture(scope="session")
def snapshot():
    """Return a function: table -> {leaf: digest}."""
    return _snapshot


@pytest.fixture(scope="session")
def changed():
    """Return a function: (snapshot before, table) -> the leaves that are new, gone or different."""

    def compare(before: dict[str, str], table) -> set[str]:
        after = _snapshot(table)
        return {key for key in {*before, *after} if before.get(key) != after.get(key)}

    return compare


@pytest.fixture(scope="session")
def tensors():
    """Return a function: a fitted local model -> {name: array}, all that was fitted."""

    def take(local) -> dict[str, np.ndarray]:
        out = {}
        for role in ("gene_encoder", "modulation"):
            out |= {f"{role}.{k}": v.numpy().copy() for k, v in getattr(local, role).state_dict().items()}
        return out

    return take


@pytest.fixture(scope="session")
def same():
    """Return a function: do two dicts of arrays hold the same bytes under the same names?"""

    def equal(a: dict, b: dict) -> bool:
        return a.keys() == b.keys() and all(np.array_equal(a[k], b[k], equal_nan=True) for k in a)

    return equal


@pytest.fixture(scope="session")
def _two():
    import c2lst as c2l

    made = c2l.datasets.toy_tissue(20, sections=2)
    c2l.pp.extract_patches(made, mpp=2.0, patch_px=64)
    c2l.pp.select_genes(made, n_top=20)
    return made


@pytest.fixture
def two(_two):
    """Tables of two toy sections of 20 spots, with patches of the toy central model and a panel of 20 genes."""
    return [s["table"].copy() for s in _two]


@pytest.fixture
def table(toy):
    """A table of one toy section of one's own."""
    return toy["table"].copy()


def _coloured(n=64, seed=0, name="a", px=16, noise=6.0):
    """A section whose expression is written in the colour of its patches, smooth in space; 12 genes, 9 of the panel."""
    import anndata as ad
    import pandas as pd

    rng = np.random.default_rng([seed, 5])
    side = int(np.ceil(np.sqrt(n)))
    row, col = np.divmod(np.arange(n), side)
    phase = rng.uniform(0, 2 * np.pi, 3)
    factor = np.stack(
        [
            np.sin(2 * np.pi * (row * f + col * g) / side + p)
            for f, g, p in zip((1, 0, 1), (0, 1, 1), phase, strict=True)
        ],
        axis=1,
    )
    loading = np.kron(np.eye(3), np.ones((1, 3))) * np.tile([0.9, 0.6, -0.8], 3)
    rate = np.exp(3.5 + np.concatenate([factor @ loading, np.zeros((n, 3))], axis=1))
    names = [f"{name}_{i}" for i in range(n)]
    genes = [f"G{i}" for i in range(12)]
    table = ad.AnnData(
        rng.poisson(rate).astype(np.float32), obs=pd.DataFrame(index=names), var=pd.DataFrame(index=genes)
    )
    table.obs["array_row"], table.obs["array_col"] = row, col
    table.obsm["spatial"] = np.stack([col, row], axis=1) * 100.0
    mean = 128 + 45 * factor[:, None, None, :]
    table.obsm["patches"] = np.clip(mean + rng.normal(0, noise, (n, px, px, 3)), 0, 255).astype(np.uint8)
    table.var["c2lst_genes"] = np.arange(12) < 9
    table.uns["c2lst_section"] = name
    table.uns["c2lst"] = {"patches": {"patches": {"mpp": 2.0, "patch_px": px, "store": "none"}}}
    return table


@pytest.fixture(scope="session")
def coloured():
    """Build a section whose expression is written in the colour of its patches."""
    return _coloured


@pytest.fixture(scope="session")
def as_synthetic():
    """Pretend that real spots are synthetic ones: each is its own parent, its patch the one drawn for it."""
    import anndata as ad

    from c2lst._expression import expression

    def turn(tables, *, patches=None, genes=None):
        tables = tables if isinstance(tables, list) else [tables]
        genes = genes or list(tables[0].var_names[tables[0].var["c2lst_genes"]])
        made = ad.AnnData(np.concatenate([expression(t, genes) for t in tables]))
        made.var_names = genes
        made.obs_names = [f"synthetic_{i}" for i in range(made.n_obs)]
        made.obs["c2lst_origin"] = "synthetic"
        made.obs["c2lst_parent"] = np.concatenate([t.obs_names.to_numpy() for t in tables])
        made.obs["c2lst_section"] = np.concatenate([np.repeat(t.uns["c2lst_section"], t.n_obs) for t in tables])
        made.obsm["patches"] = np.concatenate([t.obsm["patches"] for t in tables]) if patches is None else patches
        made.uns["c2lst"] = {"patches": tables[0].uns["c2lst"]["patches"], "expression": "log1p CP10k"}
        return made

    return turn
