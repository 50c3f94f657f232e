"""From weights in training to a dictionary: thresholds that keep the sparsity, normalisation folded in.

BatchTopK decides by the rest of the batch, which a prompt does not have. Per layer, one cut on the score
(activation times decoder norm) is chosen so that held-out tokens have as many active features as in training;
feature f then is JumpReLU with threshold cut / |W_dec,f|.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from lucida.dictionaries import Dictionary
from lucida.training.dense import preactivations
from lucida.training.mesh import Mesh, kth_largest
from lucida.training.normalise import Normalisation
from lucida.training.transcoder import Transcoder


@torch.no_grad()
def calibrate(
    transcoder: Transcoder, reads: Sequence[Float[Tensor, "token d_model"]], l0: Float[Tensor, " layer"]
) -> Float[Tensor, " layer"]:
    """For each layer the score that leaves `l0` active features per token on these tokens (normalised reads).

    `reads` are those of this process; the cuts are those of all processes' tokens together.
    """
    cuts, mesh = [], transcoder.mesh
    tokens = int(mesh.sum_data_(torch.tensor(len(reads[0]))))
    for layer, x in enumerate(reads):
        scores, kept, norms = [], max(1, round(float(l0[layer]) * tokens)), transcoder.decoder_norms(layer)
        for part in x.split(2048):
            h = preactivations(transcoder, layer, part) * norms
            scores.append(h[h > 0])
        cuts.append(kth_largest(torch.cat(scores), kept, mesh))
    return torch.stack(cuts)


@torch.no_grad()
def export(
    transcoder: Transcoder,
    normalisation: Normalisation,
    cuts: Float[Tensor, " layer"] | None,
    *,
    name: str,
    model_name: str | None,
) -> Dictionary:
    """The dictionary that reads and writes what the model does: means and scales are folded into the weights.

    `cuts` are those of `calibrate` (batchtopk). All processes of a run must call this; each gets the whole, in
    main memory, and a GPU holds one layer of it at a time.
    """
    config, mesh = transcoder.config, transcoder.mesh
    encoders, biases, decoders, thresholds = {}, {}, {}, {}
    for layer, parameters in enumerate(transcoder.layers):
        mean, scale = normalisation.read_mean[layer], normalisation.read_scale[layer]
        targets = transcoder.n_targets(layer)
        encoder = whole(mesh, parameters.encoder) / scale
        decoder = whole(mesh, parameters.decoder).view(-1, targets, config.d_model)
        encoders[layer] = encoder.cpu()
        biases[layer] = (whole(mesh, parameters.bias) - encoder @ mean).cpu()
        norms = decoder.flatten(1).norm(dim=1)
        decoders[layer] = (decoder * normalisation.write_scale[layer : layer + targets, None]).cpu()
        if cuts is not None:
            thresholds[layer] = (cuts[layer] / norms.clamp_min(1e-12)).cpu()
        elif parameters.threshold is not None:
            thresholds[layer] = whole(mesh, parameters.threshold).cpu()
    bias = (transcoder.decoder_bias * normalisation.write_scale[:, None] + normalisation.write_mean).cpu()
    return Dictionary.from_tensors(
        encoders=encoders,
        encoder_biases=biases,
        decoders=decoders,
        decoder_biases=bias.detach(),
        activation="jumprelu" if thresholds else "relu",
        thresholds=thresholds or None,
        reads_at=config.reads_at,
        writes_at="resid",
        name=name,
        model_name=model_name,
    )


def whole(mesh: Mesh, tensor: Tensor) -> Tensor:
    """A sharded tensor of features, joined, without its gradient."""
    return mesh.gather_features(tensor.detach())


@torch.no_grad()
def start_from(transcoder: Transcoder, normalisation: Normalisation, dictionary: Dictionary) -> None:
    """Take the weights of a trained dictionary: the inverse of `export`. Thresholds serve a jumprelu run only.

    Raises TrainingError when the dictionary has another shape.
    """
    from lucida.errors import TrainingError

    config = transcoder.config
    own, device = transcoder.mesh.own_features(config.n_features), transcoder.device
    for layer, parameters in enumerate(transcoder.layers):
        weights = dictionary.weights.get(layer)
        found = None if weights is None else (len(weights.encoder), len(weights.decoders), dictionary.d_model)
        wanted = (config.n_features, transcoder.n_targets(layer), config.d_model)
        if weights is None or found != wanted or dictionary.reads_at != config.reads_at:
            raise TrainingError(
                f"{dictionary.name} has (features, targets, width) {found} at layer {layer} and reads at "
                f"{dictionary.reads_at}; this run has {wanted} and {config.reads_at}"
            )
        mean, scale = normalisation.read_mean[layer], normalisation.read_scale[layer]
        encoder = weights.encoder[own].to(device, torch.float32)
        parameters.encoder.copy_(encoder * scale)
        parameters.bias.copy_(weights.encoder_bias[own].to(device, torch.float32) + encoder @ mean)
        scales = normalisation.write_scale[layer : layer + len(weights.decoders)]
        rows = [d[own].to(device, torch.float32) / s for s, d in zip(scales, weights.decoders, strict=True)]
        parameters.decoder.copy_(torch.cat(rows, 1))
        if parameters.threshold is not None and weights.threshold is not None:
            parameters.threshold.copy_(weights.threshold[own].float())
    bias = dictionary.decoder_biases.to(device, torch.float32) - normalisation.write_mean
    transcoder.decoder_bias.copy_(bias / normalisation.write_scale[:, None])
