"""`lucida steer` writes what Python writes, shows both texts, holds a conversation, and refuses in one line."""

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from command_bench import IDS, bench, mistake, run

from lucida.microscope import Microscope
from lucida.steering import Steer, generate, sweep

STEER = ("--feature", "1:7", "--maximum", "2")


def steer(*arguments: object, **more: Any) -> Result:
    return run("steer", "--model", bench().model, "--dictionaries", bench().dictionary, *arguments, **more)


def document(*arguments: object) -> Any:
    result = steer("--ids", IDS, *arguments, "--json")
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def test_writes_what_python_writes() -> None:
    scope = Microscope(bench().model, bench().dictionary)
    found = document(*STEER, "--strength", 30, "--variant", "clamp", "--max-tokens", 9, "--where", "answer")
    turned = Steer(1, 7, 30.0, "clamp", "answer", 2.0)
    expected = generate(scope.model, scope.dictionary, [5, 17, 3, 42], [turned], max_tokens=9)
    assert [s["tokens"] for s in found["samples"]] == [list(s.tokens) for s in expected.samples]
    assert found["units"] == [{"layer": 1, "feature": 7, "maximum": 2.0, "source": "given"}]
    assert found["statistics"] == []


def test_strengths_are_a_sweep() -> None:
    scope = Microscope(bench().model, bench().dictionary)
    found = document(*STEER, "--strength", 2, "--strength", 50, "--max-tokens", 5, "--no-baseline")
    expected = generate(
        scope.model, scope.dictionary, [5, 17, 3, 42], sweep([Steer(1, 7, maximum=2.0)], [2.0, 50.0]), max_tokens=5,
        baseline=False,
    )  # fmt: skip
    assert [(s["condition"], s["tokens"]) for s in found["samples"]] == [
        (s.condition, list(s.tokens)) for s in expected.samples
    ]


def test_samples_bring_statistics() -> None:
    found = document(
        *STEER, "--strength", 30, "--samples", 3, "--temperature", 1, "--seed", 5, "--max-tokens", 6, "--contains", "4"
    )
    assert [(s["condition"], s["sample"]) for s in found["samples"]] == [
        (name, i) for name in ("baseline", "steered") for i in range(3)
    ]
    base, steered = found["statistics"]
    assert base["containing"]["4"]["value"] == sum("4" in s["text"] for s in found["samples"][:3]) / 3
    assert steered["changed"]["count"] == 3
    shown = steer("--ids", IDS, *STEER, "--samples", 2, "--temperature", 1, "--max-tokens", 4)
    assert "distinct 3-grams" in shown.stdout


def test_both_texts_are_shown() -> None:
    result = steer("--ids", IDS, "--feature", "1:7=30", "--maximum", 2, "--max-tokens", 4)
    assert result.exit_code == 0, result.output
    assert result.stdout.index("The model by itself") < result.stdout.index("Steered: 1:7 add 30")
    assert "maximum of 1:7: 2 as given" in result.stderr
    plain = steer("--ids", IDS, "--max-tokens", 4)
    assert "Steered" not in plain.stdout


