"""circuit-tracer on a model folder, measured: `PEER_PYTHON benchmarks/peer_circuit_tracer.py SPEC`, JSON in and out.

Runs under the interpreter that has circuit-tracer, without lucida. TransformerLens loads a model only by a name from
its own list and asks the hub for it, so the model is built here from the folder's config and its weights are handed
over with TransformerLens' own conversion: the same network, nothing downloaded. Llama-like models without biases only.
"""

# pyright: reportMissingImports=false

import json
import os
import sys
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import numpy as np
import torch
from circuit_tracer.attribution.attribute import attribute
from circuit_tracer.replacement_model.replacement_model_transformerlens import TransformerLensReplacementModel
from circuit_tracer.transcoder.single_layer_transcoder import load_transcoder_set
from meter import measure
from transformer_lens import HookedTransformerConfig
from transformer_lens.pretrained.weight_conversions import convert_llama_weights
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast


def main() -> None:
    """Trace once and print costs; with "save" also write the graph's arrays to that .npz file."""
    spec = json.loads(sys.argv[1])
    model = load(Path(spec["model"]), Path(spec["dictionary"]))
    # Start the threads of the matrix products before the clock, as the measurement of ours does.
    torch.mm(torch.randn(512, 512), torch.randn(512, 512))
    with measure() as cost:
        graph = attribute(
            torch.tensor(spec["tokens"]),
            model,
            max_n_logits=10,
            desired_logit_prob=0.95,
            batch_size=spec["batch_size"],
            max_feature_nodes=spec["max_nodes"],
        )
    if spec["save"]:
        np.savez(
            spec["save"],
            adjacency=graph.adjacency_matrix.numpy(),
            active=graph.active_features.numpy(),
            selected=graph.selected_features.numpy(),
            logits=np.array([target.vocab_idx for target in graph.logit_targets]),
        )
    print(json.dumps({"cost": cost.as_dict(), "active": len(graph.active_features)} | versions()))


def load(
    folder: Path, dictionary: Path, *, reads_at: str = "mlp.hook_in", writes_at: str = "mlp.hook_out"
) -> TransformerLensReplacementModel:
    """The replacement model of a folder of weights and a folder in circuit-tracer's own dictionary format."""
    raw = json.loads((folder / "config.json").read_text())
    rope = raw.get("rope_parameters") or {}
    config = LlamaConfig(**{"rope_theta": rope.get("rope_theta", 10000.0)} | raw)
    llama = LlamaForCausalLM.from_pretrained(folder, config=config, dtype=torch.float32)
    paths = {int(p.stem.split("_")[1]): str(p) for p in dictionary.glob("layer_*.safetensors")}
    transcoders = load_transcoder_set(
        paths,
        scan="random",
        feature_input_hook=reads_at,
        feature_output_hook=writes_at,
        device=torch.device("cpu"),
        lazy_encoder=False,
    )
    cfg = hooked_config(config, folder.name)
    model = TransformerLensReplacementModel(cfg)
    # Given to the constructor, it would be looked up on the hub once more.
    model.tokenizer = read_tokenizer(folder)
    with torch.no_grad():
        state = convert_llama_weights(llama, cfg)
        model.load_state_dict(model.state_dict() | state, strict=True)
    del llama, state
    model.eval()
    model._configure_replacement_model(transcoders)
    return model


def read_tokenizer(folder: Path) -> PreTrainedTokenizerFast:
    """The folder's tokenizer, whatever class a newer transformers says it is."""
    raw = json.loads((folder / "tokenizer_config.json").read_text())
    special = {name: raw[name] for name in ("bos_token", "eos_token", "unk_token", "pad_token") if raw.get(name)}
    return PreTrainedTokenizerFast(tokenizer_file=str(folder / "tokenizer.json"), **special)


def hooked_config(config: LlamaConfig, name: str) -> HookedTransformerConfig:
    """The same network in TransformerLens' words."""
    d_head = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    grouped = config.num_key_value_heads != config.num_attention_heads
    return HookedTransformerConfig(
        n_layers=config.num_hidden_layers,
        d_model=config.hidden_size,
        d_head=d_head,
        n_heads=config.num_attention_heads,
        n_key_value_heads=config.num_key_value_heads if grouped else None,
        d_mlp=config.intermediate_size,
        d_vocab=config.vocab_size,
        n_ctx=min(config.max_position_embeddings, 1024),
        act_fn=config.hidden_act,
        eps=config.rms_norm_eps,
        normalization_type="RMS",
        final_rms=True,
        gated_mlp=True,
        positional_embedding_type="rotary",
        rotary_dim=d_head,
        rotary_base=int(config.rope_theta),
        rotary_adjacent_pairs=False,
        model_name=name,
        original_architecture="LlamaForCausalLM",
        default_prepend_bos=False,
        device="cpu",
        dtype=torch.float32,
    )


def versions() -> dict[str, Any]:
    """The versions that ran."""
    from importlib.metadata import version

    names = ("circuit-tracer", "transformer-lens", "torch", "transformers")
    return {"versions": {name: version(name) for name in names}}


if __name__ == "__main__":
    main()
