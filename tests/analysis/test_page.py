"""What keeps a page small: images and samples are limited, whatever the sweep."""

import base64
import io

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from analysis import page, samples
from analysis.registry import Sheet


@pytest.mark.parametrize("size", [(40, 30), (500, 700)])
def test_an_image_within_a_page_is_limited_and_still_an_image(tmp_path, size):
    noise = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "noise.png")
    head, _, content = page.embedded(tmp_path / "noise.png").partition(",")
    written = base64.b64decode(content)
    assert head == "data:image/png;base64"
    assert len(written) <= page.MAX_IMAGE_BYTES
    with Image.open(io.BytesIO(written)) as image:
        assert image.width / image.height == pytest.approx(size[0] / size[1], rel=0.02)


def test_white_paper_stays_white(tmp_path):
    drawn = np.full((60, 80, 3), 255, dtype=np.uint8)
    drawn[20:30, 10:60] = (213, 94, 0)
    Image.fromarray(drawn).save(tmp_path / "x.png")
    written = base64.b64decode(page.embedded(tmp_path / "x.png").partition(",")[2])
    with Image.open(io.BytesIO(written)) as image:
        assert {tuple(pixel) for pixel in np.asarray(image.convert("RGB")).reshape(-1, 3).tolist()} == {
            (255, 255, 255),
            (213, 94, 0),
        }


def test_samples_of_many_cells_are_of_fewer_prompts(sweep, monkeypatch):
    whole = samples.samples(sweep)
    monkeypatch.setattr(samples, "PAGE_CHARACTERS", 40_000)
    fewer = samples.samples(sweep)
    assert samples.MIN_PROMPTS <= len(fewer) < len(whole)
    assert fewer == whole[: len(fewer)]
    assert sum(map(samples._size, fewer)) <= 40_000


def test_a_page_has_the_first_rows_of_a_long_table_and_says_where_all_are(tmp_path):
    numbers = pd.DataFrame({"a": range(page.MAX_ROWS + 1)})
    shown = page.table("long", "Long", lambda: Sheet(numbers, numbers.astype(str), "All."), tmp_path, print)
    assert len(shown.rows) == page.MAX_ROWS
    assert f"of {page.MAX_ROWS + 1:,} rows" in shown.left_out
    (written,) = tmp_path.rglob("long.csv")
    assert len(pd.read_csv(written)) == page.MAX_ROWS + 1