@pytest.fixture(scope="module")
def chat_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model folder with words for tokens and a chat template."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

    folder = tmp_path_factory.mktemp("chat")
    LlamaForCausalLM.from_pretrained(bench().model).save_pretrained(folder)
    words = Tokenizer(models.WordLevel(vocab={f"w{i}": i for i in range(97)}, unk_token="w0"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words)
    tokenizer.chat_template = "{% for m in messages %}w90 {{ m['content'] }} {% endfor %}w91"
    tokenizer.save_pretrained(folder)
    return folder


def chat(folder: Path, lines: str, *arguments: object) -> Result:
    from lucida.cli import main

    fixed = ("steer", "--model", folder, "--dictionaries", bench().dictionary, "--chat", "--max-tokens", 4)
    return CliRunner().invoke(main, [str(a) for a in (*fixed, *arguments)], input=lines)


def test_a_conversation_from_a_pipe(chat_folder: Path) -> None:
    """Replies on standard output, what the dial says on standard error; the end of input ends the session."""
    result = chat(chat_folder, "w5 w6\n/off\n/reset\nw5 w6\n/nonsense\n\n/baseline\nw7\n", *STEER, "--strength", 40)
    assert result.exit_code == 0, result.output
    replies = [line for line in result.stdout.splitlines() if line]
    assert len(replies) == 4
    assert replies[0] != replies[1]
    assert replies[3] == f"[the model by itself] {replies[2]}"
    assert "1:7 add 40; /help" in result.stderr
    assert "error: /nonsense is not a command; /help lists them" in result.stderr
    by_itself = chat(chat_folder, "w5 w6\n", "--quiet")
    assert by_itself.stdout.splitlines()[0] == replies[1]
    assert by_itself.stderr == ""


def test_a_command_typed_while_the_model_writes(chat_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It holds from the next token on; Ctrl-C ends the reply and not the session."""
    typed = iter(["/off", "/nonsense", None, None])
    monkeypatch.setattr("lucida.cli.steer_chat._typed", lambda: next(typed))
    turned = chat(chat_folder, "w5 w6\n", *STEER, "--strength", 40)
    assert "[the dial is off]" in turned.stderr
    assert "[/nonsense is not a command; /help lists them]" in turned.stderr

    def interrupt() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("lucida.cli.steer_chat._typed", interrupt)
    stopped = chat(chat_folder, "w5 w6\n/dial\n", *STEER, "--strength", 40)
    assert stopped.exit_code == 0, stopped.output
    assert len(stopped.stdout.split()) == 1
    assert "(stopped)" in stopped.stderr
    assert stopped.stderr.rstrip().endswith("1:7 add 40")


def test_the_first_message_is_the_prompt(chat_folder: Path) -> None:
    asked = chat(chat_folder, "", "w5 w6")
    assert asked.exit_code == 0
    assert asked.stdout == chat(chat_folder, "w5 w6\n").stdout != ""


def test_one_reply_to_a_message(chat_folder: Path) -> None:
    fixed = ("steer", "--model", chat_folder, "--dictionaries", bench().dictionary, "--max-tokens", 4)
    result = run(*fixed, "w5 w6", "--message", "--json")
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["prompt"]["tokens"] == [90, 5, 6, 91]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--feature", "9:1"), "layers 0 to 2"),
        (("--feature", "1:480"), "layer 1 has 24"),
        (("--feature", "1:1", "--maximum", "0"), "above 0"),
        (("--feature", "1:1=nan", "--maximum", "1"), "finite"),
        (("--feature", "1:1", "--maximum", "1", "--strength", "inf"), "finite"),
        (("--feature", "1:1=2", "--feature", "1:1=3", "--maximum", "1"), "steered twice"),
        (("--feature", "1:1", "--maximum", "1", "--where", "9"), "outside the prompt of 4"),
        (("--max-tokens", "61"), "past the context"),
        (("--samples", "2"), "all the same"),
        (("--contains", "(", "--max-tokens", "2"), "regular expression"),
        (("--index", "/nowhere"), "not a feature index"),
    ],
)
def test_mistakes_are_one_line(arguments: tuple, says: str) -> None:
    fixed = ("steer", "--model", bench().model, "--dictionaries", bench().dictionary, "--ids", IDS)
    assert says in mistake(*fixed, *arguments)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--feature", "1"), "is not LAYER:FEATURE"),
        (("--feature", "1:2=much"), "is not LAYER:FEATURE"),
        (("--where", "nowhere", "--ids", IDS), "is not all, prompt"),
        ((), "either as text or as --ids"),
        (("--ids", IDS, "--no-baseline"), "nothing to steer"),
        (("--chat", "--json"), "one conversation"),
    ],
)
def test_usage(arguments: tuple, says: str) -> None:
    result = steer(*arguments)
    assert result.exit_code == 2
    assert says in result.stderr
    assert "Traceback" not in result.stderr
