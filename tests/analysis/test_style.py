"""The look: stable, told apart, and written to the same bytes."""

from itertools import combinations

import matplotlib as mpl
import numpy as np
import pytest
from matplotlib.lines import Line2D
from places import ROOT

from analysis import style

LOSSES = ["none", "sft", "dpo", "kto", "simpo"]
FAMILY = [path.stem for path in sorted((ROOT / "conf" / "loss").glob("*.yaml"))]


def test_known_losses_have_colours_of_their_own():
    assert len({style.colour(loss) for loss in LOSSES}) == len(LOSSES)


def test_every_loss_of_the_suite_has_a_name_and_a_look_of_its_own():
    assert {name.partition(" ")[0] for name in style.LOSS_NAMES} <= set(FAMILY)
    assert set(style.LOSS_NAMES) == set(style.LOSS_LOOKS)
    looks = {(style.colour(loss), style.loss_line(loss)) for loss in style.LOSS_LOOKS}
    assert len(looks) == len({style.loss_name(loss) for loss in style.LOSS_NAMES}) == len(style.LOSS_NAMES) == 27


def test_colours_are_as_published():
    """Written out, so that a change of the assignment, which would recolour published figures, is noticed."""
    published = {"none": "#6b6b6b", "sft": "#E69F00", "dpo": "#0072B2", "kto": "#D55E00", "simpo": "#009E73"}
    assert {loss: style.colour(loss) for loss in LOSSES} == published


def as_seen(colour, kind):
    """Linear RGB of a colour for a reader without the cones of one kind (Machado, Oliveira and Fernandes 2009)."""
    matrix = {
        "protanopia": [
            [0.152286, 1.052583, -0.204868],
            [0.114503, 0.786281, 0.099216],
            [-0.003882, -0.048116, 1.051998],
        ],
        "deuteranopia": [
            [0.367322, 0.860646, -0.227968],
            [0.280085, 0.672501, 0.047413],
            [-0.011820, 0.042940, 0.968881],
        ],
    }[kind]
    shown = np.array(mpl.colors.to_rgb(colour))
    linear = np.where(shown <= 0.04045, shown / 12.92, ((shown + 0.055) / 1.055) ** 2.4)
    return np.clip(np.array(matrix) @ linear, 0, 1)


@pytest.mark.parametrize("kind", ["protanopia", "deuteranopia"])
def test_the_main_losses_are_told_apart_without_red_or_green(kind):
    main = ["slic", "dpo", "kto", "ppo kl_weight=0", "simpo"]
    seen = {loss: as_seen(style.colour(loss), kind) for loss in main}
    for first, second in combinations(main, 2):
        assert np.linalg.norm(seen[first] - seen[second]) > 0.1, (first, second)


def luminance(colour):
    """Relative luminance (WCAG 2): what is left of a colour in grey print."""
    shown = np.array(mpl.colors.to_rgb(colour))
    linear = np.where(shown <= 0.04045, shown / 12.92, ((shown + 0.055) / 1.055) ** 2.4)
    return float(linear @ [0.2126, 0.7152, 0.0722])


def test_every_colour_stands_out_from_paper():
    for colour in {look[0] for look in style.LOSS_LOOKS.values()}:
        assert 1.05 / (luminance(colour) + 0.05) > 2, colour


def test_in_grey_print_losses_of_like_luminance_differ_by_line():
    """Hue is lost: two losses of the same grey must not both be drawn by the same line and named by it alone."""
    main = ["sft", "dpo", "kto", "simpo"]
    close = [
        pair
        for pair in combinations(main, 2)
        if abs(luminance(style.colour(pair[0])) - luminance(style.colour(pair[1]))) < 0.02
    ]
    assert close == [], "told apart in grey by more than their names"


