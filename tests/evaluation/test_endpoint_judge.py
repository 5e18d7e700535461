"""Judging through a real OpenAI-compatible server on this machine, by the real client."""

from __future__ import annotations

import itertools
import json
import multiprocessing
import os
import re
import signal
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from judge_server import JudgeServer, Reply, error

from kto_bench.component import ConfigError, build
from kto_bench.evaluation.errors import EvaluationError
from kto_bench.evaluation.judges import endpoint
from kto_bench.evaluation.judges.answers import Answer
from kto_bench.evaluation.judges.endpoint_judge import EndpointJudge
from kto_bench.evaluation.judges.head_to_head import judge as judge_rows
from kto_bench.evaluation.judges.judge import Judge
from kto_bench.evaluation.judges.wording import Wording
from kto_bench.lines import read_lines
from kto_bench.store import saved_beside

KEY = "sk-the-secret-key"
WORDING = {
    "_target_": "kto_bench.evaluation.judges.wording.Wording",
    "prompt_template": "Q: {instruction}\nA: {output_1}\nB: {output_2}\nWhich, 1 or 2?",
}


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JUDGE_KEY", KEY)
    monkeypatch.setenv("OPENAI_API_KEY", "another-key")
    monkeypatch.setattr(endpoint, "FIRST_WAIT_SECONDS", 0.01)


def judge_at(server: JudgeServer | str, **fields: Any) -> EndpointJudge:
    node = {
        "_target_": "kto_bench.evaluation.judges.endpoint_judge.EndpointJudge",
        "name": "judge",
        "base_url": server if isinstance(server, str) else server.url,
        "model": "m",
        "key_variable": "JUDGE_KEY",
        "input_price": 10,
        "output_price": 30,
        "timeout_seconds": 5,
        "wording": WORDING,
        **fields,
    }
    built = build(node, Judge, "evaluation.judge")
    assert isinstance(built, EndpointJudge)
    return built


def rows_of(qualities: list[int]) -> list[dict[str, Any]]:
    """Prompts whose completion has a quality of its own; the reference has quality 5."""
    return [
        {
            "prompt_id": f"p{number}",
            "prompt": [{"role": "user", "content": f"question {number}"}],
            "completion": f"quality {quality} text {number}",
            "reference": f"quality 5 reference {number}",
        }
        for number, quality in enumerate(qualities)
    ]


def better(request: dict[str, Any], seen: int = 0) -> str:
    """The number of the output of higher quality."""
    first, second = re.findall(r"quality (\d)", request["messages"][-1]["content"])
    return "1" if first > second else "2"


def number_of(request: dict[str, Any]) -> int:
    return int(re.findall(r"question (\d+)", request["messages"][-1]["content"])[0])


def stage_folder(tmp_path: Path, name: str = "f") -> Path:
    folder = tmp_path / "judge" / f"{name}.partial-1"
    folder.mkdir(parents=True)
    return folder


FAULTS: list[Reply | str] = [
    error(429, "slow down", "rate_limit_exceeded", retry_after="0.03"),
    error(429, "slow down", "rate_limit_exceeded", retry_after_ms="30"),
    error(500, "oops"),
    error(503, "busy"),
    error(408, "too slow"),
    Reply("1", delay=0.6),
    Reply(body='{"choices": [{"mess'),
    Reply(body="<html>proxy</html>", content_type="text/html"),
    Reply(body='{"id": "1", "object": "chat.completion", "created": 0, "model": "m", "choices": []}'),
    Reply(body="{}"),
    Reply(body="null"),
    Reply(body='{"choices": [null]}'),
    Reply(body='{"choices": [{"message": "1"}]}'),
    Reply(body='{"error": {"message": "upstream busy", "code": 502}}'),
    error(429, "slow down", retry_after="nan"),
    Reply(None),
    Reply("1", cut=True),
    "I cannot decide.",
    "1 and 2 are alike, so 2 or 1",
    "",
]


