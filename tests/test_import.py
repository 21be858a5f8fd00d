from __future__ import annotations

import ast
import subprocess
import sys
from functools import cache
from importlib import import_module
from pathlib import Path

import pytest

import c2lst

SRC = Path(c2lst.__file__).parent
ROOMS = ("datasets", "io", "metrics", "models", "nn", "pl", "pp", "tl", "train")
FILES = sorted(SRC.rglob("*.py"))

# room -> what it may import of the house, beside itself and the ground floor (arrows run downwards only)
HOUSE = {
    "ground": set(),
    "metrics": set(),
    "nn": {"metrics"},
    "train": {"nn", "metrics"},
    "models": {"nn", "train", "metrics"},
    "io": {"models", "nn", "train", "metrics"},
    "datasets": {"models", "nn", "train", "metrics", "io"},
    "pp": {"models", "nn", "train", "metrics", "io", "datasets"},
    "tl": {"models", "nn", "train", "metrics", "io", "datasets", "pp"},
    "pl": {"models", "nn", "train", "metrics", "io", "datasets"},
}
OBJECTS = {"anndata", "spatialdata", "scanpy", "squidpy"}
SEE_OBJECTS = {"pp", "tl", "pl", "io", "datasets", "ground"}
ENTRANCE = {"__init__", "__main__", "_demo"}  # the face of the house itself, above all rooms


@cache
def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def room(path: Path) -> str | None:
    parts = path.relative_to(SRC).parts
    if len(parts) > 1:
        return parts[0]
    return None if path.stem in ENTRANCE else "ground"


def imports(path: Path, *, typing: bool = False) -> set[str]:
    """Full names of what a file imports, anywhere in it; what is only for type checkers is left out."""
    package = ["c2lst", *path.relative_to(SRC).parts[:-1]]
    found = set()

    def visit(node):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test) and not typing:
            for child in node.orelse:
                visit(child)
            return
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            stem = ".".join([*base, *([node.module] if node.module else [])])
            found.update(f"{stem}.{alias.name}" for alias in node.names)
        for child in ast.iter_child_nodes(node):
            visit(child)

    visit(parsed(path))
    return found


def tops(path: Path) -> set[str]:
    return {name.split(".")[0] for name in imports(path)}


def house(path: Path) -> set[str]:
    """Rooms of c2lst that a file imports from."""
    parts = [name.split(".") for name in imports(path) if name.split(".")[0] == "c2lst"]
    return {p[1] for p in parts if len(p) > 1 and p[1] in ROOMS}


@pytest.mark.parametrize("name", ["", *ROOMS])
def test_every_name_in_all_resolves_once(name):
    module = import_module(f"c2lst.{name}".rstrip("."))
    assert len(set(module.__all__)) == len(module.__all__)
    for entry in module.__all__:
        assert getattr(module, entry) is not None, entry
    assert set(module.__all__) <= set(dir(module))


@pytest.mark.parametrize("name", ["", "datasets", "io", "metrics", "models", "pl", "pp", "tl"])
def test_public_names_have_docstrings(name):
    module = import_module(f"c2lst.{name}".rstrip("."))
    without = [entry for entry in module.__all__ if not (getattr(module, entry).__doc__ or "").strip()]
    assert without == []


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'tools'"):
        c2lst.tools  # noqa: B018
    with pytest.raises(AttributeError, match=r"'speed'.*'progress'"):
        c2lst.settings.speed = 1


def modules_after(code: str) -> set[str]:
    out = subprocess.run(
        [sys.executable, "-c", f"import sys\n{code}\nprint(*sys.modules)"], capture_output=True, text=True, check=True
    )
    assert out.stderr == ""
    return {name.split(".")[0] for name in out.stdout.split()}


HEAVY = {
    "torch",
    "scanpy",
    "spatialdata",
    "matplotlib",
    "anndata",
    "diffusers",
    "lightning",
    "sklearn",
    "dask",
    "pandas",
}


@pytest.mark.parametrize(
    ("code", "without"),
    [
        ("import c2lst; c2lst.settings.progress; dir(c2lst)", HEAVY | {"numpy"}),
        ("import c2lst.metrics", {"torch", "scanpy", "spatialdata", "matplotlib", "anndata", "diffusers", "lightning"}),
    ],
)
def test_importing_is_quiet_and_light(code, without):
    assert not modules_after(code) & without


def test_files_were_found():
    assert {room(p) for p in FILES} == {None, "ground", *ROOMS}


@pytest.mark.parametrize("path", [p for p in FILES if room(p)], ids=lambda p: str(p.relative_to(SRC)))
def test_arrows_run_downwards(path):
    here = room(path)
    assert house(path) - {here} <= HOUSE[here]
    if here not in SEE_OBJECTS:
        allowed = {"anndata"} if path.stem == "_gene_encoder" else set()  # scvi-tools takes nothing but an AnnData
        assert tops(path) & OBJECTS <= allowed
    if here in ("metrics", "ground"):
        assert not tops(path) & {"torch", "diffusers", "lightning"}
    if here == "pl":
        assert not tops(path) & {"lightning", "diffusers"}
    assert not tops(path) & {"pickle", "joblib", "dill", "torchvision", "setuptools"}


def test_no_assert_no_bare_except_and_nothing_that_runs_what_it_reads():
    loud = []
    for path in FILES:
        for node in ast.walk(parsed(path)):
            where = f"{path.relative_to(SRC)}:{getattr(node, 'lineno', 0)}"
            if isinstance(node, ast.Assert):
                loud.append(f"{where} assert")
            if isinstance(node, ast.ExceptHandler) and node.type is None:
                loud.append(f"{where} bare except")
            if isinstance(node, ast.Call) and ast.unparse(node.func) in ("eval", "exec", "print", "np.load"):
                if path.stem not in ("__main__", "_demo"):
                    loud.append(f"{where} {ast.unparse(node.func)}")
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "torch.load":
                if not any(k.arg == "weights_only" and ast.unparse(k.value) == "True" for k in node.keywords):
                    loud.append(f"{where} torch.load of more than tensors")
    assert loud == []
