"""The list of known models: complete, consistent, and free of hosts and machines."""

import re
from dataclasses import FrozenInstanceError

import pytest

from lucida.errors import ModelError
from lucida.models.registry import DEFAULT_MODEL, REGISTRY, ModelEntry, entry_of_hub_id, find_entry, is_known

PACKAGED = [(entry, source) for entry in REGISTRY.values() for source in entry.sources if source.kind != "hub"]


@pytest.mark.parametrize("name", ["SmolLM2-135M", "smollm2-135m", "SMOLLM2-135M"])
def test_names_ignore_case(name: str):
    assert is_known(name)
    assert find_entry(name) is REGISTRY[DEFAULT_MODEL]


def test_an_unknown_name_gets_the_closest_ones_in_one_line():
    with pytest.raises(ModelError, match="did you mean smollm2-135m") as raised:
        find_entry("smolm2-135m")
    assert "\n" not in str(raised.value)
    assert all(name in str(raised.value) for name in REGISTRY)


@pytest.mark.parametrize("entry", REGISTRY.values(), ids=lambda entry: entry.name)
def test_every_entry_is_complete(entry: ModelEntry):
    assert entry.name == entry.name.lower()
    assert entry.sources
    assert entry.licence
    assert entry.description
    # The parameters are at least those of the embedding and the MLPs that the shape tells of.
    shape = entry.shape
    least = shape.d_vocab * shape.d_model + 2 * shape.layers * shape.d_model * shape.d_ff
    assert least < entry.parameters < 3 * least
    # The hub comes first wherever there is one.
    kinds = [source.kind for source in entry.sources]
    assert "hub" not in kinds[1:]


@pytest.mark.parametrize(("entry", "source"), PACKAGED, ids=lambda value: getattr(value, "name", ""))
def test_every_package_source_is_pinned(entry: ModelEntry, source):
    assert re.fullmatch(r"[0-9a-f]{64}", source.sha256)
    assert re.fullmatch(r"\d+\.\d+\.\d+", source.version)
    assert source.member
    assert source.format in ("gguf", "llama2c")
    assert source.size > 10_000_000
    assert len(set(source.names)) == len(source.names)


def test_parts_are_in_numeric_order():
    source = find_entry("qwen2.5-coder-1.5b").sources[1]
    numbers = [int(re.search(r"(\d+)$", name).group()) for name in source.names]  # pyright: ignore
    assert numbers == list(range(1, 23))


def test_only_anonymous_uploads_need_consent():
    assert {name for name, entry in REGISTRY.items() if entry.needs_consent} == {
        "qwen2.5-coder-0.5b",
        "qwen2.5-coder-1.5b",
    }
    assert not find_entry(DEFAULT_MODEL).needs_consent


def test_no_registry_host_is_written_down():
    assert "://" not in repr(REGISTRY)
    assert not re.search(r"\.(org|com|co|io|net)\b", repr(REGISTRY))


def test_hub_ids_lead_back_to_their_entries():
    for entry in REGISTRY.values():
        for source in entry.sources:
            if source.kind == "hub":
                assert entry_of_hub_id(source.names[0].upper()) is entry
    assert entry_of_hub_id("nobody/nothing") is None


def test_entries_cannot_be_changed():
    with pytest.raises(FrozenInstanceError):
        REGISTRY[DEFAULT_MODEL].name = "other"  # pyright: ignore