def test_every_fault_is_survived_with_the_right_numbers(tmp_path: Path) -> None:
    qualities = [(7 * number) % 10 if (7 * number) % 10 != 5 else 9 for number in range(len(FAULTS) + 6)]
    rows = rows_of(qualities)

    def reply(request: dict[str, Any], seen: int) -> Reply | str:
        number = number_of(request)
        return FAULTS[number] if seen == 0 and number < len(FAULTS) else better(request)

    said: list[str] = []
    told: list[tuple[int, int]] = []
    with JudgeServer(reply) as server:
        judge = judge_at(server, timeout_seconds=0.3, max_cost=1)
        judgements, summary = judge_rows(
            rows, judge, stage_folder(tmp_path), progress=lambda *counts: told.append(counts), say=said.append
        )
        assert len(server.requests) == len(rows) + len(FAULTS)
        assert server.keys == {f"Bearer {KEY}"}
        assert server.paths == {"/v1/chat/completions"}
    expected = [float(quality > 5) for quality in qualities]
    assert [row["preference"] for row in judgements] == expected
    assert summary["win_rate"] == sum(expected) / len(expected)
    assert (summary["n"], summary["judge"]) == (len(rows), "judge")
    # All faults but the last three gave no answer, so nothing was counted for them.
    assert summary["account"] == {
        "calls": len(rows) + 3,
        "input_tokens": 100 * (len(rows) + 3),
        "output_tokens": len(rows) + 3,
        "dollars": round((len(rows) + 3) * (100 * 10 + 30) / 1e6, 6),
    }
    assert told[-1] == (len(rows), len(rows))
    assert re.fullmatch(
        rf"judge judge: {len(rows)} answers to ask for, about [\d,]+ tokens in .*about \$0.0\d at most", said[0]
    )
    assert len(said) == 1
    assert {request["temperature"] for request in server.requests} == {0.0}
    for path in tmp_path.rglob("*"):
        assert path.is_dir() or KEY not in path.read_text(), "the key is never stored"


def test_the_order_is_random_and_undone(tmp_path: Path) -> None:
    """A judge that always says 1 shows how often our output came first."""
    rows = rows_of([9] * 60)
    with JudgeServer(lambda request, seen: "1") as server:
        judgements, summary = judge_rows(rows, judge_at(server, concurrency=4), stage_folder(tmp_path))
    assert {request["model"] for request in server.requests} == {"m"}
    places = [row["asks"][0]["ours"] for row in judgements]
    assert [row["preference"] for row in judgements] == [float(place == 1) for place in places]
    assert 0.3 < summary["win_rate"] < 0.7
    assert summary["position"] == {"first_preferred": 1.0, "n": 60, "standard_error": 0.0}


def test_both_orders_show_the_position_bias(tmp_path: Path) -> None:
    """Half the questions are judged by quality, the others by place."""
    rows = rows_of([9] * 10 + [1] * 10)
    biased = lambda request, seen: "2" if number_of(request) % 2 else better(request)  # noqa: E731
    with JudgeServer(biased) as server:
        judgements, summary = judge_rows(rows, judge_at(server, orders="both"), stage_folder(tmp_path))
        assert len(server.requests) == 40
    expected = [0.5 if number % 2 else float(number < 10) for number in range(20)]
    assert [row["preference"] for row in judgements] == expected
    assert summary["win_rate"] == 0.5
    assert summary["position"]["consistent"] == 0.5
    assert summary["position"]["first_preferred"] == pytest.approx(0.25)  # half a fair judge, half one that says 2
    assert [ask["ours"] for ask in judgements[0]["asks"]] == [2, 1]


