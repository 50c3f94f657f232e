"""What we write, read by circuit-tracer's own model of a feature.

Optional: circuit-tracer needs another transformers than we do, so it lives in an environment of its own. Say where
with LUCIDA_CIRCUIT_TRACER_PYTHON=PATH/bin/python (`pip install torch circuit-tracer`).
"""

import json
import os
import subprocess
from pathlib import Path

import pytest
from exchange_bench import described_index

from lucida.features.exchange import write_feature_json, write_pack

PEER = os.environ.get("LUCIDA_CIRCUIT_TRACER_PYTHON", "")
SCRIPT = """
import gzip, importlib.util, json, sys
from importlib.metadata import distribution
from pathlib import Path

# The module alone: the package would load torch and a model library for ten lines of pydantic.
path = distribution("circuit-tracer").locate_file("circuit_tracer/frontend/feature_models.py")
spec = importlib.util.spec_from_file_location("feature_models", path)
models = importlib.util.module_from_spec(spec)
spec.loader.exec_module(models)

found = {"json": 0, "pack": 0, "examples": 0}
for file in Path(sys.argv[1]).glob("*.json"):
    feature = models.Model.model_validate_json(file.read_text(), strict=True)
    found["json"] += 1
    found["examples"] += sum(len(group.examples) for group in feature.examples_quantiles)
pack = Path(sys.argv[2])
for entry in json.loads(gzip.decompress((pack / "index.json.gz").read_bytes())):
    data = (pack / entry["filename"]).read_bytes()
    for start, end in zip(entry["offsets"], entry["offsets"][1:]):
        length = int.from_bytes(data[start : start + 4], "little")
        assert start + 4 + length == end
        feature = models.Model.model_validate_json(gzip.decompress(data[start + 4 : end]), strict=True)
        assert feature.index == entry["offsets"].index(start)
        found["pack"] += 1
print(json.dumps(found))
"""

pytestmark = pytest.mark.skipif(not PEER, reason="LUCIDA_CIRCUIT_TRACER_PYTHON is not set")


@pytest.mark.parametrize("own_fields", [True, False])
def test_circuit_tracer_takes_every_feature(own_fields: bool, tmp_path: Path) -> None:
    index = described_index(tmp_path / "index")
    write_feature_json(index, tmp_path / "json", own_fields=own_fields)
    write_pack(index, tmp_path / "pack", own_fields=own_fields)
    arguments = [PEER, "-c", SCRIPT, str(tmp_path / "json"), str(tmp_path / "pack")]
    done = subprocess.run(arguments, check=True, capture_output=True, text=True, timeout=120)
    n_examples = sum(len(examples) for _, _, examples in index.each())
    assert json.loads(done.stdout) == {"json": len(index.space), "pack": len(index.space), "examples": n_examples}
