from __future__ import annotations

import pytest

from c2lst.models._files import (
    PICKLES,
    check_directory,
    is_plain,
    new_directory,
    read_json,
    read_tensors,
    write_json,
    write_tensors,
)


def test_a_new_directory_is_whole_or_absent(tmp_path):
    target = tmp_path / "a" / "b"
    with pytest.raises(RuntimeError, match="power cut"), new_directory(target) as made:
        (made / "x").write_text("half")
        raise RuntimeError("power cut")
    assert not target.exists()
    assert list(target.parent.iterdir()) == []
    with new_directory(target) as made:
        (made / "x").write_text("whole")
    assert (target / "x").read_text() == "whole"
    assert [p.name for p in target.parent.iterdir()] == ["b"]


def test_a_failed_overwrite_leaves_the_old_one(tmp_path):
    target = tmp_path / "a"
    with new_directory(target) as made:
        (made / "local.json").write_text("old")
    with pytest.raises(KeyboardInterrupt), new_directory(target, overwrite=True):
        raise KeyboardInterrupt
    assert (target / "local.json").read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["a"]
    with new_directory(target, overwrite=True) as made:
        (made / "local.json").write_text("new")
    assert (target / "local.json").read_text() == "new"
    assert [p.name for p in tmp_path.iterdir()] == ["a"]


def test_only_a_model_is_overwritten(tmp_path, monkeypatch):
    target = tmp_path / "project"
    target.mkdir()
    (target / "thesis.txt").write_text("mine")
    with pytest.raises(FileExistsError, match="is no model"), new_directory(target, overwrite=True):
        pass
    (tmp_path / "file").write_text("mine")
    with pytest.raises(FileExistsError, match="is no model"), new_directory(tmp_path / "file", overwrite=True):
        pass
    assert (target / "thesis.txt").read_text() == (tmp_path / "file").read_text() == "mine"
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    for place in (".", ".."):
        with pytest.raises(FileExistsError), new_directory(place, overwrite=True):
            pass
    assert (target / "thesis.txt").is_file()


def test_a_link_to_a_model_stays_a_link(tmp_path):
    with new_directory(tmp_path / "a") as made:
        (made / "local.json").write_text("old")
    (tmp_path / "link").symlink_to(tmp_path / "a")
    with new_directory(tmp_path / "link", overwrite=True) as made:
        (made / "local.json").write_text("new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "a" / "local.json").read_text() == "new"


def test_a_file_in_the_way(tmp_path):
    (tmp_path / "a").write_text("mine")
    with pytest.raises(FileExistsError, match="exists already"), new_directory(tmp_path / "a"):
        pass
    assert (tmp_path / "a").read_text() == "mine"


@pytest.mark.parametrize("suffix", sorted(PICKLES) + [".PKL"])
def test_pickles_are_refused_wherever_they_lie(tmp_path, suffix):
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / f"x{suffix}").write_bytes(b"")
    with pytest.raises(ValueError, match="pickles run code when opened"):
        check_directory(tmp_path)


def test_what_is_missing_and_what_is_there(tmp_path):
    (tmp_path / "here.json").write_text("{}")
    with pytest.raises(ValueError, match=r"lacks \['there\.json'\]; it holds \['here\.json'\]"):
        check_directory(tmp_path, "here.json", "there.json")
    with pytest.raises(ValueError, match="is a file; a model is a directory"):
        check_directory(tmp_path / "here.json")


@pytest.mark.parametrize(
    ("text", "match"),
    [(b"{", "is not JSON"), (b"\xff\xfe", "is not JSON"), (b"3", "not a int"), (b"{}", r"lacks the keys \['a'\]")],
)
def test_json_is_read_strictly(tmp_path, text, match):
    path = tmp_path / "x.json"
    path.write_bytes(text)
    with pytest.raises(ValueError, match=match):
        read_json(path, "a")


def test_json_is_for_people_too(tmp_path):
    write_json(tmp_path / "x.json", {"b": 1, "a": tmp_path})
    text = (tmp_path / "x.json").read_text()
    assert text.index('"a"') < text.index('"b"')
    assert text.endswith("}\n")
    assert read_json(tmp_path / "x.json", "a")["b"] == 1


def test_no_tensors(tmp_path):
    (tmp_path / "x.safetensors").write_bytes(b"nothing of the kind")
    for name in ("x.safetensors", "absent.safetensors"):
        with pytest.raises(ValueError, match="not a whole safetensors file"):
            read_tensors(tmp_path / name)


def test_numbers_that_are_none_are_refused(tmp_path):
    import torch

    write_tensors(tmp_path / "x.safetensors", {"a": torch.ones(3), "b": torch.tensor([1.0, float("nan")])})
    with pytest.raises(ValueError, match=r"NaN or infinite numbers in \['b'\]"):
        read_tensors(tmp_path / "x.safetensors")


@pytest.mark.parametrize("name", ["..", ".", "", "a/b", "/a"])
def test_paths_are_no_plain_names(name):
    assert not is_plain(name)
    assert is_plain("part-1.safetensors")
