from __future__ import annotations

import subprocess
import sys


def test_import_is_light():
    code = "import sys, c2lst.metrics; print([m for m in ('torch', 'anndata', 'spatialdata') if m in sys.modules])"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"


def test_everything_named_is_there():
    import c2lst.metrics as m

    assert sorted(m.__all__) == m.__all__
    assert all(callable(getattr(m, name)) for name in m.__all__)
