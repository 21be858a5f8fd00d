"""Sphinx. Builds without a network; C2LST_DOCS_INTERSPHINX=1 links to the documentation of other packages."""

from __future__ import annotations

import json
import os
import shutil
from importlib import import_module
from pathlib import Path

from sphinx.ext.napoleon.docstring import NumpyDocstring

import c2lst

HERE = Path(__file__).parent

project = "c2lst"
author = "the c2lst developers"
copyright = f"2026, {author}"
version = release = c2lst.__version__

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "sphinx_copybutton",
]
exclude_patterns = ["_build", "**.ipynb_checkpoints"]
source_suffix = {".rst": "restructuredtext", ".ipynb": "myst-nb", ".md": "myst-nb"}
default_role = "code"  # docstrings write `code` with single backticks

autosummary_generate = True
autosummary_imported_members = True
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
python_use_unqualified_type_names = True
python_maximum_signature_line_length = 88
napoleon_google_docstring = False
napoleon_use_ivar = True
napoleon_use_rtype = False

myst_enable_extensions = ["colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 3
nb_execution_mode = "off"
nb_merge_streams = True
# outputs of notebooks may hold progress bars, which a page cannot show
suppress_warnings = ["mystnb.unknown_mime_type"]
copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True

if os.environ.get("C2LST_DOCS_INTERSPHINX"):
    extensions.append("sphinx.ext.intersphinx")
    intersphinx_mapping = {
        "anndata": ("https://anndata.readthedocs.io/en/stable/", None),
        "lightning": ("https://lightning.ai/docs/pytorch/stable/", None),
        "matplotlib": ("https://matplotlib.org/stable/", None),
        "numpy": ("https://numpy.org/doc/stable/", None),
        "pandas": ("https://pandas.pydata.org/docs/", None),
        "python": ("https://docs.python.org/3/", None),
        "skimage": ("https://scikit-image.org/docs/stable/", None),
        "spatialdata": ("https://spatialdata.scverse.org/en/stable/", None),
    }

html_theme = "sphinx_book_theme"
html_title = "c2lst"
html_static_path: list[str] = []
html_theme_options = {
    "repository_url": "https://github.com/scverse/c2lst",
    "use_repository_button": True,
    "path_to_docs": "docs",
    "navigation_with_keys": False,
    "show_navbar_depth": 1,
    "navbar_start": [],
    "navbar_center": [],
    "navbar_end": [],
    "navbar_persistent": [],
}


def _returns(self: NumpyDocstring, section: str) -> list[str]:
    """Take `Returns` as prose: the type stands in the signature already."""
    lines = self._dedent(self._consume_to_next_section())
    while lines and not lines[-1].strip():
        lines.pop()
    return [":returns:", *("    " + line for line in lines), ""]


NumpyDocstring._parse_returns_section = _returns

ROOMS = {
    "pp": "Preprocessing: `pp`",
    "tl": "Tools: `tl`",
    "pl": "Plots: `pl`",
    "models": "Models: `models`",
    "datasets": "Datasets: `datasets`",
    "io": "Reading and writing: `io`",
    "metrics": "Measures: `metrics`",
}


def api_pages() -> None:
    """One page a room, listing what its `__all__` names: a new function is documented without a word here."""
    target = HERE / "generated"
    shutil.rmtree(target, ignore_errors=True)  # what is no longer named must not stay
    target.mkdir()
    for room, title in ROOMS.items():
        module = import_module(f"c2lst.{room}")
        names = "\n".join(f"   {name}" for name in sorted(getattr(module, "__all__", ())))
        first = (module.__doc__ or "").strip()
        listed = (
            f"```{{eval-rst}}\n.. currentmodule:: c2lst.{room}\n\n.. autosummary::\n   :toctree: api\n\n{names}\n```\n"
            if names
            else "Nothing yet.\n"
        )
        (target / f"{room}.md").write_text(f"# {title}\n\n{first}\n\n{listed}", "utf8")


def tutorials() -> None:
    """Copy the executed notebooks beside the documentation and list them."""
    target = HERE / "tutorials"
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir()
    found = sorted((HERE.parent / "tutorials").glob("*.ipynb"))
    for path in found:
        json.loads(path.read_text("utf8"))  # a broken notebook should stop the build here, with its name
        shutil.copy(path, target)
    listed = "\n".join(path.stem for path in found)
    body = f"```{{toctree}}\n:maxdepth: 1\n\n{listed}\n```\n" if found else "There is none in this version.\n"
    text = "# Tutorials\n\nNotebooks, executed on simulated tissue: they run offline.\n\n" + body
    (target / "index.md").write_text(text, "utf8")


api_pages()
tutorials()
