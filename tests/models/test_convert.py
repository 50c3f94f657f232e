"""Conversions are exact, and what is damaged is refused before it is used."""

import json
import random
import struct
from itertools import pairwise
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM, AutoTokenizer

from lucida.errors import ModelError
from lucida.models.folder import check_model_folder
from lucida.models.gguf import convert_gguf, read_gguf_header
from lucida.models.llama2c import (
    FIRST_BYTE,
    FIRST_TEXT,
    Vocabulary,
    build_tokenizer,
    convert_llama2c,
    read_checkpoint,
    spellings,
    split_halves,
)

D, FF, LAYERS, HEADS, KV, CONTEXT = 16, 24, 2, 4, 2, 32


def byte_alphabet() -> list[str]:
    """The 256 characters that byte-level vocabularies spell bytes with."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = (256 + rank for rank in range(68))
    return [chr(byte) if byte in plain else chr(next(others)) for byte in range(256)]


def write_gguf(
    path: Path,
    *,
    add_bos: bool = False,
    pad: int | None = 1,
    tied: bool = True,
    without: str = "",
    spoiled: bool = False,
    tokenizer: bool = True,
) -> Path:
    """Write a tiny random Llama with a byte-level tokenizer, like the real file of the default model."""
    generator = np.random.default_rng(0)
    tokens = ["<|end|>", "<|start|>", *byte_alphabet(), "Ġt", "he", "Ġthe", "ĠĠ"]
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_name("tiny")
    writer.add_block_count(LAYERS)
    writer.add_context_length(CONTEXT)
    writer.add_embedding_length(D)
    writer.add_feed_forward_length(FF)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV)
    writer.add_rope_freq_base(5000.0)
    writer.add_rope_dimension_count(D // HEADS)
    writer.add_layer_norm_rms_eps(1e-4)
    writer.add_vocab_size(len(tokens))
    if tokenizer:
        writer.add_tokenizer_model("gpt2")
        writer.add_tokenizer_pre("smollm")
        writer.add_token_list(tokens)
        writer.add_token_types([3, 3] + [1] * (len(tokens) - 2))
        writer.add_token_merges(["Ġ t", "h e", "Ġt he", "Ġ Ġ"])
        writer.add_bos_token_id(1)
        writer.add_eos_token_id(0)
        writer.add_add_bos_token(add_bos)
        if pad is not None:
            writer.add_pad_token_id(pad)
    shapes = {"token_embd.weight": (len(tokens), D), "output_norm.weight": (D,)}
    shapes |= {} if tied else {"output.weight": (len(tokens), D)}
    for layer in range(LAYERS):
        block = {"attn_norm": (D,), "ffn_norm": (D,), "attn_q": (D, D), "attn_output": (D, D)}
        block |= {"attn_k": (D // HEADS * KV, D), "attn_v": (D // HEADS * KV, D)}
        block |= {"ffn_gate": (FF, D), "ffn_up": (FF, D), "ffn_down": (D, FF)}
        shapes |= {f"blk.{layer}.{name}.weight": shape for name, shape in block.items()}
    for name, shape in shapes.items():
        values = generator.normal(size=shape).astype(np.float32)
        if spoiled and name == "output_norm.weight":
            values[3] = np.nan
        if name != without:
            writer.add_tensor(name, values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_gguf(tmp_path_factory.mktemp("gguf") / "tiny.gguf")


@pytest.fixture(scope="module")
def converted(tiny: Path) -> Path:
    folder = tiny.parent / "converted"
    folder.mkdir()
    convert_gguf(tiny, folder)
    return folder


def logits(model, ids: list[int]) -> torch.Tensor:
    with torch.no_grad():
        return model(torch.tensor([ids])).logits


@pytest.mark.parametrize("tied", [True, False])
def test_converted_logits_equal_those_of_the_gguf(tmp_path: Path, tied: bool):
    path = write_gguf(tmp_path / "model.gguf", tied=tied)
    convert_gguf(path, tmp_path / "out")
    expected = AutoModelForCausalLM.from_pretrained(str(tmp_path), gguf_file="model.gguf")
    found = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    ids = [5, 9, 1, 40, 41, 200]
    assert torch.equal(logits(found, ids), logits(expected, ids))
    assert found.config.tie_word_embeddings is tied
    assert found.config.rope_parameters["rope_theta"] == 5000.0
    assert found.config.rms_norm_eps == pytest.approx(1e-4)
    assert found.config.max_position_embeddings == CONTEXT
    check_model_folder(tmp_path / "out")


def test_bfloat16_is_the_rounded_float32(tmp_path: Path, tiny: Path, converted: Path):
    convert_gguf(tiny, tmp_path / "bf16", dtype="bfloat16")
    exact = AutoModelForCausalLM.from_pretrained(converted).state_dict()
    rounded = AutoModelForCausalLM.from_pretrained(tmp_path / "bf16", dtype="auto").state_dict()
    for name, weight in exact.items():
        assert weight.dtype == torch.float32
        assert torch.equal(weight.bfloat16(), rounded[name])


@pytest.mark.parametrize("add_bos", [True, False])
def test_text_begins_with_bos_exactly_when_the_file_says_so(tmp_path: Path, add_bos: bool):
    path = write_gguf(tmp_path / "model.gguf", add_bos=add_bos)
    assert convert_gguf(path, tmp_path / "out") is add_bos
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    ids = tokenizer("the the")["input_ids"]
    assert (ids[0] == tokenizer.bos_token_id) is add_bos
    assert tokenizer.convert_ids_to_tokens(ids)[-1] == "Ġthe"
    assert tokenizer.decode(ids, skip_special_tokens=True) == "the the"


@pytest.mark.parametrize(("pad", "kept"), [(0, None), (1, None), (5, 5)])
def test_a_padding_token_that_is_bos_or_eos_is_dropped(tmp_path: Path, pad: int | None, kept: int | None):
    """A mask made from pad == bos hid the BOS of the default model and moved its logits by 29."""
    path = write_gguf(tmp_path / "model.gguf", pad=pad)
    convert_gguf(path, tmp_path / "out")
    assert AutoTokenizer.from_pretrained(tmp_path / "out").pad_token_id == kept
    for name in ("config.json", "generation_config.json"):
        assert json.loads((tmp_path / "out" / name).read_text()).get("pad_token_id") == kept


def test_indentation_before_a_digit_stays_one_token(converted: Path):
    """Byte-level splitting alone takes one space of two along with the digit; this vocabulary's did not."""
    tokenizer = AutoTokenizer.from_pretrained(converted)
    assert tokenizer.convert_ids_to_tokens(tokenizer("a  12")["input_ids"]) == ["a", "ĠĠ", "1", "2"]


