from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData

from c2lst._resolve import sections
from c2lst._subset import subset_mask, subset_masks


def table(n=4, name=None, region=None):
    made = AnnData(np.ones((n, 3), dtype=np.float32), obs=pd.DataFrame(index=[f"s{i}" for i in range(n)]))
    if name:
        made.uns["c2lst_section"] = name
    if region:
        made.uns["spatialdata_attrs"] = {"region": region, "region_key": "region", "instance_key": "id"}
    return made


def names(data, **kwargs):
    return [s.name for s in sections(data, **kwargs)]


def test_names_come_from_the_dict_then_the_section_then_a_unique_region_then_a_number():
    assert names({"a": table(name="x"), "b": table()}) == ["a", "b"]
    assert names([table(name="x"), table(region="r"), table()]) == ["x", "r", "section2"]
    assert names([table(region="r"), table(region="r")]) == ["section0", "section1"]
    assert names([table(region=["r", "q"])]) == ["section0"]


def test_two_sections_of_one_name_are_refused():
    with pytest.raises(ValueError, match="one name.*dict"):
        sections([table(name="x"), table(name="x")])


def test_a_concatenated_table_is_split_and_written_through():
    whole = table(6)
    whole.obs["library"] = ["b", "a", "b", "a", "b", "a"]
    a, b = sections(whole, library_key="library")
    assert (a.name, b.name) == ("a", "b")
    assert list(a.table.obs_names) == ["s1", "s3", "s5"]
    b.write_obs("flag", np.array([True, False, True]))
    assert whole.obs["flag"].isna().sum() == 3
    a.write_obs("flag", np.array([False, False, True]))
    assert whole.obs["flag"].tolist() == [True, False, False, False, True, True]
    assert whole.obs["flag"].dtype == bool
    a.write_obsm("x", np.full((3, 2), 1.0, dtype=np.float32))
    b.write_obsm("x", np.full((3, 2), 2.0, dtype=np.float32))
    assert whole.obsm["x"][:, 0].tolist() == [2, 1, 2, 1, 2, 1]


@pytest.mark.parametrize(
    ("data", "error", "words"),
    [
        ([], ValueError, "no section"),
        (3, TypeError, "SpatialData or an AnnData"),
        ([table(0)], ValueError, "no spots"),
    ],
)
def test_what_is_no_section_is_refused(data, error, words):
    with pytest.raises(error, match=words):
        sections(data)


def test_subset_is_a_boolean_or_the_value_train():
    made = table(4)
    made.obs["yes"] = [True, False, True, False]
    made.obs["split"] = pd.Categorical(["train", "gap", "test", "train"])
    made.obs["file"] = pd.Categorical(["True", "False", "True", "True"])
    assert subset_mask(made, None).all()
    assert subset_mask(made, "yes").tolist() == [True, False, True, False]
    assert subset_mask(made, "split").tolist() == [True, False, False, True]
    assert subset_mask(made, "file").tolist() == [True, False, True, True]
    with pytest.raises(KeyError, match="yes"):
        subset_mask(made, "no")
    made.obs["holes"] = [True, None, True, False]
    with pytest.raises(ValueError, match="missing values"):
        subset_mask(made, "holes")


def test_a_whole_section_may_lie_outside_a_subset_but_not_all():
    a, b = table(2, name="a"), table(2, name="b")
    a.obs["use"], b.obs["use"] = [True, True], [False, False]
    assert [m.sum() for m in subset_masks(sections([a, b]), "use")] == [2, 0]
    a.obs["use"] = False
    with pytest.raises(ValueError, match="selects no spot"):
        subset_masks(sections([a, b]), "use")


def test_a_spot_without_a_section_is_refused(toy):
    from c2lst._resolve import sections

    table = toy["table"].copy()
    table.obs["slide"] = pd.Categorical(["a"] * 10 + [None] * (table.n_obs - 10))
    with pytest.raises(ValueError, match=r"obs\['slide'\] has missing values"):
        sections(table, library_key="slide")
