"""Geometry of prompts against numpy; figures hold what they were given and nothing is left open."""

import json
import math
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from softprompt.analysis import cosines, distinct, mean_cosine, norm_curve
from softprompt.errors import BadInput, UnknownName


@pytest.fixture
def vectors():
    return torch.randn(5, 7, generator=torch.Generator().manual_seed(0)) * torch.tensor([[0.01], [1], [1], [3], [1e4]])


class TestGeometry:
    def test_cosines_are_those_of_numpy(self, vectors):
        a = vectors.double().numpy()
        expected = a @ a.T / np.outer(np.linalg.norm(a, axis=1), np.linalg.norm(a, axis=1))
        np.testing.assert_allclose(cosines(vectors).numpy(), expected, rtol=0, atol=1e-12)

    def test_cosines_of_a_vector_with_itself_and_its_opposite_are_never_beyond_one(self, vectors):
        found = cosines(torch.cat([vectors, -vectors]))
        assert found.abs().max() <= 1
        torch.testing.assert_close(found.diagonal(5), torch.full((5,), -1.0, dtype=torch.float64), rtol=0, atol=1e-12)

    def test_a_zero_vector_has_no_direction(self):
        found = cosines(torch.tensor([[1.0, 0.0], [0.0, 0.0]]))
        assert found[0, 0] == 1
        assert found[1].isnan().all()
        assert found[:, 1].isnan().all()

    def test_mean_cosine_leaves_the_diagonal_out_and_counts_repetitions_once(self, vectors):
        a = vectors.double().numpy()
        a /= np.linalg.norm(a, axis=1, keepdims=True)
        expected = (a @ a.T)[np.triu_indices(5, 1)].mean()
        assert mean_cosine(vectors) == pytest.approx(expected, abs=1e-12)
        assert mean_cosine(vectors.repeat(3, 1)) == pytest.approx(expected, abs=1e-12)

    def test_one_vector_however_often_repeated_has_no_pair(self, vectors):
        assert mean_cosine(vectors[:1].repeat(10, 1)) is None
        assert mean_cosine(vectors[:0]) is None

    def test_distinct_keeps_first_places_in_order(self, vectors):
        assert torch.equal(distinct(vectors[[3, 1, 3, 0, 1]]), vectors[[3, 1, 0]])
        assert distinct(vectors[:0]).shape == (0, 7)


