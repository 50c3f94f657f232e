"""What sparse products save in training: one step of a cross-layer transcoder, ours against the dense path.

python benchmarks/train_sparse.py    # 6 layers of width 288, F = 4,096, k = 16, 2,048 tokens, one thread

Both do the same: BatchTopK, reconstruction, gradients, Adam; the model's forward is left out of both. The losses that
are printed are those of the same number of steps.
"""

import time
from statistics import median

import torch
from torch import Tensor

from lucida.training import TrainingConfig
from lucida.training.dense import dense_batchtopk
from lucida.training.step import Schedule, step
from lucida.training.transcoder import Transcoder

N_LAYERS, D_MODEL, N_FEATURES, K, TOKENS, REPEATS = 6, 288, 4096, 16, 2048, 3


class Case:
    """A transcoder, its optimiser and one batch of noise."""

    def __init__(self, products: str) -> None:
        self.config = TrainingConfig.plan(
            n_layers=N_LAYERS, d_model=D_MODEL, n_features=N_FEATURES, n_tokens=10**6, span=N_LAYERS, k=float(K),
            products=products, aux_weight=0.0,
        )  # fmt: skip
        generator = torch.Generator().manual_seed(0)
        shape = (2, N_LAYERS, TOKENS, D_MODEL)
        self.reads, self.writes = (list(part) for part in torch.randn(shape, generator=generator))
        self.transcoder = Transcoder(self.config)
        self.transcoder.start(self.reads, self.writes)
        self.optimiser = torch.optim.Adam([tensor for _, tensor in self.transcoder.named()], lr=1e-5, fused=True)
        self.low = 0.0

    def sparse(self) -> float:
        """The step of the training loop."""
        dead = [torch.zeros(N_FEATURES, dtype=torch.bool)] * N_LAYERS
        schedule = Schedule(budget=K * N_LAYERS * TOKENS, penalty=0.0, low=self.low, turn=0)
        outcome = step(self.transcoder, self.reads, self.writes, schedule, dead)
        self.low = 0.9 * outcome.cut
        return outcome.loss

    def dense(self) -> float:
        """The same by dense activations, dense products and autograd."""
        products = getattr(torch, self.config.products)
        codes = dense_batchtopk(self.transcoder, self.reads, K * N_LAYERS * TOKENS)
        pairs = zip(codes, self.transcoder.layers, strict=True)
        parts = [(a.to(products) @ layer.decoder.to(products)).float() for a, layer in pairs]
        loss = torch.zeros(())
        for target in range(N_LAYERS):
            found: Tensor = self.transcoder.decoder_bias[target] + torch.stack(
                [parts[s][:, (target - s) * D_MODEL : (target - s + 1) * D_MODEL] for s in range(target + 1)]
            ).sum(0)
            loss = loss + (found - self.writes[target]).square().mean()
        loss.backward()
        return float(loss)

    def seconds(self, kind: str) -> tuple[float, float]:
        """CPU seconds of a step, Adam included (the median), and the last loss."""
        times, loss = [], 0.0
        for _ in range(REPEATS + 1):
            began = time.process_time()
            self.optimiser.zero_grad()
            loss = getattr(self, kind)()
            self.optimiser.step()
            times.append(time.process_time() - began)
        return median(times[1:]), loss


def main() -> None:
    """Print tokens per CPU-second of both paths in both types."""
    torch.set_num_threads(1)
    for products in ("float32", "bfloat16"):
        (ours, loss), (dense, dense_loss) = (Case(products).seconds(kind) for kind in ("sparse", "dense"))
        print(
            f"{products}: sparse {TOKENS / ours:,.0f} tokens per CPU-second (loss {loss:.4f}), "
            f"dense {TOKENS / dense:,.0f} (loss {dense_loss:.4f}), {dense / ours:.1f} times"
        )


if __name__ == "__main__":
    main()
