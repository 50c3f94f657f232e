"""`lucida index` as one meets it: whole, in parts, stopped and resumed, of neurons, and with what cannot work."""

import errno
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from command_bench import mistake, run
from index_bench import bench, command, digest, index, records, sentences

from lucida.corpus import open_corpus
from lucida.dictionaries import load_dictionary, random_dictionary, write_circuit_tracer
from lucida.features.build.events import EventReader
from lucida.features.header import IndexHeader
from lucida.features.index import FeatureIndex
from lucida.microscope import Microscope


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One for all tests here: a text is tokenised once."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(autouse=True)
def own_cache(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LUCIDA_CACHE", str(cache))


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, cache: Path) -> Path:
    """An index made in one go."""
    folder = tmp_path_factory.mktemp("whole") / "index"
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("LUCIDA_CACHE", str(cache))
        index(folder)
    return folder


def stop_after(patched: pytest.MonkeyPatch, tiles: int) -> None:
    """Ctrl-C after so many tiles, each of which is saved."""
    read, calls = EventReader.read, []

    def dies(self: EventReader, number: int, receive: Callable) -> int:
        calls.append(number)
        if len(calls) > tiles:
            raise KeyboardInterrupt
        return read(self, number, receive)

    patched.setattr(EventReader, "read", dies)
    patched.setattr("lucida.features.build.one_pass.time.monotonic", lambda: 1e6 * len(calls))


# --- what works -----------------------------------------------------------------------------------


def test_what_is_written_can_be_searched_shown_and_watched(whole: Path) -> None:
    found = FeatureIndex.open(whole, check=True)
    assert found.header.complete
    assert set(found.labels) == {(layer, feature) for layer in range(3) for feature in range(24)}
    layer, feature = max(found.labels, key=lambda place: found.stats(*place).count)
    strongest = found.examples(layer, feature)[0]
    word = found.text(int(strongest.tokens[strongest.peak])).strip()
    assert json.loads(run("features", "search", word, "--index", whole, "--json").stdout)
    shown = run("features", "show", layer, feature, "--index", whole)
    assert shown.exit_code == 0
    assert "«" in shown.stdout
    options = ("--model", bench().model, "--dictionaries", bench().dictionary)
    scan = json.loads(run("watch", "ba de fi", *options, "--index", whole, "--json", "--densest", 1).stdout)
    assert [token["text"].strip() for token in scan["tokens"]][-2:] == ["de", "fi"]
    assert any(seen["label"] for token in scan["tokens"] for seen in token["features"])


def test_what_is_said(tmp_path: Path) -> None:
    printed = index(tmp_path / "i", "--bare")
    assert f"wrote {tmp_path / 'i'}" in printed.stdout
    assert f"lucida features show LAYER INDEX --index {tmp_path / 'i'}" in printed.stdout
    assert not (tmp_path / "i" / "effects.parquet").exists()
    quiet = index(tmp_path / "i", "--bare", "--quiet")
    assert (quiet.stderr, "next:" in quiet.stdout) == ("", False)
    found = json.loads(index(tmp_path / "i", "--quiet", "--json").stdout)
    assert (found["index"], found["features"], found["documents"]) == (str(tmp_path / "i"), 72, 30)
    assert found["places"] == IndexHeader.open(tmp_path / "i").n_places > 400
    assert (tmp_path / "i" / "effects.parquet").exists()  # a bare index gets the rest from the same command
    assert run("features", "show", "0:1", "--index", tmp_path / "i").exit_code == 0


@pytest.mark.parametrize("count", [2, 7])
def test_parts_merge_to_what_one_run_makes(whole: Path, tmp_path: Path, count: int) -> None:
    """With 7 parts there are more of them than blocks of text, so that some see nothing."""
    for part in reversed(range(count)):
        written = json.loads(index(tmp_path / "i", "--shard", f"{part}/{count}", "--json", "--quiet").stdout)
        assert Path(written["index"]).parent == tmp_path / "i.parts"
    assert not (tmp_path / "i").exists()
    index(tmp_path / "i", "--merge", "--parts", count)
    assert digest(tmp_path / "i") == digest(whole)


def test_the_next_step_after_a_part(tmp_path: Path) -> None:
    printed = index(tmp_path / "i", "--shard", "1/2").stdout
    assert str(tmp_path / "i.parts" / "shard-00001-of-00002") in printed
    assert "--merge --parts 2" in printed