class TestNormCurve:
    def test_it_is_what_the_steps_recorded(self, tmp_path):
        rows = [
            {"step": 1, "loss": 2.0, "prompt_norm": 3.0, "token_norms": 0.5},
            {"step": 2, "loss": 1.0, "prompt_norm": 6.0, "token_norms": 1.0},
            {"step": 2, "split": "validation", "score": 0.5},
            {"step": 3, "loss": 1.0, "prompt_norm": 9.0, "token_norms": 1.5},
        ]
        (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        found = norm_curve(tmp_path)
        assert (found.steps, found.raw, found.token_norms) == ((1, 2, 3), (3.0, 6.0, 9.0), (0.5, 1.0, 1.5))

    def test_a_run_from_before_token_norms_has_none(self, tmp_path):
        (tmp_path / "metrics.jsonl").write_text('{"step": 1, "loss": 2.0, "prompt_norm": 3.0}\n')
        assert norm_curve(tmp_path).token_norms == (None,)

    def test_a_folder_without_a_record_or_a_norm_is_refused(self, tmp_path):
        with pytest.raises(BadInput, match=r"metrics\.jsonl is missing; give"):
            norm_curve(tmp_path)
        (tmp_path / "metrics.jsonl").write_text('{"step": 1, "loss": 2.0}\n')
        with pytest.raises(BadInput, match="records no prompt norm; give"):
            norm_curve(tmp_path)


class TestFigures:
    @pytest.fixture
    def curves(self, plots):
        lines = {"scaled": [((1, 2, 3), (0.5, 2.0, 4.0)), ((1, 2), (0.6, 3.0))], "ept-star": [((1, 2), (0.0, 50.0))]}
        return plots.norm_figure(lines, band=(1.0, 10.0), title="lab/color")

    def test_norms_stand_at_their_steps_on_a_log_scale_with_the_band_shaded(self, curves):
        (axes,) = curves.axes
        assert axes.get_yscale() == "log"
        first, second, other = axes.get_lines()
        np.testing.assert_array_equal(first.get_xydata(), [[1, 0.5], [2, 2.0], [3, 4.0]])
        assert first.get_color() == second.get_color() != other.get_color()
        # What has no logarithm is a gap.
        np.testing.assert_array_equal(other.get_ydata(), [math.nan, 50.0])
        (band,) = axes.patches
        assert (band.get_y(), band.get_y() + band.get_height()) == (1, 10)
        assert [text.get_text() for text in axes.get_legend().get_texts()] == ["band 1-10", "scaled", "ept-star"]

    def test_cosines_before_and_after_share_one_scale(self, plots, vectors):
        before, after = cosines(vectors), cosines(vectors.abs())
        figure = plots.cosine_figure({"residual": (before.tolist(), after.tolist())})
        images = [axes.get_images()[0] for axes in figure.axes if axes.get_images()]
        assert [axes.get_title() for axes in figure.axes][:2] == ["residual, step 0", "residual, trained"]
        assert {image.get_clim() for image in images} == {(-1, 1)}
        np.testing.assert_array_equal(images[0].get_array(), before.numpy())
        np.testing.assert_array_equal(images[1].get_array(), after.numpy())

    def test_every_score_is_a_dot_in_its_column_and_the_same_seed_at_the_same_place(self, plots):
        scores = {"none\ninit": [0.5, 0.9, 0.7], "ptp": [0.6, None, 0.8], "none\ndraw": [0.1, 0.2, 0.3]}
        figure = plots.strip_figure(scores, means={"ptp": (0.7, 0.6, 0.8)}, chance=0.55, title="lab/color")
        (axes,) = figure.axes
        dots = [found for found in axes.collections if hasattr(found, "get_sizes")]
        columns = [np.asarray(found.get_offsets()) for found in dots]
        for column, (found, expected) in enumerate(zip(columns, scores.values(), strict=True)):
            np.testing.assert_array_equal(found[:, 1], np.array(expected, dtype=float))
            np.testing.assert_allclose(found[:, 0] - column, columns[0][:, 0])
            assert (abs(found[:, 0] - column) <= 0.25).all()
        assert len(set(columns[0][:, 0])) == 3
        names = [label.get_text() for label in axes.get_xticklabels()]
        assert names == ["none\ninit", "ptp\n(1 without a score)", "none\ndraw"]
        first, other, last = (found.get_facecolor().tolist() for found in dots)
        assert first == last != other
        mean, interval = (lines.get_segments()[0] for lines in axes.collections if lines not in dots)
        assert mean[:, 1].tolist() == [0.7, 0.7]
        assert interval[:, 1].tolist() == [0.6, 0.8]
        (chance,) = axes.get_lines()
        assert set(chance.get_ydata()) == {0.55}

    @pytest.mark.parametrize(("name", "start"), [("a.png", b"\x89PNG"), ("a.SVG", b"<?xml")])
    def test_a_file_is_what_its_name_says_and_the_same_each_time(self, plots, curves, name, start):
        found = plots.image(curves, name)
        assert found.startswith(start)
        assert plots.image(curves, name) == found

    def test_another_ending_is_refused(self, plots, curves):
        with pytest.raises(UnknownName, match=r"format of a figure 'pgn'. Did you mean 'png'"):
            plots.image(curves, "a.pgn")

    def test_no_figure_is_left_open_and_no_setting_changed(self, plots, curves):
        import matplotlib

        before = dict(matplotlib.rcParams)
        plots.image(curves, "a.svg")
        assert dict(matplotlib.rcParams) == before
        assert not re.search(r"(import|\.) ?pyplot", Path(plots.__file__).read_text())