def test_a_file_without_a_tokenizer_gives_a_folder_without_one(tmp_path: Path):
    path = write_gguf(tmp_path / "model.gguf", tokenizer=False)
    assert convert_gguf(path, tmp_path / "out") is None
    assert not (tmp_path / "out" / "tokenizer.json").exists()
    check_model_folder(tmp_path / "out")


def test_a_missing_tensor_is_refused_and_not_made_up(tmp_path: Path):
    path = write_gguf(tmp_path / "model.gguf", without="blk.1.ffn_up.weight")
    with pytest.raises(ModelError, match=r"lacks 1 tensors, .*layers\.1\.mlp\.up_proj"):
        convert_gguf(path, tmp_path / "out")


def test_weights_that_are_not_finite_are_refused(tmp_path: Path):
    path = write_gguf(tmp_path / "model.gguf", spoiled=True)
    with pytest.raises(ModelError, match=r"not finite in model\.norm\.weight"):
        convert_gguf(path, tmp_path / "out")


def test_an_architecture_that_cannot_be_read_is_named(tmp_path: Path):
    path = tmp_path / "model.gguf"
    writer = gguf.GGUFWriter(path, "clip")
    writer.add_tensor("a", np.zeros((4, 4), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with pytest.raises(ModelError, match=r"architecture clip"):
        convert_gguf(path, tmp_path / "out")


def test_nothing_is_printed(tmp_path: Path, tiny: Path, capfd: pytest.CaptureFixture[str]):
    seen: list[tuple[str, int, int | None]] = []
    convert_gguf(tiny, tmp_path / "out", progress=lambda *step: seen.append(step))
    assert capfd.readouterr() == ("", "")
    steps = [done for stage, done, _ in seen if stage == "de-quantising"]
    assert steps == sorted(steps)
    assert seen[-1][0] == "reading the tokenizer"


def test_the_header_is_read(tiny: Path):
    header = read_gguf_header(tiny)
    assert header.architecture == "llama"
    assert header.metadata["llama.embedding_length"] == D
    assert header.metadata["tokenizer.ggml.tokens"] == 262
    assert len(header.tensors) == 2 + 9 * LAYERS
    assert header.adds_bos is False


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(cut=st.floats(0, 0.999))
def test_a_truncated_gguf_is_refused_wherever_it_ends(tmp_path: Path, tiny: Path, cut: float):
    data = tiny.read_bytes()
    path = tmp_path / "cut.gguf"
    path.write_bytes(data[: int(len(data) * cut)])
    with pytest.raises(ModelError, match="not a whole GGUF file") as raised:
        read_gguf_header(path)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    "data",
    [
        b"PK\x03\x04" + bytes(100),
        b"GGUF" + struct.pack("<IQQ", 99, 1, 1),
        b"GGUF" + struct.pack("<IQQ", 3, 2**62, 0),
        b"GGUF" + struct.pack("<IQQQ", 3, 0, 1, 2**63) + bytes(64),
        b"GGUF" + struct.pack("<IQQQ", 3, 0, 1, 1) + b"a" + struct.pack("<IIQ", 9, 8, 2**60) + bytes(64),
        b"GGUF" + struct.pack("<IQQQ", 3, 0, 1, 1) + b"a" + struct.pack("<IIQ", 9, 9, 2**60) + bytes(64),
    ],
    ids=["zip", "version", "tensors", "key", "strings", "nested"],
)
def test_a_corrupt_gguf_is_refused_at_once(tmp_path: Path, data: bytes):
    path = tmp_path / "corrupt.gguf"
    path.write_bytes(data)
    with pytest.raises(ModelError, match="not a whole GGUF file"):
        read_gguf_header(path)


# --- llama2.c -------------------------------------------------------------------------------------------


def train_vocabulary(text: str, merges: int) -> Vocabulary:
    """Byte-pair training as it is told in textbooks: the commonest pair becomes the next token."""
    symbols = list(text)
    tokens = sorted({" ", *symbols})
    learned: list[str] = []
    for _ in range(merges):
        pairs = list(pairwise(symbols))
        best = max(sorted({a + b for a, b in pairs} - set(learned)), key=[a + b for a, b in pairs].count)
        learned.append(best)
        merged: list[str] = []
        for symbol in symbols:
            if merged and merged[-1] + symbol == best:
                merged[-1] = best
            else:
                merged.append(symbol)
        symbols = merged
    scored = learned + tokens
    return Vocabulary(
        tuple(token.encode() for token in ["<unk>", "\n<s>\n", "\n</s>\n", *["?"] * 256, *scored]),
        tuple([0.0] * FIRST_TEXT + [-float(rank) for rank in range(len(scored))]),
    )


def literal_encode(vocabulary: Vocabulary, text: str) -> list[int]:
    """Return the ids as llama2.c's encode() finds them: look up characters, then merge the best pair."""
    strings = [token.decode() for token in vocabulary.tokens]
    lookup = {token: index for index, token in enumerate(strings) if index >= FIRST_TEXT}
    ids = [1] + ([lookup[" "]] if text else [])
    for character in text:
        known = lookup.get(character)
        ids += [known] if known is not None else [byte + FIRST_BYTE for byte in character.encode()]
    while True:
        best, at = -1e10, -1
        for index in range(len(ids) - 1):
            pair = [strings[i] if i >= FIRST_TEXT else f"\0{i}\0" for i in ids[index : index + 2]]
            merged = lookup.get("".join(pair))
            if merged is not None and vocabulary.scores[merged] > best:
                best, at = vocabulary.scores[merged], index
        if at < 0:
            return ids
        pair = strings[ids[at]] + strings[ids[at + 1]]
        ids[at : at + 2] = [lookup[pair]]


STORY = "once upon a time there was a little girl who loved the sea and the sun, and the sea loved her. "
STORY += "she said: the time is now! they ran to the little house and then they sat there, upon the stairs."


@pytest.fixture(scope="module")
def vocabulary() -> Vocabulary:
    return train_vocabulary(STORY, 60)


def random_sentence(generator: random.Random) -> str:
    alphabet = "etaoins hrld  ,.!xQé世😀\n"
    words = [generator.choice(STORY.split()) for _ in range(generator.randint(0, 8))]
    noise = "".join(generator.choice(alphabet) for _ in range(generator.randint(0, 12)))
    return " ".join(words) + noise


def test_encoding_equals_llama2c_on_random_sentences(vocabulary: Vocabulary):
    tokenizer, generator = build_tokenizer(vocabulary), random.Random(0)
    for _ in range(200):
        text = random_sentence(generator)
        assert tokenizer.encode(text).ids == literal_encode(vocabulary, text), text


@settings(max_examples=60, deadline=None)
@given(text=st.text(st.characters(exclude_characters="▁", exclude_categories=["Cs"]), max_size=30))
def test_decoding_gives_the_text_back(text: str):
    tokenizer = build_tokenizer(train_vocabulary(STORY[:40], 10))
    for special in ("<unk>", "<s>", "</s>"):
        text = text.replace(special, "")
    assert tokenizer.decode(tokenizer.encode(text).ids) == text


def test_a_token_listed_twice_is_refused(vocabulary: Vocabulary):
    twice = Vocabulary((*vocabulary.tokens, vocabulary.tokens[-1]), (*vocabulary.scores, -99.0))
    with pytest.raises(ModelError, match="twice"):
        spellings(twice)


def checkpoint_bytes(vocabulary: Vocabulary, *, tied: bool = True, seed: int = 0) -> bytes:
    generator = np.random.default_rng(seed)
    vocab, half, d_kv = len(vocabulary.tokens), D // HEADS // 2, D // HEADS * KV
    header = struct.pack("<7i", D, FF, LAYERS, HEADS, KV, vocab if tied else -vocab, CONTEXT)
    per_layer = [D, D * D, d_kv * D, d_kv * D, D * D, D, FF * D, D * FF, FF * D]
    counts = [vocab * D] + [LAYERS * count for count in per_layer] + [D, CONTEXT * half, CONTEXT * half]
    counts += [] if tied else [vocab * D]
    weights = b"".join(generator.normal(size=count).astype("<f4").tobytes() for count in counts)
    tokens = struct.pack("<i", max(map(len, vocabulary.tokens)))
    for token, score in zip(vocabulary.tokens, vocabulary.scores, strict=True):
        tokens += struct.pack("<fi", score, len(token)) + token
    return header + weights + tokens


def literal_forward(data: bytes, ids: list[int]) -> np.ndarray:
    """Return the last logits as llama2.c computes them, one position and one head at a time."""
    model = read_checkpoint(data)
    w, size = {k: v.astype(np.float64) for k, v in model.tensors.items()}, model.dim // model.heads

    def norm(x: np.ndarray, weight: np.ndarray) -> np.ndarray:
        return x * weight / np.sqrt((x * x).mean() + 1e-5)

    def rotate(vector: np.ndarray, position: int) -> np.ndarray:
        out = vector.copy()
        for i in range(0, len(vector), 2):
            angle = position / 10000 ** ((i % size) / size)
            a, b, c, s = vector[i], vector[i + 1], np.cos(angle), np.sin(angle)
            out[i], out[i + 1] = a * c - b * s, a * s + b * c
        return out

    keys: list[list] = [[] for _ in range(model.layers)]
    values: list[list] = [[] for _ in range(model.layers)]
    x = np.zeros(model.dim)
    for position, token in enumerate(ids):
        x = w["embedding"][token].copy()
        for layer in range(model.layers):
            h = norm(x, w["attention_norm"][layer])
            query = rotate(w["wq"][layer] @ h, position)
            keys[layer].append(rotate(w["wk"][layer] @ h, position))
            values[layer].append(w["wv"][layer] @ h)
            mixed = np.zeros(model.dim)
            for head in range(model.heads):
                own = slice(head * size, (head + 1) * size)
                group = head // (model.heads // model.kv_heads)
                shared = slice(group * size, (group + 1) * size)
                scores = np.array([query[own] @ key[shared] for key in keys[layer]]) / np.sqrt(size)
                weights = np.exp(scores - scores.max())
                weights /= weights.sum()
                pairs = zip(weights, values[layer], strict=True)
                mixed[own] = sum(weight * value[shared] for weight, value in pairs)
            x = x + w["wo"][layer] @ mixed
            h = norm(x, w["mlp_norm"][layer])
            gate = w["w1"][layer] @ h
            x = x + w["w2"][layer] @ (gate / (1 + np.exp(-gate)) * (w["w3"][layer] @ h))
    return w.get("output", w["embedding"]) @ norm(x, w["final_norm"])


@pytest.mark.parametrize("tied", [True, False])
def test_a_converted_checkpoint_computes_what_llama2c_does(tmp_path: Path, vocabulary: Vocabulary, tied: bool):
    data = checkpoint_bytes(vocabulary, tied=tied)
    (tmp_path / "model").write_bytes(data)
    assert convert_llama2c(tmp_path / "model", tmp_path / "out") is True
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    ids = tokenizer("the sea")["input_ids"]
    assert ids == literal_encode(vocabulary, "the sea")
    expected = literal_forward(data, ids)
    np.testing.assert_allclose(logits(model, ids)[0, -1].numpy(), expected, rtol=1e-4, atol=1e-4)


def test_without_the_permutation_the_logits_would_differ(tmp_path: Path, vocabulary: Vocabulary):
    weight = np.arange(2 * 8 * 3, dtype=np.float32).reshape(2, 8, 3)
    moved = split_halves(weight, 2)
    assert not np.array_equal(moved, weight)
    # Pair j of a head lands in row j of the first half and row j of the second.
    for head in range(2):
        for j in range(2):
            rows = weight[:, head * 4 + 2 * j], weight[:, head * 4 + 2 * j + 1]
            assert np.array_equal(moved[:, head * 4 + j], rows[0])
            assert np.array_equal(moved[:, head * 4 + 2 + j], rows[1])


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(cut=st.floats(0, 0.999))
def test_a_truncated_llama2c_file_is_refused(tmp_path: Path, vocabulary: Vocabulary, cut: float):
    data = checkpoint_bytes(vocabulary)
    (tmp_path / "model").write_bytes(data[: int(len(data) * cut)])
    with pytest.raises(ModelError, match=r"llama2\.c"):
        convert_llama2c(tmp_path / "model", tmp_path / "out")


# --- real models ----------------------------------------------------------------------------------------


def real_folder(name: str) -> Path:
    """The default model is fetched; the others are tested where `lucida models fetch NAME` was run before."""
    from lucida.errors import FetchError
    from lucida.models.fetch import locate

    try:
        return locate(name, offline=name != "smollm2-135m").folder
    except FetchError as error:
        pytest.skip(str(error))


@pytest.mark.real
@pytest.mark.parametrize(
    ("name", "prompt", "answer", "least"),
    [
        ("smollm2-135m", "The National Digital Analytics Group (N", "DA", 0.85),
        ("smollm2-135m", 'The opposite of "small" is "', "large", 0.2),
        ("gemma-3-270m", 'The opposite of "small" is "', "large", 0.3),
        ("qwen2.5-coder-0.5b", "calc: 36+59=", "9", 0.7),
        ("stories15m", "Once upon a", "time", 0.9),
    ],
)
def test_real_models_answer_as_measured(name: str, prompt: str, answer: str, least: float):
    folder = real_folder(name)
    model = AutoModelForCausalLM.from_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    top = logits(model, tokenizer(prompt)["input_ids"])[0, -1].softmax(-1).max(-1)
    assert tokenizer.decode([int(top.indices)]).strip() == answer
    assert top.values > least


@pytest.mark.real
def test_the_real_story_tokenizer_encodes_as_llama2c():
    folder = real_folder("stories15m")
    stored = json.loads((folder / "tokenizer.json").read_text())["model"]
    strings = [token.replace("▁", " ") for token in sorted(stored["vocab"], key=stored["vocab"].get)]
    scores = dict.fromkeys(strings, -1e9)
    for rank, (first, second) in reversed([*enumerate(stored["merges"])]):
        scores[(first + second).replace("▁", " ")] = -float(rank)
    vocabulary = Vocabulary(tuple(token.encode() for token in strings), tuple(scores.values()))
    tokenizer, generator = AutoTokenizer.from_pretrained(folder), random.Random(0)
    for _ in range(200):
        text = random_sentence(generator)
        assert tokenizer(text)["input_ids"] == literal_encode(vocabulary, text), text