def test_an_unknown_loss_keeps_its_colour_and_takes_no_known_one():
    assert {name: style.colour(name) for name in ("my_loss", "another")} == {"my_loss": "#AA4499", "another": "#AA4499"}
    taken = {colour for colour, _ in style.LOSS_LOOKS.values()}
    assert not taken & {style.colour(f"loss {i}") for i in range(50)}
    assert len({style.colour(f"loss {i}") for i in range(50)}) == len(style.OTHER_COLOURS)
    assert len({str(style.loss_line(f"loss {i}")) for i in range(50)}) == len(style.OTHER_LOSS_LINES)


def test_natural_order():
    assert sorted(["zeta", "simpo", "kto beta=0.3", "dpo", "alpha", "none", "kto beta=0.1", "sft"],
    key=style.loss_order) == [
        "none", "sft", "dpo", "kto beta=0.1", "kto beta=0.3", "simpo", "alpha", "zeta",
    ]  # fmt: skip
    assert sorted(["warm", "sft", "base"], key=style.start_order) == ["base", "sft", "warm"]


@pytest.mark.parametrize(
    ("method", "name"),
    [
        ("none", "none (start only)"),
        ("kto", "KTO"),
        ("ppo kl_weight=0", "PPO-Clip"),
        ("kto beta=0.1", "KTO beta=0.1"),
        ("my_loss", "my_loss"),
    ],
)
def test_names(method, name):
    assert style.loss_name(method) == name


def test_long_labels_keep_their_beginning_and_end():
    assert style.short("x" * 30) == "x" * 30
    assert style.short("abcdefghij", 5) == "ab…ij"
    assert style.short("KTO beta=0.1 learning_rate=0.0005 epochs=2").startswith("KTO beta=0.1")
    assert len(style.short("x" * 90)) == style.MAX_LABELS["page"]


def test_long_labels_are_folded_between_words_or_after_hyphens_before_they_are_cut():
    assert style.folded("MMLU, 0-shot", 16) == "MMLU, 0-shot"
    assert style.folded("HumanEval, 0-shot", 16) == "HumanEval,\n0-shot"
    assert style.folded("Mistral-7B-Instruct", 16) == "Mistral-7B-\nInstruct"
    assert style.folded("Llama-3-Instruct 8B", 16) == "Llama-3-Instruct\n8B"
    assert style.folded("sandbox_arithmetic (acc)", 16) == "sandbox_\narithmetic (acc)"
    assert style.folded("x" * 20, 16) == style.short("x" * 20, 16)
    assert style.folded("one two three four five", 8) == style.short("one two three four five", 8)


def test_a_figure_grows_with_a_legend_of_many_lines():
    with style.at("column"), style.settings():
        heights = []
        for losses in (LOSSES[:2], FAMILY):
            figure = style.figure(2)
            style.legend(figure, [Line2D([], [], label=loss) for loss in losses])
            heights.append(figure.get_size_inches()[1])
    assert heights[0] == 2
    assert heights[1] > 3


def drawing():
    with style.settings("column"):
        figure = style.figure(2, "column")
        axis = figure.subplots()
        axis.plot([0, 1], marker=style.marker("sft"))
        axis.set_ylabel("a label so long that it could only be clipped " * 2)
    return figure


def test_saving_twice_gives_the_same_bytes_without_a_time(tmp_path):
    first, second = (style.save(drawing(), tmp_path / name, "x") for name in "ab")
    for left, right in zip(first, second, strict=True):
        assert left.read_bytes() == right.read_bytes()
    assert b"CreationDate" not in first[1].read_bytes()


def test_no_label_is_clipped(tmp_path):
    png, _ = style.save(drawing(), tmp_path, "x")
    image = mpl.image.imread(png)[..., :3]
    for edge in (image[0], image[-1], image[:, 0], image[:, -1]):
        assert (edge == 1).all()


def test_settings_do_not_leak():
    before = mpl.rcParams["axes.spines.top"]
    with style.settings():
        assert mpl.rcParams["axes.spines.top"] is False
    assert mpl.rcParams["axes.spines.top"] == before
