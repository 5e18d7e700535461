"""The look: stable, told apart, and written to the same bytes."""

import matplotlib as mpl
import pytest

from analysis import style

LOSSES = ["none", "sft", "dpo", "kto", "simpo"]


def test_known_losses_have_colours_of_their_own():
    assert len({style.colour(loss) for loss in LOSSES}) == len(LOSSES)


def test_an_unknown_loss_keeps_its_colour_and_takes_no_known_one():
    # Written out, so that a change of the assignment, which would recolour published figures, is noticed.
    assert {name: style.colour(name) for name in ("orpo", "my_loss")} == {"orpo": "#332288", "my_loss": "#AA4499"}
    taken = set(style.LOSS_COLOURS.values())
    assert not taken & {style.colour(f"loss {i}") for i in range(50)}
    assert len({style.colour(f"loss {i}") for i in range(50)}) == len(style.OTHER_COLOURS)


def test_natural_order():
    assert sorted(["zeta", "simpo", "kto beta=0.3", "dpo", "alpha", "none", "kto beta=0.1", "sft"],
    key=style.loss_order) == [
        "none", "sft", "dpo", "kto beta=0.1", "kto beta=0.3", "simpo", "alpha", "zeta",
    ]  # fmt: skip
    assert sorted(["warm", "sft", "base"], key=style.start_order) == ["base", "sft", "warm"]


@pytest.mark.parametrize(
    ("method", "name"),
    [("none", "none (start only)"), ("kto", "KTO"), ("kto beta=0.1", "KTO beta=0.1"), ("my_loss", "my_loss")],
)
def test_names(method, name):
    assert style.loss_name(method) == name


def test_long_labels_keep_their_beginning_and_end():
    assert style.short("x" * 30) == "x" * 30
    assert style.short("abcdefghij", 5) == "ab…ij"
    assert style.short("KTO beta=0.1 learning_rate=0.0005 epochs=2").startswith("KTO beta=0.1")
    assert len(style.short("x" * 90)) == style.MAX_LABEL


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
