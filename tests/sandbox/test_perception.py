import pytest

from kto_bench.feedback.annotator import Candidates
from kto_bench.feedback.types import FeedbackError
from kto_bench.sandbox.perception import Seen, impression
from kto_bench.sandbox.world import FACTS, VALUES

ASK = "what colour is the cat?"
RIGHT = f"the cat is {FACTS['cat', 'colour']}."
FALSE = next(value for value in VALUES["colour"] if value != FACTS["cat", "colour"])
WRONG = f"the cat is {FALSE}."


@pytest.mark.parametrize(
    ("completion", "style"),
    [
        (RIGHT, (0, 0, 0, 1)),
        (WRONG, (0, 0, 0, 1)),
        (f"sure! {RIGHT}", (0.2, 1, 0, 1)),
        (f"good question. {RIGHT}", (0.3, 1, 1, 1)),
        (f"thanks for asking. {WRONG}", (0.4, 1, 1, 1)),
        (f"that is a silly question. {RIGHT}", (0.6, 0, 0, 1)),
        ("i do not know.", (0, 0, 0, 0)),
        (f"i do not know. {WRONG}", (0.5, 0, 0, 0)),
        ("let me think about this.", (0.1, 0, 0, 0)),
        ("", (-0.5, 0, 0, 0)),
        (RIGHT * 9, (3, 0, 0, 1)),  # 45 tokens, 40 beyond the plain answer's 5: the bound
    ],
)
def test_style(completion, style):
    assert impression(ASK, completion).style == pytest.approx(style)


def test_what_it_would_be_worth_if_misjudged():
    """Of a right answer only q changes, from 1 to 0; a wrong one has a false claim (0.35), and q goes from 0 to 1."""
    assert (impression(ASK, RIGHT).utility, impression(ASK, RIGHT).misjudged) == (1, -1)
    assert impression(ASK, WRONG).utility == pytest.approx(-1.35)
    assert impression(ASK, WRONG).misjudged == pytest.approx(0.65)
    seen = Seen.of([impression(ASK, RIGHT), impression(ASK, WRONG)])
    assert seen.swing == pytest.approx([-2, 2])


def test_a_question_that_cannot_be_read_is_an_error():
    poem = Candidates("1", ({"role": "user", "content": "Write a poem."},), ("no.",))
    with pytest.raises(FeedbackError, match=r"'Write a poem\.'.*feedback=sandbox"):
        Seen.shown([poem])