def test_stopped_and_given_again(whole: Path, tmp_path: Path) -> None:
    with pytest.MonkeyPatch.context() as patched:
        stop_after(patched, 3)
        stopped = run(*command(tmp_path / "i"))
    assert stopped.exit_code == 130
    assert "stopped" in stopped.stderr
    assert IndexHeader.open(tmp_path / "i").tiles[0] == 3
    assert [path.name for path in tmp_path.iterdir()] == ["i"]
    for name in (("features", "show", "0:1"), ("features", "search", "ba")):
        said = mistake(*name, "--index", tmp_path / "i")
        assert "is unfinished: it has seen 3 of" in said
    other = records(tmp_path / "other.jsonl", sentences(30, seed=1))
    assert "corpus_fingerprint" in mistake(*command(tmp_path / "i", data=other))
    assert "(k: 3, now 5)" in mistake(*command(tmp_path / "i", "--examples", 5))
    index(tmp_path / "i")
    assert digest(tmp_path / "i") == digest(whole)


def test_labels_by_people_outlive_a_merge_and_a_resume(tmp_path: Path) -> None:
    """Writing a checkpoint or a merge put a new folder in the place of the old one, labels and all."""
    for part in range(2):
        index(tmp_path / "i", "--shard", f"{part}/2", "--bare")
    for _ in range(2):
        index(tmp_path / "i", "--merge", "--parts", 2, "--bare")
        assert run("features", "label", "0:1", "mine", "--author", "Ada", "--index", tmp_path / "i").exit_code == 0
    index(tmp_path / "i", "--merge", "--parts", 2, "--bare")
    label = FeatureIndex.open(tmp_path / "i").label(0, 1)
    assert label is not None
    assert (label.label, label.author) == ("mine", "Ada")


def test_killed_between_taking_the_old_away_and_putting_the_new_there(whole: Path, tmp_path: Path) -> None:
    scratch = tmp_path / ".i.abcdefgh"
    shutil.copytree(whole, scratch / "previous")
    for name in (".i.other", ".i.settings"):  # somebody else's: one by the form of its name, one by what is in it
        (tmp_path / name).mkdir()
        (tmp_path / name / "letter.txt").write_text("dear")
    index(tmp_path / "i", "--bare")
    assert digest(tmp_path / "i") == digest(whole)
    assert sorted(path.name for path in tmp_path.iterdir()) == [".i.other", ".i.settings", "i"]
    assert (tmp_path / ".i.settings" / "letter.txt").read_text() == "dear"


def test_neurons_are_indexed_shown_and_watched_at_one_threshold(tmp_path: Path) -> None:
    index(tmp_path / "n", "--neurons-l0", 20, dictionary="neurons")
    found = FeatureIndex.open(tmp_path / "n", check=True)
    assert (found.header.dictionary, found.header.n_features) == ("neurons", (48, 48, 48))
    l0 = sum(found.stats(layer, i).count for layer in range(3) for i in range(48)) / found.header.n_places
    assert l0 == pytest.approx(20, rel=0.2)
    assert len(found.labels) > 100
    assert run("features", "show", "1:3", "--index", tmp_path / "n").exit_code == 0
    options = ("--model", bench().model, "--dictionaries", "neurons", "--ids", "1,5,17,3,42,5")
    assert "index of neurons" in mistake("watch", *options)
    scan = json.loads(run("watch", *options, "--index", tmp_path / "n", "--json", "--densest", 1).stdout)
    assert 0 < sum(token["n_active"] for token in scan["tokens"]) / 5 < 60
    for name, lines in (("with", "5,42,7\n5,42,9\n6,42,7\n"), ("without", "5,17,7\n5,18,9\n6,19,7\n")):
        (tmp_path / name).write_text(lines)
    sides = ("--with", tmp_path / "with", "--without", tmp_path / "without", "--ids")
    told = run("features", "contrast", *sides, *options[:4], "--index", tmp_path / "n", "--json")
    assert json.loads(told.stdout)["separations"]
    assert "units" in mistake(*command(tmp_path / "n", "--neurons-l0", 30, dictionary="neurons"))


def test_parts_of_neurons_merge_too(tmp_path: Path) -> None:
    settings = ("--neurons-l0", 20, "--bare")
    index(tmp_path / "one", *settings, dictionary="neurons")
    for part in range(2):
        index(tmp_path / "i", "--shard", f"{part}/2", *settings, dictionary="neurons")
    index(tmp_path / "i", "--merge", "--parts", 2, "--bare", dictionary="neurons")
    assert digest(tmp_path / "i") == digest(tmp_path / "one")


