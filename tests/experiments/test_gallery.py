"""The gallery: the page is what its table says, every image is there, and every analysis has one."""

from experiments.gallery import FIGURES, IMAGES, PAGE, ROOT, page
from softprompt.analysis.analyses import ANALYSES

MOST_BYTES = 1_500_000


def test_the_page_is_made_from_the_table():
    assert (ROOT / PAGE).read_text() == page()


def test_every_figure_has_its_image_and_none_is_left_over():
    images = {path.name for path in (ROOT / IMAGES).iterdir()}
    assert images == {f"{shown.name}.png" for shown in FIGURES}
    assert sum((ROOT / IMAGES / name).stat().st_size for name in images) < MOST_BYTES


def test_every_analysis_is_shown():
    assert {shown.name for shown in FIGURES} >= ANALYSES.keys()
