"""What the two layouts hand to a decoder."""

from __future__ import annotations

import numpy as np
import torch

from kto_bench.training.layout import MAX_PADDING, Layout, packed, padded

PROMPTS = [[1, 5, 9], [1, 6], [4]]
COMPLETIONS = [[10, 2], [12, 13, 14, 2], [7]]
CPU = torch.device("cpu")


def predictions(layout: Layout) -> dict[tuple[int, int], tuple[int, int]]:
    """(row, column) of the result: the input token at the selected position, and the token it has to predict."""
    ids = torch.cat([call.inputs["input_ids"].flatten()[call.selected] for call in layout.calls])
    places = zip(layout.rows.tolist(), layout.columns.tolist(), strict=True)
    return dict(zip(places, zip(ids.tolist(), layout.targets.tolist(), strict=True), strict=True))


EXPECTED = {
    (0, 0): (9, 10),
    (0, 1): (10, 2),
    (1, 0): (6, 12),
    (1, 1): (12, 13),
    (1, 2): (13, 14),
    (1, 3): (14, 2),
    (2, 0): (4, 7),
}


def test_packed() -> None:
    layout = packed(PROMPTS, COMPLETIONS, CPU)
    (call,) = layout.calls
    assert call.inputs["input_ids"].tolist() == [[1, 5, 9, 10, 1, 6, 12, 13, 14, 4]]  # no last token
    assert call.inputs["position_ids"].tolist() == [[0, 1, 2, 3, 0, 1, 2, 3, 4, 0]]
    assert call.inputs["packing"].lengths == (4, 5, 1)
    assert call.inputs["packing"].bounds.tolist() == [0, 4, 9, 10]
    assert call.inputs["packing"].bounds.dtype == torch.int32
    assert predictions(layout) == EXPECTED
    assert layout.mask.tolist() == [[True, True, False, False], [True] * 4, [True, False, False, False]]
    assert (layout.real, layout.computed) == (10, 10)


def test_padded() -> None:
    layout = padded(PROMPTS, COMPLETIONS, 99, CPU)
    assert [call.inputs["input_ids"].tolist() for call in layout.calls] == [
        [[1, 6, 12, 13, 14]],
        [[1, 5, 9, 10]],
        [[4]],
    ]
    assert predictions(layout) == EXPECTED
    assert (layout.real, layout.computed) == (10, 10)


def test_groups_hold_little_padding_and_every_sequence_once() -> None:
    lengths = np.random.default_rng(0).integers(2, 60, 40)
    prompts, completions = [[row] for row in range(40)], [[row] * int(length) for row, length in enumerate(lengths)]
    layout = padded(prompts, completions, 99, CPU)
    assert 2 < len(layout.calls) < 30
    rows = []
    for call in layout.calls:
        ids, mask = call.inputs["input_ids"], call.inputs["attention_mask"]
        padding = ids == 99
        assert padding.float().mean() <= MAX_PADDING
        assert (mask is None) == (not padding.any())
        if mask is not None:
            assert torch.equal(mask == 0, padding)
        rows += ids[:, 0].tolist()
    assert sorted(rows) == list(range(40))
    assert layout.real == lengths.sum()
    assert layout.computed == sum(call.inputs["input_ids"].numel() for call in layout.calls)
    assert layout.computed > layout.real
