"""Generated programs are run apart, with limits; what they score is what OpenAI's execution would give them."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from kto_bench.evaluation.benchmarks import code_execution
from kto_bench.evaluation.benchmarks.code_execution import (
    CODE_EVAL,
    CodeEval,
    in_place_of_code_eval,
    pass_at_k,
    run_program,
)

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the limits are Linux's")

FAIL = {
    "an error": "assert 1 == 2",
    "no Python": "def f(:",
    "an exit that pretends to be the end": "import os; os._exit(0)",
    "another": "raise SystemExit(0)",
    "an endless loop": "while True: pass",
    "too much memory": "x = bytearray(2 << 30)",
    "a process": "import subprocess; subprocess.run(['true'])",
    "a fork": "import os; os.fork()",
    "a process started afresh": "import multiprocessing as m; m.get_context('spawn').Process(target=print).start()",
    "a socket": "import socket; socket.socket()",
    "the C library": "import ctypes; ctypes.CDLL(None).unlink({outside!r}.encode())",
    "the C library, by Python's name": "import ctypes; ctypes.pythonapi.Py_IsInitialized()",
    "a database elsewhere": "import sqlite3; sqlite3.connect({outside!r} + '.db').execute('create table t (a)')",
    "a folder elsewhere": "import os; os.mkdir({outside!r} + '.folder')",
    "a file elsewhere": "open({outside!r}, 'w').write('x')",
    "removing a file": "import os; os.remove({outside!r})",
    "a large file": "open('large', 'wb').write(bytes(4 << 20))",
    "the environment": "import os; assert 'PATH' in os.environ",
}


@pytest.mark.parametrize("what", FAIL)
def test_what_a_program_may_not_do(what: str, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.write_text("kept")
    assert not run_program(FAIL[what].format(outside=str(outside)), seconds=0.4, megabytes=512).passed
    assert outside.read_text() == "kept"
    assert list(tmp_path.iterdir()) == [outside]


def test_what_it_may_do(tmp_path: Path) -> None:
    program = (
        "import typing, math, re, ctypes, os, sqlite3, numpy, threading\n"
        "open('notes', 'w').write('x')\nassert open('notes').read() == 'x'\nos.mkdir('folder')\n"
        "for place in (':memory:', 'here'): sqlite3.connect(place).execute('create table t (a)')\n"
        "assert numpy.linalg.inv(numpy.eye(2)).sum() == 2\n"
        "thread = threading.Thread(target=print)\nthread.start()\nthread.join()"
    )
    outcome = run_program(program)
    assert outcome.passed
    assert outcome.network in ("namespace", "audit hook")
    assert run_program("if __name__ == '__main__': raise ValueError").passed  # as in OpenAI's execution


def test_a_program_that_waits_is_stopped() -> None:
    assert not run_program("import time; time.sleep(30)", seconds=0.1).passed


def test_there_is_no_network_even_beneath_python() -> None:
    """A raw system call, which no audit hook sees: only a namespace helps, where the system has them."""
    script = (
        "import ctypes, struct, sys\nsys.path.insert(0, sys.argv[1])\nimport untrusted\n"
        "cut = sys.argv[3] == 'cut' and untrusted.cut_network()\n"
        "libc = ctypes.CDLL(None)\nsocket = libc.socket(2, 1, 0)\n"
        "address = struct.pack('=H', 2) + struct.pack('>H', int(sys.argv[2])) + bytes([127, 0, 0, 1]) + bytes(8)\n"
        "print(cut, libc.connect(socket, address, 16))"
    )
    import socket
    import subprocess

    with socket.create_server(("127.0.0.1", 0)) as server:
        here = [sys.executable, "-c", script, str(code_execution._RUNNER.parent), str(server.getsockname()[1])]
        said = [subprocess.run([*here, cut], capture_output=True, text=True, check=True) for cut in ("leave", "cut")]
    assert said[0].stdout.split() == ["False", "0"]  # with a network it does connect
    if said[1].stdout.startswith("False"):
        pytest.skip("this system allows no network namespaces")
    assert said[1].stdout.split() == ["True", "-1"]


def test_pass_at_k_by_hand() -> None:
    assert pass_at_k(1, 1, 1) == 1.0
    assert pass_at_k(4, 1, 1) == pytest.approx(1 / 4)
    assert pass_at_k(4, 2, 2) == pytest.approx(1 - 1 / 6)  # of 6 pairs one holds neither of the two that pass
    assert pass_at_k(4, 3, 2) == 1.0


def test_it_answers_as_code_eval_does() -> None:
    right, wrong = "def add(a, b): return a + b", "def add(a, b): return a * b"
    tests = ["assert add(2, 3) == 5", "assert add(2, 3) == 5"]
    ours = CodeEval(seconds=1)
    scores, outcomes = ours.compute(references=tests, predictions=[[right, wrong], [wrong, wrong]], k=[1, 2, 3])
    assert scores == {"pass@1": pytest.approx(1 / 4), "pass@2": pytest.approx(1 / 2)}  # 3 of 2 there are not
    assert [one["passed"] for _, one in outcomes[0]] == [True, False]
    assert ours.networks <= {"namespace", "audit hook"}


def test_lm_eval_is_given_ours_and_other_metrics_are_not_touched() -> None:
    import evaluate

    before = evaluate.load
    with in_place_of_code_eval():
        assert evaluate.load("code_eval") is CODE_EVAL
    assert evaluate.load is before


def test_the_runner_needs_nothing_of_the_suite() -> None:
    """It starts with no environment and must not depend on what is installed."""
    source = code_execution._RUNNER.read_text()
    assert "kto_bench" not in source
