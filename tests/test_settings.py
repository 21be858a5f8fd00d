from __future__ import annotations

from pathlib import Path

import pytest

from c2lst._docs import SHARED, doc
from c2lst._settings import Settings


def test_settings_refuse_what_they_do_not_have():
    made = Settings()
    made.cache_dir = "somewhere"
    assert made.cache_dir == Path("somewhere")
    with pytest.raises(AttributeError, match="progress"):
        made.progres = False


def test_shared_text_is_filled_in_at_its_own_indentation():
    @doc
    def function():
        """One line.

        Parameters
        ----------
        {seed}
        {not_shared}
        """

    assert SHARED["seed"] in function.__doc__
    assert "{not_shared}" in function.__doc__