def test_a_text_is_watched_as_it_was_indexed(tmp_path: Path) -> None:
    """A corpus of one row: what `watch` reads is what the index counted, for neurons by the index's threshold."""
    text = records(tmp_path / "one.jsonl", [sentences(1)[0]])
    index(tmp_path / "n", "--neurons-l0", 20, "--context", 64, "--bare", data=text, dictionary="neurons")
    scope = Microscope(bench().model, "neurons")
    found = scope.features(tmp_path / "n")
    tokens = open_corpus(str(text), scope.model).tokens.tolist()
    # Without a prefix the first row begins with a token that only gives context.
    seen = scope.watch([tokens[0], *tokens], found, count=999, densest=1.0)
    strongest: dict[tuple[int, int], float] = {}
    for token in seen.tokens:
        for each in token.features:
            place = (each.layer, each.feature)
            strongest[place] = max(each.activation, strongest.get(place, 0.0))
    counted = {(la, i): found.stats(la, i).maximum for la in range(3) for i in range(48)}
    assert {place for place, value in counted.items() if value} == set(strongest)
    assert len(strongest) > 20
    for place, value in strongest.items():
        assert value == pytest.approx(counted[place], rel=1e-4)


# --- texts ----------------------------------------------------------------------------------------


def test_a_line_of_ten_million_characters(tmp_path: Path) -> None:
    """It is one document, cut at a number of tokens as all others are; one document gives one strongest example."""
    path = tmp_path / "long.txt"
    path.write_text(f"ba de fi {'x' * 2000} " * 5000)
    index(tmp_path / "i", "--tokens", 3000, "--bare", data=path)
    found = FeatureIndex.open(tmp_path / "i")
    assert (found.header.n_documents, found.header.n_places) == (1, pytest.approx(3000, rel=0.1))
    kinds = [example.kind for _, _, examples in found.each("top") for example in examples]
    assert 0 < len(kinds) <= 72


def test_empty_documents_are_left_out(tmp_path: Path, whole: Path) -> None:
    texts = [each for text in sentences(30) for each in (text, "", "  ")]
    index(tmp_path / "i", data=records(tmp_path / "a.jsonl", texts))
    assert digest(tmp_path / "i") == digest(whole)


BAD_TEXTS = {
    "broken UTF-8": (b"ba de\nfi \xff go\n", "a.txt is not UTF-8 text (byte 0xff at 9, line 2)"),
    "a cut character": ("ba de ü".encode()[:-1], "a.txt is not UTF-8 text (byte 0xc3 at 6, line 1)"),
    "broken far inside": (b"ba de fi\n" * 300_000 + b"\xc3(", "(byte 0xc3 at 2,700,000, line 300,001)"),
    "nothing": (b"", "is empty"),
    "blanks": (b" \n \n", "is empty"),
}


@pytest.mark.parametrize("case", BAD_TEXTS)
def test_texts_that_cannot_be_read(case: str, tmp_path: Path) -> None:
    content, said = BAD_TEXTS[case]
    (tmp_path / "a.txt").write_bytes(content)
    assert said in mistake(*command(tmp_path / "i", data=tmp_path / "a.txt"))
    assert [path.name for path in tmp_path.iterdir()] == ["a.txt"]


# --- what cannot work -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (("--shard", "2/2"), "is not I/N"),
        (("--shard", "1"), "is not I/N"),
        (("--shard", "0/2", "--merge", "--parts", 2), "--shard and --merge exclude each other"),
        (("--merge", "--ray", 2), "--merge and --ray exclude each other"),
        (("--merge",), "--merge needs --parts N"),
        (("--parts", 3), "--parts goes with --merge or --ray"),
        (("--ray-address", "auto"), "--ray-address goes with --ray N"),
        (("--context", 1), "1 is not in the range"),
    ],
)
def test_options_that_contradict(more: tuple[Any, ...], said: str, tmp_path: Path) -> None:
    result = run(*command(tmp_path / "i", *more))
    assert result.exit_code == 2
    assert said in " ".join(result.stderr.split())
    assert not list(tmp_path.iterdir())


def test_ray_and_neurons(tmp_path: Path) -> None:
    given = ("index", "--model", bench().model, "--data", bench().text, "--out", tmp_path / "i", "--ray", 2)
    assert "--ray does not index neurons" in mistake(*given)
    assert run(*given, "--dictionaries", "neurons").exit_code == 2
    for l0 in (0, 145, "nan"):
        assert "neurons per token" in mistake(*command(tmp_path / "i", "--neurons-l0", l0, dictionary="neurons"))


