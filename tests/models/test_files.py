from __future__ import annotations

import pytest

from c2lst.models._files import PICKLES, check_directory, new_directory, read_json, read_tensors, write_json


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
        (made / "x").write_text("old")
    with pytest.raises(KeyboardInterrupt), new_directory(target, overwrite=True):
        raise KeyboardInterrupt
    assert (target / "x").read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["a"]


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
