"""Labelling many features: what is asked, kept, skipped, paid for, and what is left when the endpoint fails."""

import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from example_graphs import hand_made
from llm_bench import WORDS, Answer, Asked, FakeServer, fake_server, honest, planted_index
from made_up_index import made_up_index

from lucida.errors import FeatureError
from lucida.features.index import FeatureIndex
from lucida.features.labels import Label, read_labels, write_labels
from lucida.features.llm import Endpoint, estimate, llm_labels
from lucida.features.llm.choose import all_features, most_frequent, most_influential
from lucida.features.llm.crew import in_parallel

ALL = [(0, feature) for feature in range(len(WORDS) + 1)]


@pytest.fixture
def server() -> Iterator[FakeServer]:
    with fake_server() as running:
        yield running


@pytest.fixture
def index(tmp_path: Path) -> FeatureIndex:
    return FeatureIndex.open(planted_index(tmp_path / "index"))


def endpoint_of(server: FakeServer, **settings: object) -> Endpoint:
    settings = {"model": "judge", "pause": 0.01, "timeout": 5.0, "tries": 2} | settings
    return Endpoint(server.url, **settings)  # pyright: ignore


def labelled(index: FeatureIndex) -> dict[int, str]:
    return {label.feature: label.label for label in read_labels(index.folder, "llm")}


def test_features_get_tested_labels(server: FakeServer, index: FeatureIndex) -> None:
    run = llm_labels(index, endpoint_of(server), ALL)
    assert labelled(index) == {feature: f"the word {word}" for feature, word in enumerate(WORDS)}
    assert (run.silent, run.labelled_before, run.left, run.failed) == (1, 0, 0, {})
    for label in read_labels(index.folder, "llm"):
        assert (label.score, label.method, label.author) == (1.0, "llm detection+fuzzing", "judge")
        assert label.details["detection"] == label.details["fuzzing"] == 1.0
        assert (label.details["detection_count"], label.details["fuzzing_unanswered"]) == (20, 0)
        assert label.details["requests"] == 5
    assert index.label(0, 0) is not None
    assert run.used.requests == len(server.asked) == 5 * len(WORDS)
    assert (run.used.prompt_tokens, run.used.completion_tokens) == (server.prompt_tokens, server.completion_tokens)
    assert sum(label.details["prompt_tokens"] for label in run.labels) == server.prompt_tokens


def test_the_cost_is_told_before(server: FakeServer, index: FeatureIndex) -> None:
    expected = estimate(index, ALL, model="judge")
    assert not server.asked
    assert (expected.plan.silent, len(expected.plan.todo)) == (1, len(WORDS))
    llm_labels(index, endpoint_of(server), ALL)
    assert expected.requests == len(server.asked)
    assert 0.9 * server.prompt_tokens < expected.prompt_tokens < 1.5 * server.prompt_tokens
    assert 0.7 * server.completion_tokens < expected.completion_tokens < 1.5 * server.completion_tokens
    cost = expected.cost(price_in=2.0, price_out=10.0)
    assert cost == pytest.approx((2 * expected.prompt_tokens + 10 * expected.completion_tokens) / 1e6)
    assert expected.cost(price_in=0.0, price_out=0.0) == 0
    with pytest.raises(FeatureError, match="below 0"):
        expected.cost(price_in=-1.0, price_out=0.0)
    assert estimate(index, ALL, model="judge").requests == 0
    assert estimate(index, ALL, model="other").plan.other_models == len(WORDS)


