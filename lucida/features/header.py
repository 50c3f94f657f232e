"""``index.json``: what a feature index was made from, and what it holds."""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from lucida.atomic import replacing
from lucida.errors import FeatureError
from lucida.features.space import FeatureSpace
from lucida.models.cache import FileRecord, sha256_of

FORMAT = 1
HEADER = "index.json"


@dataclass(frozen=True)
class IndexHeader:
    """What was indexed and how. Two indexes with equal `identity` hold the same numbers.

    `n_places` is the number of token places that were looked at: frequencies are shares of it. `window` is how
    many tokens before and after a place an example shows. `shard` is (i, n) for a part, (0, 1) for a whole index.
    """

    model: str
    dictionary: str
    dictionary_digest: str
    n_features: tuple[int, ...]
    corpus: str
    corpus_fingerprint: str
    tokenizer: str
    context: int
    k: int
    samples: int
    window: int
    sampled_places: int
    n_places: int
    n_documents: int
    settings: dict[str, Any] = field(default_factory=dict)
    shard: tuple[int, int] = (0, 1)
    date: str = ""
    files: dict[str, FileRecord] = field(default_factory=dict)

    @property
    def tiles(self) -> tuple[int, int]:
        """Tiles of the corpus that this index (or shard) has seen, and how many it is to see."""
        return int(self.settings.get("tiles_done", 0)), int(self.settings.get("tiles", 0))

    @property
    def complete(self) -> bool:
        """Whether it has seen all it was to see."""
        done, wanted = self.tiles
        return done >= wanted

    @property
    def identity(self) -> dict[str, Any]:
        """What decides the numbers of an index, however it was divided."""
        names = ("model", "dictionary", "dictionary_digest", "corpus_fingerprint", "tokenizer", "context", "k")
        found = {name: getattr(self, name) for name in (*names, "samples", "window", "sampled_places")}
        settings = {name: self.settings.get(name) for name in ("rows_at_once", "dtype", "units")}
        return found | {"n_features": tuple(self.n_features)} | settings

    @property
    def space(self) -> FeatureSpace:
        """The features, numbered."""
        return FeatureSpace(tuple(self.n_features))

    def save(self, folder: Path) -> None:
        """Write ``index.json``, the last file of an index to be written."""
        with replacing(folder / HEADER) as temporary:
            temporary.write_text(json.dumps({"format": FORMAT, **asdict(self)}, indent=1) + "\n", "utf-8")

    @classmethod
    def open(cls, folder: str | Path) -> "IndexHeader":
        """The header of an index. Raises FeatureError when `folder` holds none, or a damaged one."""
        path = Path(folder) / HEADER
        try:
            fields = json.loads(path.read_text("utf-8"))
            found = fields.pop("format")
            if found != FORMAT:
                raise FeatureError(f"{path} has format {found!r}, this version reads {FORMAT}; index again")
            files = {name: FileRecord(**entry) for name, entry in fields.pop("files").items()}
            fields |= {"n_features": tuple(fields["n_features"]), "shard": tuple(fields["shard"])}
            return cls(**fields, files=files)
        except OSError as error:
            raise FeatureError(f"{folder} is not a feature index: it has no readable {HEADER}") from error
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            if isinstance(error, FeatureError):
                raise
            raise FeatureError(f"{path} is damaged; index again") from error


def record_files(folder: Path, names: list[str]) -> dict[str, FileRecord]:
    """Size and sha256 of files of an index."""
    return {name: FileRecord((folder / name).stat().st_size, sha256_of(folder / name)) for name in names}