def test_repeats_show_the_noise(tmp_path: Path) -> None:
    """Question 0 is answered 1, 2, 1, 2; the others always by quality."""
    rows = rows_of([9, 9, 1])
    flaky = lambda request, seen: "12"[seen % 2] if number_of(request) == 0 else better(request)  # noqa: E731
    with JudgeServer(flaky) as server:
        judge = judge_at(server, repeats=4, temperature=1.0, concurrency=1)
        judgements, summary = judge_rows(rows, judge, stage_folder(tmp_path))
        assert len(server.requests) == 12
    assert [row["preference"] for row in judgements] == [0.5, 1.0, 0.0]
    variance = 4 * 0.25 / 3  # of 1, 0, 1, 0, unbiased
    assert summary["noise"] == {
        "differing": pytest.approx((4 / 6) / 3),  # 4 of the 6 pairs of one question of three
        "deviation": pytest.approx((variance / 3) ** 0.5),
        "standard_error": pytest.approx((variance / 4) ** 0.5 / 3),
        "n": 3,
    }


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (error(404, "The model `m` does not exist", "model_not_found"), "no such model or address"),
        (error(401, f"Incorrect API key provided: {KEY}"), "the key is not accepted"),
        (error(402, "Insufficient Balance"), "no credit is left"),
        (error(403, "country not supported"), "access is denied"),
        (error(429, "You exceeded your quota", "insufficient_quota", retry_after="60"), "no credit is left"),
    ],
)
def test_a_permanent_error_ends_it_at_once(tmp_path: Path, fault: Reply, message: str) -> None:
    rows = rows_of([9] * 30)
    with JudgeServer(lambda request, seen: fault if number_of(request) >= 3 else better(request)) as server:
        with pytest.raises(EvaluationError, match=message) as raised:
            judge_rows(rows, judge_at(server, concurrency=2), stage_folder(tmp_path))
        assert time.monotonic() - server.times[0] < 3
        assert len(server.requests) <= 3 + 3 + 2, "none is tried again, and no new one after the first"
    assert re.search(r"(27|28|29|30) of 30 judgements are missing", str(raised.value))
    import traceback

    assert KEY not in "".join(traceback.format_exception(raised.value))


def test_a_permanent_error_ends_the_waiting_of_others(tmp_path: Path) -> None:
    limited = error(429, "wait", retry_after="8")
    gone = lambda request, seen: limited if number_of(request) % 2 else error(404, "gone")  # noqa: E731
    with JudgeServer(gone) as server:
        with pytest.raises(EvaluationError, match="no such model"):
            judge_rows(rows_of([9] * 6), judge_at(server, concurrency=6), stage_folder(tmp_path))
        assert time.monotonic() - server.times[0] < 4


def test_a_request_that_is_refused_fails_alone_and_a_relaunch_pays_for_it_only(tmp_path: Path) -> None:
    rows, folder, well = rows_of([9, 1, 9, 1, 9]), stage_folder(tmp_path), []

    def reply(request: dict[str, Any], seen: int) -> Reply | str:
        return error(400, "too long") if number_of(request) == 3 and not well else better(request)

    with JudgeServer(reply) as server:
        judge = judge_at(server)
        with pytest.raises(EvaluationError, match=r"left 1 of 5 comparisons .*p3: refused with status 400: .*too long"):
            judge_rows(rows, judge, folder)
        assert len(server.requests) == 5
        well.append(True)
        said: list[str] = []
        changed = judge_at(server, concurrency=1, timeout_seconds=9, max_cost=3, input_price=1)
        judgements, summary = judge_rows(rows, changed, folder, say=said.append)
        assert len(server.requests) == 6, "what changes no answer asks for none again"
        assert "1 answers to ask for (4 of 5 are there already)" in said[0]
        assert [row["preference"] for row in judgements] == [1.0, 0.0, 1.0, 0.0, 1.0]
        assert summary["account"]["calls"] == 5
        assert [row["text"] for row in read_lines(folder / "answers.jsonl")] != []
        # Another model's answers are another judge's, and other completions are other questions.
        judge_rows(rows, judge_at(server, model="other"), folder)
        assert len(server.requests) == 11
        judge_rows([{**rows[0], "completion": "quality 1 other"}, *rows[1:]], judge, folder)
        assert len(server.requests) == 12


@pytest.mark.parametrize("torn", [False, True])
def test_a_kill_loses_no_answer(tmp_path: Path, torn: bool) -> None:
    rows, folder = rows_of([9] * 12), stage_folder(tmp_path)

    def killed(done: int, total: int) -> None:
        if done == 7:
            raise KeyboardInterrupt

    with JudgeServer(better) as server:
        judge = judge_at(server, concurrency=1)
        with pytest.raises(KeyboardInterrupt):
            judge_rows(rows, judge, folder, progress=killed)
        kept = saved_beside(folder) / "answers.jsonl"
        if torn:  # half a line, as a kill in the middle of a write leaves it
            kept.write_text(kept.read_text()[:-20])
        asked = len(server.requests)
        assert asked <= 8, "at most one is in flight"
        _, summary = judge_rows(rows, judge, folder)
        assert len(server.requests) == asked + 5 + torn
        assert len(read_lines(kept)) == 12
    assert (summary["n"], summary["win_rate"]) == (12, 1.0)