def test_an_estimate_of_many_features_measures_some(index: FeatureIndex, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = estimate(index, ALL, model="judge")
    monkeypatch.setattr("lucida.features.llm.cost.MEASURED", 4)
    part = estimate(index, ALL, model="judge")
    assert (whole.measured_on, part.measured_on) == (len(WORDS), 4)
    assert part.requests == whole.requests
    assert part.prompt_tokens == pytest.approx(whole.prompt_tokens, rel=0.05)


def test_only_what_has_no_label_by_this_model_is_asked(server: FakeServer, index: FeatureIndex) -> None:
    llm_labels(index, endpoint_of(server), ALL[:5], score=False)
    assert server.explained() == list(WORDS[:5])
    write_labels(index.folder, "llm", [Label(0, 7, "mine", author="other", method="llm unscored")])
    run = llm_labels(index, endpoint_of(server, parallel=1), ALL, score=False)
    assert run.labelled_before == 5
    assert server.explained()[5:] == list(WORDS[5:]), "a label by another model is not one by this"
    assert labelled(index)[7] == f"the word {WORDS[7]}"
    assert llm_labels(index, endpoint_of(server), ALL, score=False).used.requests == 0
    assert llm_labels(index, endpoint_of(server), ALL[:2], score=False, again=True).used.requests == 2


def test_without_tests_there_is_no_score(server: FakeServer, index: FeatureIndex) -> None:
    run = llm_labels(index, endpoint_of(server), ALL[:1], score=False)
    assert (run.labels[0].score, run.labels[0].method) == (None, "llm unscored")


def test_few_examples_give_a_label_and_no_score(server: FakeServer, tmp_path: Path) -> None:
    index = FeatureIndex.open(made_up_index(tmp_path / "index"))
    server.behave = lambda asked: '{"label": "x"}' if asked.kind == "explain" else "no idea"
    run = llm_labels(index, endpoint_of(server), all_features(index))
    assert run.silent == 2
    assert len(run.labels) == 9
    assert all(label.score is None for label in run.labels)
    rare = next(label for label in run.labels if label.feature == 0)
    assert rare.details["held_out"] == 0


def test_requests_in_flight_are_bounded(server: FakeServer, index: FeatureIndex) -> None:
    together = threading.Event()

    def slowly(asked: Asked) -> str:
        if server.most_at_once > 1:
            together.set()
        together.wait(10)
        time.sleep(0.02)
        return honest(asked)

    server.behave = slowly
    llm_labels(index, endpoint_of(server, parallel=3), ALL, score=False)
    assert 1 < server.most_at_once <= 3


def test_one_feature_that_cannot_be_labelled_stops_nothing(server: FakeServer, index: FeatureIndex) -> None:
    def sometimes(asked: Asked) -> str | Answer:
        if asked.kind != "explain" or asked.words[0] not in ("dog", "cat", "red"):
            return honest(asked)
        return {"dog": Answer(500, "crashed"), "cat": Answer(400, "too long"), "red": "I'm sorry."}[asked.words[0]]

    server.behave = sometimes
    run = llm_labels(index, endpoint_of(server, parallel=1), ALL)
    assert {feature: why for (_, feature), why in run.failed.items()} == {
        2: f"{endpoint_of(server).address} failed after 2 tries: HTTP 500, crashed",
        3: f"{endpoint_of(server).address} refused a request: HTTP 400, too long",
        6: "the model gave no label",
    }
    assert len(run.labels) == len(WORDS) - 3
    server.behave = honest
    assert llm_labels(index, endpoint_of(server), ALL).used.requests == 3 * 5, "another run asks only these"


def test_garbage_ends_the_run(server: FakeServer, index: FeatureIndex) -> None:
    server.behave = lambda asked: "\x00\x01" * 300
    with pytest.raises(FeatureError, match="5 features in a row got no usable label"):
        llm_labels(index, endpoint_of(server, parallel=1), ALL)
    assert len(server.asked) == 10, "each is asked a second time, and then no more money is spent"
    assert labelled(index) == {}


def test_an_endpoint_that_says_500_for_ever_ends_the_run(server: FakeServer, index: FeatureIndex) -> None:
    server.behave = lambda asked: Answer(500)
    with pytest.raises(FeatureError, match=r"5 features in a row .*HTTP 500.*0 of 12 features were labelled"):
        llm_labels(index, endpoint_of(server, parallel=2), ALL)


def test_a_few_features_and_not_one_label_is_a_failure(server: FakeServer, index: FeatureIndex) -> None:
    server.behave = lambda asked: Answer(500)
    with pytest.raises(FeatureError, match=r"no feature got a usable label .*HTTP 500.*0 of 2 features"):
        llm_labels(index, endpoint_of(server), ALL[:2])


def test_a_judge_that_fails_gives_no_label_without_a_score(server: FakeServer, index: FeatureIndex) -> None:
    """A label that was kept untested because the server broke down would never be tested."""
    server.behave = lambda asked: (
        honest(asked) if asked.kind == "explain" or "the word cat" in asked.text else Answer(500)
    )
    run = llm_labels(index, endpoint_of(server, parallel=1), ALL[2:4])
    assert list(run.failed) == [(0, 2)]
    assert labelled(index) == {3: "the word cat"}


@pytest.mark.parametrize("parallel", [1, 4])
@pytest.mark.parametrize("way", ["slow", "limit", "garbled"])
def test_a_dying_endpoint_loses_nothing(server: FakeServer, index: FeatureIndex, parallel: int, way: str) -> None:
    dying = {"slow": Answer(wait=30, text="x"), "limit": Answer(429), "garbled": Answer(raw=b"<html>")}

    def mortal(asked: Asked) -> str | Answer:
        return dying[way] if len(server.asked) > 27 else honest(asked)

    server.behave = mortal
    endpoint = endpoint_of(server, parallel=parallel, timeout=0.3)
    with pytest.raises(FeatureError, match=r"\d of 12 features were labelled and are kept, the same command") as caught:
        llm_labels(index, endpoint, ALL)
    assert "\n" not in str(caught.value)
    before = labelled(index)
    assert 2 <= len(before) <= 5
    server.behave, server.asked = honest, []
    run = llm_labels(index, endpoint, ALL)
    assert run.labelled_before == len(before)
    again = set(server.explained()) & {WORDS[feature] for feature in before}
    assert not again, "what had a label is not asked about again"
    assert len(labelled(index)) == len(WORDS)


def test_nobody_there_is_said_at_once(index: FeatureIndex) -> None:
    with fake_server() as gone:
        endpoint = endpoint_of(gone)
    with pytest.raises(FeatureError, match=r"no connection .Connection refused.*0 of 12"):
        llm_labels(index, endpoint, ALL)


def test_ctrl_c_keeps_what_is_done(server: FakeServer, index: FeatureIndex) -> None:
    def interrupt(stage: str, done: int, total: int | None) -> None:
        if done == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        llm_labels(index, endpoint_of(server, parallel=1), ALL, progress=interrupt)
    assert len(labelled(index)) == 4
    llm_labels(index, endpoint_of(server, parallel=1), ALL)
    asked = Counter(server.explained())
    # The fifth may have been on its way.
    assert [word for word, times in asked.items() if times > 1] in ([], [WORDS[4]])
    assert len(labelled(index)) == len(WORDS)


def test_killed_in_the_middle_it_goes_on(server: FakeServer, index: FeatureIndex) -> None:
    """kill -9: nothing can be tidied. No feature with a label on disk is asked about again."""
    code = f"""
        from lucida.features.index import FeatureIndex
        from lucida.features.llm import Endpoint, llm_labels
        index = FeatureIndex.open({str(index.folder)!r})
        endpoint = Endpoint({server.url!r}, "judge", parallel=1)
        llm_labels(index, endpoint, {ALL!r}, save_every=1)
    """
    is_hanging = threading.Event()

    def hang(asked: Asked) -> str | Answer:
        if len(server.asked) <= 17:
            return honest(asked)
        is_hanging.set()
        return Answer(wait=60, text="x")

    server.behave = hang
    child = subprocess.Popen([sys.executable, "-c", textwrap.dedent(code)], env=os.environ | {"OMP_NUM_THREADS": "1"})
    assert is_hanging.wait(60)
    child.send_signal(signal.SIGKILL)
    child.wait()
    before = labelled(index)
    assert before
    assert before == {feature: f"the word {WORDS[feature]}" for feature in range(len(before))}
    server.behave = honest
    run = llm_labels(index, endpoint_of(server), ALL)
    assert run.labelled_before == len(before)
    assert not {word for word, times in Counter(server.explained()).items() if times > 1} & set(WORDS[: len(before)])
    assert len(labelled(index)) == len(WORDS)


def test_labels_are_written_in_batches(
    server: FakeServer, index: FeatureIndex, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes = []

    def count(folder: Path, kind: str, labels: list[Label]) -> None:
        sizes.append(len(labels))

    monkeypatch.setattr("lucida.features.llm.label_features.write_labels", count)
    llm_labels(index, endpoint_of(server, parallel=1), ALL, score=False, save_every=5)
    assert sizes == [5, 5, 2]


def test_the_budget_is_kept(server: FakeServer, index: FeatureIndex) -> None:
    expected = estimate(index, ALL, model="judge")
    each = (expected.prompt_tokens + expected.completion_tokens) / len(WORDS)
    budget = int(3.5 * each)
    run = llm_labels(index, endpoint_of(server), ALL, budget_tokens=budget)
    assert run.used.tokens <= budget
    assert (len(run.labels), run.left) == (3, len(WORDS) - 3)
    nothing = llm_labels(index, endpoint_of(server), ALL, budget_tokens=1)
    assert (nothing.used.requests, nothing.labelled_before) == (0, 3)


def test_features_that_do_not_exist(server: FakeServer, index: FeatureIndex) -> None:
    for name in [(0, 99), (1, 0), (-1, 0)]:
        with pytest.raises(FeatureError, match="was asked for"):
            llm_labels(index, endpoint_of(server), [name])
    assert not server.asked


def test_features_asked_twice_are_labelled_once(server: FakeServer, index: FeatureIndex) -> None:
    assert llm_labels(index, endpoint_of(server), [(0, 1), (0, 1)], score=False).used.requests == 1


def test_which_features(tmp_path: Path) -> None:
    index = FeatureIndex.open(made_up_index(tmp_path / "index"))
    assert len(all_features(index)) == len(index.space)
    counts = [index.stats(*name).count for name in most_frequent(index, 4)]
    assert counts == sorted((index.stats(*name).count for name in all_features(index)), reverse=True)[:4]
    assert len(most_frequent(index, 100)) == 9, "silent ones are left out"


def test_features_by_their_influence_in_a_graph(tmp_path: Path) -> None:
    """The graph holds 1:7 and 2:8; the made-up influence of other kinds of node must not count."""
    index = FeatureIndex.open(made_up_index(tmp_path / "index", n_features=(0, 9, 9)))
    graph = hand_made()
    influence = np.array([0.2, 0.5, 0.9, 0.9, 0.9, 1.0, 1.0], dtype=np.float32)
    graph = replace(graph, nodes=replace(graph.nodes, influence=influence))
    assert most_influential(index, graph, 5) == [(2, 8), (1, 7)]
    assert most_influential(index, graph, 1) == [(2, 8)]
    small = FeatureIndex.open(made_up_index(tmp_path / "other", n_features=(1, 1, 1)))
    with pytest.raises(FeatureError, match="feature 7 of layer 1 was asked for"):
        most_influential(small, graph, 1)


def test_a_crew_can_be_left_while_one_hangs() -> None:
    stop, hang, taken = threading.Event(), threading.Event(), []

    def items() -> Iterator[int]:
        for number in range(100):
            taken.append(number)
            yield number

    def work(number: int) -> int:
        return number if number else int(hang.wait(30))

    found = []
    began = time.monotonic()
    for result in in_parallel(work, items(), workers=2, stop=stop):
        found.append(result)
        if len(found) == 3:
            stop.set()
    hang.set()
    assert time.monotonic() - began < 10
    assert found[:3] == [1, 2, 3]
    assert len(taken) <= 5


def test_a_crew_passes_mistakes_on() -> None:
    with pytest.raises(ZeroDivisionError):
        list(in_parallel(lambda number: 1 // number, iter([1, 0]), workers=2, stop=threading.Event()))
