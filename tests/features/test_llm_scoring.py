"""What is shown, what is held out, how answers are read, and what a score says of judges that we know."""

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from llm_bench import WORDS, Answer, Asked, FakeServer, excerpts_of, fake_server, honest, planted_index, right_answers
from made_up_index import made_up_index

from lucida.features.index import FeatureIndex
from lucida.features.llm import Endpoint
from lucida.features.llm.excerpts import ContrastPool, Evidence, Excerpt, expected_overlap, gather, marked
from lucida.features.llm.explain import NoLabel, explain_prompt, parse_label
from lucida.features.llm.one_feature import Tally, ask_score
from lucida.features.llm.scoring import Question, balanced_accuracy, make_tests, parse_answers


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> FeatureIndex:
    return FeatureIndex.open(planted_index(tmp_path_factory.mktemp("planted")))


@pytest.fixture(scope="module")
def pool(planted: FeatureIndex) -> ContrastPool:
    return ContrastPool.draw(planted)


@pytest.fixture
def server() -> Iterator[FakeServer]:
    with fake_server() as running:
        yield running


# --- what is shown ----------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(3))
def test_what_tests_a_label_was_not_shown(tmp_path: Path, seed: int) -> None:
    index = FeatureIndex.open(made_up_index(tmp_path / "index", n_places=200, seed=seed))
    pool = ContrastPool.draw(index, seed=seed)
    for layer, feature, examples in index.each():
        found = gather(index, layer, feature, pool, seed=seed)
        shown = [*found.strongest, *found.others]
        assert bool(shown) == bool(examples) == (not found.is_silent)
        for excerpt in found.held_out:
            places = set(range(excerpt.first, excerpt.first + len(excerpt.texts)))
            for other in shown:
                assert excerpt.texts != other.texts
                assert not places & set(range(other.first, other.first + len(other.texts)))
        own = [range(e.position - e.peak, e.position - e.peak + len(e.tokens)) for e in examples]
        for excerpt in found.contrast:
            assert all(p not in places for places in own for p in range(excerpt.first, excerpt.first + 1))
        assert len(found.contrast) <= len(found.held_out) <= 10


def test_evidence_is_the_same_every_time(planted: FeatureIndex, pool: ContrastPool) -> None:
    first, second = (gather(planted, 0, 3, ContrastPool.draw(planted)) for _ in range(2))
    assert explain_prompt(first) == explain_prompt(second)
    assert make_tests(first) == make_tests(second)
    assert make_tests(first, seed=1) != make_tests(first)


def test_the_strongest_come_first_and_are_not_all_shown(planted: FeatureIndex, pool: ContrastPool) -> None:
    found = gather(planted, 0, 0, pool)
    assert [len(found.strongest), len(found.others), len(found.held_out)] == [6, 4, 10]
    peaks = [float(e.activations.max()) for e in found.strongest]
    assert peaks == sorted(peaks, reverse=True)
    user = explain_prompt(found)[1]["content"]
    assert user.count("<<small>>") == 10
    kept = [float(e.activations.max()) for e in found.held_out]
    assert min(kept) < min(peaks), "weak ones are tested too"


def test_contrast_comes_from_other_features(planted: FeatureIndex, pool: ContrastPool) -> None:
    for feature, word in enumerate(WORDS):
        found = gather(planted, 0, feature, pool)
        # The pool is small here: one example of each other feature, in which its word does not stand.
        assert len(found.contrast) == 10
        assert all(f" {word}" not in excerpt.texts for excerpt in found.contrast)
    assert expected_overlap(found) == pytest.approx(1 - (1 - 24e-6) ** 9)


def test_marks() -> None:
    texts = (" a", " sm", "all", " dog", "\n", " <<x>>", "\x1b[31m")
    marks = np.array([0, 1, 1, 0, 1, 0, 0], dtype=bool)
    assert marked(texts, marks) == "a <<small>> dog<<\\n>> < <x> >�[31m"
    assert marked((" a",), np.array([True])) == "<<a>>"