def test_a_kill_9_costs_what_is_in_flight_at_most(tmp_path: Path) -> None:
    rows, folder = rows_of([9] * 30), stage_folder(tmp_path)
    with JudgeServer(lambda request, seen: Reply(better(request), delay=0.03)) as server:
        judge = judge_at(server, concurrency=3)
        killed = multiprocessing.get_context("fork").Process(target=judge_rows, args=(rows, judge, folder))
        killed.start()
        while len(server.requests) < 12 and killed.is_alive():
            time.sleep(0.005)
        killed.kill()
        killed.join()
        assert killed.exitcode == -signal.SIGKILL
        time.sleep(0.05)
        asked, kept = len(server.requests), len(read_lines(saved_beside(folder) / "answers.jsonl"))
        assert kept >= asked - 2 * 3, "those in flight, and those whose answer was on its way"
        _, summary = judge_rows(rows, judge, folder)
        assert len(server.requests) == asked + 30 - kept
    assert (summary["n"], summary["win_rate"], summary["account"]["calls"]) == (30, 1.0, 30)


def test_an_interruption_does_not_wait_for_the_server(tmp_path: Path) -> None:
    def interrupt(*arguments: Any) -> None:
        raise KeyboardInterrupt

    def hang(request: dict[str, Any], seen: int) -> Reply:
        if number_of(request) == first.setdefault("number", number_of(request)):
            os.kill(os.getpid(), signal.SIGALRM)
        return Reply("1", delay=4)

    first: dict[str, int] = {}
    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        with JudgeServer(hang) as server:
            with pytest.raises(KeyboardInterrupt):
                judge_rows(rows_of([9] * 20), judge_at(server), stage_folder(tmp_path))
            assert time.monotonic() - server.times[0] < 3
            assert len(server.requests) <= 8
    finally:
        signal.signal(signal.SIGALRM, before)
    waited_for_at_exit = [one for one in threading.enumerate() if not one.daemon and one is not threading.main_thread()]
    assert not [one for one in waited_for_at_exit if "work" in one.name]


def test_an_answer_that_cannot_be_read_is_asked_for_again_and_then_fails_with_the_count(tmp_path: Path) -> None:
    rows = rows_of([9] * 4)
    stubborn = lambda request, seen: "Both." if number_of(request) == 2 else better(request)  # noqa: E731
    with JudgeServer(stubborn) as server:
        with pytest.raises(EvaluationError, match=r"left 1 of 4 comparisons without a preference \(p2: answer 'Both.'"):
            judge_rows(rows, judge_at(server, asks=2), stage_folder(tmp_path))
        assert len(server.requests) == 5


def test_what_a_server_withholds_is_not_tried_until_it_gives_in(tmp_path: Path) -> None:
    def reply(request: dict[str, Any], seen: int) -> Reply:
        filtered = number_of(request) == 0
        return Reply("", finish_reason="content_filter") if filtered else Reply(None, refusal="I would rather not.")

    with JudgeServer(reply) as server:
        with pytest.raises(EvaluationError, match="left 2 of 2") as raised:
            judge_rows(rows_of([9, 9]), judge_at(server, asks=2), stage_folder(tmp_path))
        assert len(server.requests) == 1 + 2
    assert "p0: the server's content filter" in str(raised.value)
    assert "p1: answer 'I would rather not.' cannot be read" in str(raised.value)


def test_a_server_that_is_down_is_not_asked_for_everything(tmp_path: Path) -> None:
    rows = rows_of([9] * 60)
    with JudgeServer(lambda request, seen: error(500, "down")) as server:
        with pytest.raises(EvaluationError, match=r"in a row failed, so the rest was not .*60 of 60 .* are missing"):
            judge_rows(rows, judge_at(server, tries=2, concurrency=2), stage_folder(tmp_path))
        assert len(server.requests) <= 2 * 12
    with pytest.raises(EvaluationError, match=r"Connection error\. \(.*refused\)"):  # nothing listens there any more
        judge_rows(rows, judge_at(server, tries=2), stage_folder(tmp_path, "down"))


