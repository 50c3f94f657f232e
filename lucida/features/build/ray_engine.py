"""The shards of an index on a Ray cluster: actors with one model each; a shard whose actor dies is run again."""

import os
from dataclasses import asdict
from typing import Any

from lucida.errors import FeatureError
from lucida.features.build.jobs import IndexJob
from lucida.progress import Progress, silent


class ShardActor:
    """What Ray Data keeps alive on every worker: a `jobs.Worker`, made when the first shard comes."""

    def __init__(self, job: dict[str, Any]) -> None:
        self.job, self.worker = job, None

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Run the shards of a batch, ``{"shard": [i, ...]}``; a shard that fails by our own error says so in words."""
        from lucida.errors import LucidaError
        from lucida.features.build.jobs import Worker

        places, errors = [], []
        for index in batch["shard"]:
            try:
                self.worker = self.worker or Worker(IndexJob(**self.job))
                places.append(self.worker.run(int(index)).n_places)
                errors.append("")
            except LucidaError as error:
                places.append(-1)
                errors.append(str(error))
        return {"shard": list(batch["shard"]), "n_places": places, "error": errors}


def index_with_ray(
    job: IndexJob, *, workers: int = 2, address: str | None = None, progress: Progress | None = None
) -> int:
    """Run all shards of `job` with `workers` actors; returns the number of token places. Merge with `merge_shards`.

    `address` is a running cluster's ("auto" finds it); None starts Ray on this machine. An actor that is killed is
    started again, and its shard goes on from its last checkpoint where the folder is shared. Raises FeatureError when
    Ray is not installed or a shard could not be made.
    """
    progress = progress or silent
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise FeatureError("--ray needs Ray; install it with: pip install 'camera-lucida[distributed]'") from error
    if not ray.is_initialized():
        # Ray's memory monitor and dashboard are not ours to start; its logs would hide our progress.
        environment = {name: os.environ[name] for name in ("LUCIDA_CACHE", "HF_HUB_OFFLINE") if name in os.environ}
        ray.init(address=address, include_dashboard=False if address is None else None, log_to_driver=False,
                 num_cpus=workers if address is None else None, runtime_env={"env_vars": environment})  # fmt: skip
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    shards = ray.data.from_items([{"shard": index} for index in range(job.n_shards)], override_num_blocks=job.n_shards)
    done = shards.map_batches(
        ShardActor,
        fn_constructor_args=(asdict(job),),
        batch_size=1,
        compute=ray.data.ActorPoolStrategy(size=workers),
        num_cpus=1,
    )
    total, finished = 0, 0
    for row in done.iter_rows():
        if row["error"]:
            raise FeatureError(f"shard {row['shard']} of {job.n_shards}: {row['error']}")
        total, finished = total + int(row["n_places"]), finished + 1
        progress("shards", finished, job.n_shards)
    return total