def test_weak_activations_are_not_marked() -> None:
    excerpt = Excerpt((" a", " b", " c"), np.array([0.1, 1.0, 0.4], dtype=np.float32), 0, 0)
    assert excerpt.marks.tolist() == [False, True, True]
    assert not Excerpt((" a",), np.zeros(1, dtype=np.float32), 0, 0).marks.any()


# --- answers ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answer", "label"),
    [
        ('{"label": "the word small"}', "the word small"),
        ('```json\n{"label": "the word small"}\n```', "the word small"),
        ('Sure! Here it is:\n{"Label": "small"} Hope that helps!', "small"),
        ('{"label": 3}\nLabel: "sizes"', "sizes"),
        ("**Label:** the word small", "the word small"),
        ("I think that these are sizes.\n\nthe word small.", "the word small"),
        ('{"label": "a\\u001b[31m\\nb"}', "a [31m b"),
        ('{"label": "#"}', "#"),
        ('{"label": "a <<small>> dog"}', "a small dog"),
    ],
)
def test_labels_are_found(answer: str, label: str) -> None:
    assert parse_label(answer) == label


@pytest.mark.parametrize(
    "answer",
    [
        "",
        "   \n",
        "x" * 500,
        "Here is the label:",
        "I'm sorry.",
        '{"label": ""}',
        '{"label": "..."}',
        "```\n```",
    ],
)
def test_garbage_is_no_label(answer: str) -> None:
    with pytest.raises(NoLabel):
        parse_label(answer)


@given(st.text(max_size=200))
def test_any_text_is_a_label_fit_to_show_or_none(answer: str) -> None:
    try:
        label = parse_label(answer)
    except NoLabel:
        return
    assert label == label.strip()
    assert 0 < len(label) <= 80
    assert label.isprintable()


@given(st.lists(st.booleans(), min_size=1, max_size=12), st.integers(0, 3))
def test_answers_are_read_in_every_form(answers: list[bool], form: int) -> None:
    words = ("no", "yes") if form == 3 else ("0", "1")
    text = {
        0: json.dumps([int(a) for a in answers]),
        1: f"Here:\n```json\n{json.dumps(answers)}\n```",
        2: "\n".join(f"{i}. {words[a]}" for i, a in enumerate(answers, 1)),
        3: "[" + ", ".join(words[a] for a in answers) + "]",
    }[form]
    assert parse_answers(text, len(answers)) == answers
    assert parse_answers(text, len(answers) + 1) is None


@pytest.mark.parametrize("text", ["", "yes", "[1, 0", "[1, 2]", "[1, 0, maybe]", "[[]]", "1. yes\n3. no", "[1.0, 0]"])
def test_garbage_is_no_answer(text: str) -> None:
    assert parse_answers(text, 2) is None


# --- scores -----------------------------------------------------------------------------------------


@given(st.lists(st.booleans(), min_size=1, max_size=30), st.lists(st.booleans(), min_size=1, max_size=30))
def test_balanced_accuracy(of_yes: list[bool], of_no: list[bool]) -> None:
    questions = [Question("", True)] * len(of_yes) + [Question("", False)] * len(of_no)
    found = balanced_accuracy(questions, of_yes + of_no)
    assert found == pytest.approx((np.mean(of_yes) + 1 - np.mean(of_no)) / 2)
    turned = balanced_accuracy(questions, [not answer for answer in of_yes + of_no])
    assert found is not None
    assert turned == pytest.approx(1 - found)
    assert balanced_accuracy(questions, [True] * len(questions)) == 0.5


def test_too_few_answers_are_no_score() -> None:
    questions = [Question("", True)] * 4 + [Question("", False)] * 4
    assert balanced_accuracy(questions, [True, True, None, None, False, False, False, False]) == 1
    assert balanced_accuracy(questions, [True, None, None, None, False, False, False, False]) is None
    assert balanced_accuracy(questions[:4], [True] * 4) is None
    assert balanced_accuracy([], []) is None


