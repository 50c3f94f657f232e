"""What the model's process can do: one module for each kind of job, with `run(scope, request, line) -> dict`."""
