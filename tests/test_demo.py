from __future__ import annotations

import re

import pytest

import c2lst as c2l
from c2lst import _demo
from c2lst.__main__ import main

HEADINGS = (
    "What was adapted on what",
    "Real and synthetic patches of the same spots",
    "Do synthetic patches lie where real ones do?",
    "Do the patches say what their genes say?",
    "Maps",
    "Does it help, and is it the genes?",
    "Parameters, versions, seed",
)


@pytest.fixture
def small(monkeypatch):
    """The job of the demo, small."""
    fit = c2l.tl.fit_predictor

    def toy(seed):
        sections = {s.attrs["c2lst_section"]: s for s in c2l.datasets.toy_tissue(24, sections=3, seed=seed)}
        *train, test = sections
        return _demo.Job(
            train={n: sections[n] for n in train},
            test={test: sections[test]},
            central=c2l.models.CentralModel.from_pretrained("toy"),
            about="Simulated H&E.",
            caveat="This is simulated tissue.",
            n_synthetic=12,
            adapt={"steps": 2, "validation": 0.0},
            predictors=("ridge",),
        )

    monkeypatch.setattr(_demo, "toy", toy)
    monkeypatch.setattr(_demo, "FRACTION", 0.5)
    monkeypatch.setattr(_demo, "N_TOP", 12)
    monkeypatch.setattr(_demo, "ARMS", ("real", "mixup", "synthetic", "shuffled"))
    # a map is not what is tested here, and compiling UMAP takes half a minute
    monkeypatch.setattr("c2lst.tl._embedding_overlap.joint_umap", lambda x, y, seed: (x[:, :2], y[:, :2]))
    monkeypatch.setattr(c2l.tl, "fit_predictor", lambda *a, **kw: fit(*a, **{"steps": 2} | kw))


def test_report(small, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(c2l.settings, "progress", True)
    out = tmp_path / "report.html"
    main(["demo", "--out", str(out), "--draws", "2", "--quiet"])
    assert capsys.readouterr().out.strip() == f"Report: {out.resolve()}"
    text = out.read_text()
    for heading in HEADINGS:
        assert heading in text, heading
    assert "This is simulated tissue." in text and "Seed 0" in text
    assert "24 of 48" in text or "of 48 spots" in text
    # one file: it loads nothing
    assert not re.search(r"""(?:src|href)\s*=\s*["'](?!data:|#)""", text)
    assert not re.search(r"@import|url\((?!['\"]?data:)", text) and "<script" not in text
    assert text.count("data:image/png;base64,") >= 7
    assert len(text) < 10e6
    for figure in ("few spots", "all spots", "of the gap closed"):
        assert figure in text


def test_wrong_flags_say_so(capsys):
    for flags, said in (
        (["demo", "--data", "mars"], "invalid choice: 'mars'"),
        (["demo", "--path", "x"], "--path belongs to --data her2st"),
        (["demo", "--seed", "x"], "invalid int value"),
        (["dem"], "invalid choice"),
        ([], "required"),
    ):
        with pytest.raises(SystemExit) as error:
            main(flags)
        assert error.value.code == 2
        assert said in capsys.readouterr().err


def test_version_and_help(capsys):
    with pytest.raises(SystemExit) as error:
        main(["--version"])
    assert error.value.code == 0 and capsys.readouterr().out.strip() == f"c2lst {c2l.__version__}"
    with pytest.raises(SystemExit):
        main(["demo", "--help"])
    said = capsys.readouterr().out
    assert "--data" in said and "--out" in said and "her2st" in said


def test_missing_sections_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="C2") as error:
        main(["demo", "--data", "her2st", "--path", str(tmp_path), "--out", str(tmp_path / "r.html"), "--quiet"])
    assert "jpg" in str(error.value) or "tsv" in str(error.value)
    assert not (tmp_path / "r.html").exists()


@pytest.mark.parametrize(
    ("more", "said"),
    [(["--out", "no/such/place/report.html"], "there is no directory"), (["--draws", "0"], "at least 1")],
)
def test_what_cannot_end_well_does_not_begin(monkeypatch, capsys, more, said):
    monkeypatch.setattr(_demo, "run", lambda *a, **kw: pytest.fail("it began"))
    with pytest.raises(SystemExit):
        main(["demo", *more])
    assert said in capsys.readouterr().err


def test_what_would_fail_at_the_end_fails_at_the_start(tmp_path, capsys):
    for more, said in (
        (["--out", str(tmp_path)], "is a directory; name a file"),
        (["--seed", "-1"], "--seed must be at least 0"),
        (["--data", "her2st", "--path", str(tmp_path / "none")], "--path: there is no directory"),
    ):
        with pytest.raises(SystemExit):
            main(["demo", "--out", str(tmp_path / "r.html"), *more])
        assert said in capsys.readouterr().err