def test_the_two_marks_of_a_text_never_meet(planted: FeatureIndex, pool: ContrastPool) -> None:
    detection, fuzzing = make_tests(gather(planted, 0, 0, pool), per_request=4)
    assert (detection.name, fuzzing.name) == ("detection", "fuzzing")
    for test in (detection, fuzzing):
        questions = [question for request in test.requests for question in request]
        assert (sum(q.answer for q in questions), len(questions)) == (10, 20)
    for request in fuzzing.requests:
        plain = [re.sub("<<|>>", "", question.text) for question in request]
        assert len(set(plain)) == len(plain)
    assert all("<<" not in question.text for request in detection.requests for question in request)
    for request in fuzzing.requests:
        for question in request:
            assert ("<<small>>" in question.text) is question.answer
            assert len(re.findall(r"<<\w+>>", question.text)) == 1


def test_too_little_held_out_is_no_test(planted: FeatureIndex, pool: ContrastPool) -> None:
    found = gather(planted, 0, 0, pool, held_out=2)
    assert make_tests(found) == []


def turned(asked: Asked) -> str:
    user = asked.body["messages"][1]["content"]
    return json.dumps([int(not yes) for yes in right_answers(asked.kind, user)])


def coin(asked: Asked) -> str:
    flips = np.random.default_rng(abs(hash(asked.text)) % 2**32)
    count = len(excerpts_of(asked.body["messages"][1]["content"]))
    return json.dumps(flips.integers(0, 2, count).tolist())


Judge = Callable[[Asked], str | Answer]


def scores_of(server: FakeServer, index: FeatureIndex, judge: Judge, label: str, count: int = 3) -> list[float]:
    server.behave = judge
    endpoint, pool, found = Endpoint(server.url, "judge", pause=0.0), ContrastPool.draw(index), []
    for feature, word in enumerate(WORDS[:count]):
        for test in make_tests(gather(index, 0, feature, pool)):
            score = ask_score(endpoint, test, label.format(word), Tally())
            assert score.accuracy is not None
            found.append(score.accuracy)
    return found


def test_a_perfect_judge_scores_one_and_a_turned_one_nothing(server: FakeServer, planted: FeatureIndex) -> None:
    assert scores_of(server, planted, honest, "the word {}") == [1.0] * 6
    assert scores_of(server, planted, turned, "the word {}") == [0.0] * 6


def test_a_coin_scores_a_half(server: FakeServer, planted: FeatureIndex) -> None:
    """480 flips: the mean of balanced accuracies has a standard error of .023."""
    found = scores_of(server, planted, coin, "the word {}", len(WORDS))
    assert np.mean(found) == pytest.approx(0.5, abs=0.1)


def test_a_wrong_label_scores_a_half(server: FakeServer, planted: FeatureIndex) -> None:
    assert scores_of(server, planted, honest, "the word nowhere") == [0.5] * 6


def test_one_who_always_says_yes_scores_a_half(server: FakeServer, planted: FeatureIndex) -> None:
    def always(asked: Asked) -> str:
        return json.dumps([1] * len(excerpts_of(asked.body["messages"][1]["content"])))

    assert scores_of(server, planted, always, "the word {}") == [0.5] * 6


def test_a_judge_who_talks_is_asked_once_more(server: FakeServer, planted: FeatureIndex, pool: ContrastPool) -> None:
    test = make_tests(gather(planted, 0, 0, pool))[0]
    server.behave = lambda asked: "Well ..." if len(asked.body["messages"]) == 2 else honest(asked)
    endpoint, used = Endpoint(server.url, "judge", pause=0.0), Tally()
    assert ask_score(endpoint, test, "the word small", used).accuracy == 1.0
    assert used.requests == len(server.asked) == 2 * len(test.requests)
    server.behave = lambda asked: "Well ..."
    score = ask_score(endpoint, test, "the word small", used)
    assert (score.accuracy, score.count, score.unanswered) == (None, 20, 20)


def test_promoted_tokens_are_told() -> None:
    excerpt = Excerpt((" is", ' "'), np.array([0, 1], dtype=np.float32), 0, 0)
    silent = Evidence(0, 0, 0.1, (excerpt,), (), (), (), (" Paris", '"'))
    user = explain_prompt(silent)[1]["content"]
    assert '" Paris", "\\""' in user
    assert 'is <<">>' in user
