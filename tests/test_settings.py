from __future__ import annotations

import subprocess
import sys
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


def test_a_home_directory_is_found():
    made = Settings()
    made.cache_dir = "~/somewhere"
    assert made.cache_dir == Path.home() / "somewhere"


def test_warnings_are_heard_where_nobody_set_up_logging():
    code = "import c2lst; from c2lst._logging import logger; logger.warning('heard'); logger.info('not')"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert said.stderr.strip() == "heard"