def test_places_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each is refused before the model is loaded."""
    monkeypatch.setattr("lucida.cli.index._microscope", None)
    (tmp_path / "file").write_text("dear diary")
    assert "is a file" in mistake(*command(tmp_path / "file"))
    assert "cannot write" in mistake(*command(tmp_path / "file" / "i"))
    (tmp_path / "letters").mkdir()
    (tmp_path / "letters" / "a.txt").write_text("dear")
    for more in ((), ("--merge", "--parts", 2)):
        assert "is not a feature index" in mistake(*command(tmp_path / "letters", *more))
    assert "mount point" in mistake(*command(Path("/proc")))
    assert "cannot write" in mistake(*command(Path("/proc/self/i")))
    assert (tmp_path / "letters" / "a.txt").read_text() == "dear"
    assert (tmp_path / "file").read_text() == "dear diary"


def test_parts_that_do_not_fit(tmp_path: Path) -> None:
    merge = command(tmp_path / "i", "--merge", "--parts", 3)
    assert "lacks 3 of 3 parts; index them first: --shard 0/3, 1/3, 2/3" in mistake(*merge)
    for part in range(3):
        index(tmp_path / "i", "--shard", f"{part}/3", "--quiet")
    _, second, third = sorted((tmp_path / "i.parts").iterdir())
    kept = shutil.copytree(third, tmp_path / "kept")
    shutil.rmtree(third)
    assert "lacks 1 of 3 parts; index them first: --shard 2/3" in mistake(*merge)
    shutil.copytree(second, third)
    assert f"shard 1 is there twice: {second} and {third}" in mistake(*merge)
    shutil.rmtree(third)
    shutil.copytree(kept, third)
    content = (third / "examples.parquet").read_bytes()
    (third / "examples.parquet").write_bytes(content[:-50])
    assert f"cut short; delete {third}, index it again" in mistake(*merge)
    assert f"delete {third}, index again" in mistake(*command(tmp_path / "i", "--shard", "2/3"))
    (third / "examples.parquet").write_bytes(content)
    assert "another text" in mistake(*merge, "--tokens", 300)
    another = folder_of(tmp_path / "another", 24, seed=5)
    assert "seed1 (72 features" in mistake(*command(tmp_path / "i", "--merge", "--parts", 3, dictionary=another))
    assert not (tmp_path / "i").exists()
    index(tmp_path / "i", "--merge", "--parts", 3, "--bare")
    changed = command(tmp_path / "i", "--shard", "2/3", "--window", 5)
    assert "(window: 4, now 5)" in mistake(*changed)


def folder_of(path: Path, n_features: int, *, d_model: int = 32, n_layers: int = 3, seed: int = 2) -> str:
    """A random dictionary in a folder."""
    write_circuit_tracer(random_dictionary(n_layers, d_model, n_features, l0=6, seed=seed), path)
    return str(path)


def test_dictionaries_that_do_not_fit(whole: Path, tmp_path: Path) -> None:
    wide = folder_of(tmp_path / "wide", 24, d_model=40)
    assert "d_model 40, this model 32" in mistake(*command(tmp_path / "i", dictionary=wide))
    deep = folder_of(tmp_path / "deep", 24, n_layers=5)
    assert "layers" in mistake(*command(tmp_path / "i", dictionary=deep))
    other = folder_of(tmp_path / "other", 24)
    same = shutil.copytree(whole, tmp_path / "i")
    assert "dictionary_digest" in mistake(*command(same, dictionary=other))
    options = ("--model", bench().model, "--dictionaries", other, "--index", same)
    assert "seed1 (72 features" in mistake("watch", "ba de", *options)
    assert digest(same) == digest(whole)


def test_a_dictionary_with_nan(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    folder = Path(folder_of(tmp_path / "nan", 24))
    path = next(folder.glob("*_0.safetensors"), None) or sorted(folder.glob("*.safetensors"))[0]
    tensors = load_file(path)
    name = next(name for name in tensors if name.startswith("W_enc"))
    tensors[name][3, 3] = torch.nan
    save_file(tensors, path)
    assert "NaN" in mistake(*command(tmp_path / "i", dictionary=str(folder)))
    assert not (tmp_path / "i").exists()


def test_a_full_disk_loses_nothing(whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.MonkeyPatch.context() as patched:
        stop_after(patched, 2)
        run(*command(tmp_path / "i"))
    before = digest(tmp_path / "i")

    def full(*_given: Any, **_settings: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr("lucida.features.build.persist.write_batches", full)
        assert "No space left on device; nothing was changed" in mistake(*command(tmp_path / "i"))
    assert digest(tmp_path / "i") == before
    assert [path.name for path in tmp_path.iterdir()] == ["i"]
    with monkeypatch.context() as patched:
        patched.setattr("lucida.features.finish.build_search", full)
        assert "disk is full" in mistake(*command(tmp_path / "i"))
    index(tmp_path / "i")
    assert digest(tmp_path / "i") == digest(whole)
    assert load_dictionary(bench().dictionary).n_features(0) == 24