def test_a_rate_limit_that_others_get_through_is_waited_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every third request is answered, and some are refused more often than they may be tried."""
    monkeypatch.setattr(endpoint, "FIRST_WAIT_SECONDS", 0.002)
    number = itertools.count()
    limited = lambda request, seen: better(request) if next(number) % 3 == 0 else error(429, "wait")  # noqa: E731
    with JudgeServer(limited) as server:
        _, summary = judge_rows(rows_of([9] * 20), judge_at(server, tries=4, concurrency=6), stage_folder(tmp_path))
    assert (summary["n"], summary["win_rate"]) == (20, 1.0)
    assert 58 <= len(server.requests) <= 61


def test_the_server_says_how_long_to_wait(tmp_path: Path) -> None:
    limited = lambda request, seen: error(429, "wait", retry_after="0.4") if seen == 0 else "1"  # noqa: E731
    with JudgeServer(limited) as server:
        judge_rows(rows_of([9]), judge_at(server), stage_folder(tmp_path))
        assert server.times[1] - server.times[0] >= 0.4
    with JudgeServer(lambda request, seen: error(429, "wait", retry_after="4000")) as server:
        with pytest.raises(EvaluationError, match="the server says to try again in 4000 s"):
            judge_rows(rows_of([9]), judge_at(server), stage_folder(tmp_path, "long"))
        assert len(server.requests) == 1


def test_too_dear_a_judge_is_refused_before_the_first_call(tmp_path: Path) -> None:
    rows, said = rows_of([9] * 50), []
    with JudgeServer(better) as server:
        judge = judge_at(server, input_price=1000, output_price=0, max_cost=0.5)
        with pytest.raises(
            EvaluationError, match=r"about \$\d\.\d\d at most, which exceeds .*max_cost, \$0.50; nothing was"
        ):
            judge_rows(rows, judge, stage_folder(tmp_path), say=said.append)
        assert (server.requests, said) == ([], [])


def test_the_limit_holds_where_the_estimate_was_too_low(tmp_path: Path) -> None:
    """The server counts 100 tokens a request, twice what its length says; prices are dollars per million."""
    rows = rows_of([9] * 50)
    with JudgeServer(better) as server:
        judge = judge_at(server, input_price=10_000, output_price=0, max_cost=20, concurrency=4)
        folder = stage_folder(tmp_path)
        with pytest.raises(EvaluationError, match=r"might exceed evaluation.judge.max_cost; \d+ of 50 .* missing"):
            judge_rows(rows, judge, folder)
        assert 10 < len(server.requests) <= 20  # a dollar each
        assert len(read_lines(saved_beside(folder) / "answers.jsonl")) == len(server.requests), "all paid for are kept"
        _, summary = judge_rows(rows, judge_at(server, input_price=10_000, output_price=0, max_cost=60), folder)
        assert (len(server.requests), summary["account"]["dollars"]) == (50, 50.0)


def test_the_limit_holds_where_all_is_asked_at_once(tmp_path: Path) -> None:
    """The server counts 300 tokens a request, 3 dollars; the estimate is half a dollar for each of 5."""
    with JudgeServer(lambda request, seen: Reply(better(request), usage=(300, 1))) as server:
        judge = judge_at(server, input_price=10_000, output_price=0, max_cost=4)
        with pytest.raises(EvaluationError, match=r"might exceed evaluation\.judge\.max_cost; 4 of 5 judgements are"):
            judge_rows(rows_of([9] * 5), judge, stage_folder(tmp_path))
        assert len(server.requests) == 1
        # A relaunch knows how the server counts.
        raised = judge_at(server, input_price=10_000, output_price=0, max_cost=8)
        with pytest.raises(EvaluationError, match="3 of 5 judgements are missing"):
            judge_rows(rows_of([9] * 5), raised, tmp_path / "judge" / "f.partial-1")
        assert len(server.requests) == 2


def test_the_join_is_checked_before_any_call(tmp_path: Path) -> None:
    rows = rows_of([9, 9])
    with JudgeServer(better) as server:
        with pytest.raises(EvaluationError, match="1 of 2 prompts have no reference completion"):
            judge_rows([rows[0], {**rows[1], "reference": None}], judge_at(server), stage_folder(tmp_path))
        with pytest.raises(EvaluationError, match="occur more than once"):
            judge_rows([rows[0], rows[0]], judge_at(server), stage_folder(tmp_path, "b"))
        assert server.requests == []


class WeighedWording(Wording):
    """Reads the preference from the probabilities of the first token."""

    def preference(self, answer: Answer) -> float | None:
        if answer.top_logprobs is None:
            return None
        probabilities = {token: 2.718281828459045**value for token, value in answer.top_logprobs[0].items()}
        return 1 + probabilities["B"] / (probabilities["A"] + probabilities["B"])


def test_preferences_from_log_probabilities(tmp_path: Path) -> None:
    """The judge gives output A 3 times the probability of B, whichever it is; a third of the mass is elsewhere."""
    logs = {"A": -0.6931471805599453, "B": -1.791759469228055, "the": -1.0986122886681098}  # 1/2, 1/6, 1/3
    wording = {**WORDING, "_target_": f"{__name__}.WeighedWording"}
    with JudgeServer(lambda request, seen: Reply("A", top_logprobs=logs)) as server:
        judge = judge_at(server, wording=wording, top_logprobs=5, max_tokens=1, parameters={"top_p": 0.5})
        judgements, summary = judge_rows(rows_of([9] * 6), judge, stage_folder(tmp_path))
        request = server.requests[0]
    assert {key: request[key] for key in ("logprobs", "top_logprobs", "max_tokens", "temperature", "top_p")} == {
        **{"logprobs": True, "top_logprobs": 5, "max_tokens": 1, "temperature": 0.0, "top_p": 0.5}
    }
    for row in judgements:
        assert row["preference"] == pytest.approx(0.75 if row["asks"][0]["ours"] == 1 else 0.25)
    assert summary["position"]["first_preferred"] == pytest.approx(0.75)


def test_a_tool_call_and_a_reply_without_usage(tmp_path: Path) -> None:
    with JudgeServer(lambda request, seen: Reply(None, tool_arguments="2", usage=None)) as server:
        judge = judge_at(server, parameters={"tools": []}, temperature=None, max_tokens_field="max_completion_tokens")
        _, summary = judge_rows(rows_of([9]), judge, stage_folder(tmp_path))
        assert set(server.requests[0]) == {"model", "messages", "max_completion_tokens", "tools"}
    assert summary["account"]["input_tokens"] > 10  # estimated


def _choice(**fields: Any) -> dict[str, Any]:
    message = {"role": "assistant", "content": "1"}
    return {"choices": [{"index": 0, "finish_reason": "stop", "message": message, **fields}]}


@pytest.mark.parametrize(
    ("body", "top"),
    [
        ({**_choice(), "usage": {"total_tokens": 4}}, None),
        ({**_choice(), "usage": {"prompt_tokens": None, "completion_tokens": None}}, None),
        (_choice(logprobs={"content": [{"token": "1", "logprob": -0.1}]}), [{}]),
        (_choice(logprobs={"content": [{"top_logprobs": [{"token": "\ud83d", "logprob": -0.1}]}]}), [{"?": -0.1}]),
        (
            _choice(logprobs={"content": [{"top_logprobs": [{"token": "?", "logprob": x} for x in (-1.5, -2.5)]}]}),
            [{"?": -1.5}],
        ),
    ],
)
def test_an_answer_that_is_oddly_wrapped_is_kept(tmp_path: Path, body: dict[str, Any], top: Any) -> None:
    with JudgeServer(lambda request, seen: Reply(body=json.dumps(body))) as server:
        folder = stage_folder(tmp_path)
        _, summary = judge_rows(rows_of([9]), judge_at(server), folder)
        assert len(server.requests) == 1
        judge_rows(rows_of([9]), judge_at(server), folder)
        assert len(server.requests) == 1, "what was kept can be read again"
    (answer,) = read_lines(folder / "answers.jsonl")
    assert answer["top_logprobs"] == top
    assert summary["account"]["input_tokens"] > 10  # estimated
    assert summary["account"]["output_tokens"] == 1


def test_thoughts_that_use_up_the_tokens_are_counted_and_told(tmp_path: Path) -> None:
    with JudgeServer(lambda request, seen: Reply(None, finish_reason="length", usage=(100, 16))) as server:
        with pytest.raises(
            EvaluationError, match=r"answer '' cannot be read \(all of max_tokens=16 went into thoughts"
        ):
            judge_rows(rows_of([9]), judge_at(server, asks=2), stage_folder(tmp_path))
        assert len(server.requests) == 2, "an answer, which is not tried for until it comes"


def test_parameters_that_the_client_does_not_know_reach_the_server(tmp_path: Path) -> None:
    own = {"top_k": 1, "chat_template_kwargs": {"enable_thinking": False}, "timeout": 3}
    with JudgeServer(better) as server:
        judge_rows(rows_of([9]), judge_at(server, parameters=own), stage_folder(tmp_path))
        (request,) = server.requests
    assert own.items() <= request.items()
    assert request.keys() - own.keys() == {"model", "messages", "max_tokens", "temperature"}


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"key_variable": KEY}, "key_variable: this is not the name of an environment variable"),
        ({"base_url": f"https://me:{KEY}@host/v1"}, "base_url: it holds a user name, a password or a query"),
        ({"base_url": f"https://host/v1?key={KEY}"}, "base_url: it holds"),
        ({"base_url": "localhost:8000"}, "base_url: .* is not allowed"),
        ({"parameters": {"api_key": KEY}}, "parameters: api_key cannot be given"),
        ({"parameters": {"Authorization": KEY}}, "parameters: Authorization cannot be given"),
        ({"parameters": {"access_token": KEY}}, "parameters: access_token cannot be given"),
        ({"parameters": {"extra_headers": {"x": KEY}}}, "parameters: extra_headers cannot be given"),
        ({"parameters": {"temperature": 1}}, "temperature: set by other fields"),
        ({"repeats": 2, "parameters": {"seed": 0}}, "repeats: 2 asks the same again"),
        ({"prompt_template": "{instruction} {output_1} {output_2}"}, r"wording\.prompt_template"),
        ({"wording": {**WORDING, "prompt_template": "{instruction}"}}, "it must hold each of"),
        ({"wording": {**WORDING, "patterns": {1: "a"}}}, "it needs patterns for 1 and 2"),
        ({"wording": {**WORDING, "patterns": {1: "(", 2: "b"}}}, "is no regular expression"),
        ({"max_cost": 0}, r"max_cost: 0 is not allowed"),
    ],
)
def test_what_cannot_work_is_refused_and_no_secret_is_shown(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as raised:
        judge_at("http://localhost/v1", **fields)
    assert KEY not in str(raised.value)


def test_a_missing_key_is_told_before_anything_else(monkeypatch: pytest.MonkeyPatch) -> None:
    judge_at("http://localhost/v1").check()
    monkeypatch.setenv("JUDGE_KEY", " ")
    with pytest.raises(ConfigError, match="the environment has no JUDGE_KEY; export"):
        judge_at("http://localhost/v1").check()
    judge_at("http://localhost/v1", key_variable=None).check()
    for bad in (f"{KEY}\nsecond line", f"{KEY}\u2026"):  # a client's errors would show such a key
        monkeypatch.setenv("JUDGE_KEY", bad)
        with pytest.raises(ConfigError, match="JUDGE_KEY holds a line break or a character") as raised:
            judge_at("http://localhost/v1").check()
        assert KEY not in str(raised.value)


def test_identity_is_what_answers_depend_on() -> None:
    plain = judge_at("http://localhost/v1").identity()
    for same in ({"tries": 2}, {"timeout_seconds": 1}, {"concurrency": 1}, {"max_cost": 1}, {"input_price": 3}):
        assert judge_at("http://localhost/v1", **same).identity() == plain
    differing: list[dict[str, Any]] = [
        {"model": "n"},
        {"temperature": 1},
        {"max_tokens": 2},
        {"parameters": {"seed": 1}},
    ]
    differing += [{"orders": "both"}, {"repeats": 2}, {"top_logprobs": 2}]
    differing += [{"wording": {**WORDING, "cut_unfinished": True}}]
    for other in differing:
        assert judge_at("http://localhost/v1", **other).identity() != plain
    assert KEY not in json.dumps(plain)
