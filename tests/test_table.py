"""Rows of a set as lists, one a column: they do what a Dataset of `datasets` does."""

import gc

import pytest
from datasets import Dataset
from softprompt.data import Rows
from softprompt.data._table import uncollected

COLUMNS = {"text": ["a", "b", "c", "d"], "answer": [["x"], ["y", "z"], ["x"], []], "label": [0, 1, 1, 0]}


@pytest.mark.parametrize("indices", [[], [2], [3, 0, 3], range(4), range(1, 3)])
def test_some_rows_are_those_of_a_dataset_in_the_order_asked_for(indices):
    ours, theirs = Rows(COLUMNS).select(indices), Dataset.from_dict(COLUMNS).select(indices)
    assert len(ours) == len(theirs)
    assert ours.to_list() == list(ours) == theirs.to_list()
    assert ours.select([0] if len(ours) else []).to_list() == theirs.to_list()[:1]


def test_a_row_is_a_dict_and_a_place_that_is_not_there_is_an_error():
    assert Rows(COLUMNS)[1] == Rows(COLUMNS)[-3] == {"text": "b", "answer": ["y", "z"], "label": 1}
    with pytest.raises(IndexError):
        Rows(COLUMNS)[4]


def test_no_columns_are_no_rows():
    assert (len(Rows({})), Rows({}).to_list()) == (0, [])


@pytest.mark.parametrize("was_enabled", [True, False])
def test_garbage_collection_is_off_within_and_as_before_behind_also_after_an_error(was_enabled):
    (gc.enable if was_enabled else gc.disable)()
    try:
        seen = []
        with pytest.raises(ZeroDivisionError), uncollected():
            seen.append(1 / gc.isenabled())
        assert not seen
        assert gc.isenabled() == was_enabled
    finally:
        gc.enable()
