"""Write or refresh a data package in packages/ from a dictionary and its card (--help says how)."""

import argparse
import json
from dataclasses import replace
from pathlib import Path

from lucida.dictionaries import open_dictionary, relative_error, write_package
from lucida.dictionaries.formats.manifest import read_manifest
from lucida.errors import LucidaError

ROOT = Path(__file__).resolve().parents[1]


def main() -> None:
    """Read the dictionary and the card, write the package, say how large it is and what rounding changed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("dictionary", help="a folder of any format we read, or the name of a shipped dictionary")
    parser.add_argument("--name", required=True, help="such as stories15m-clt; the package is camera-lucida-NAME")
    parser.add_argument("--model", help="the model's name in the registry (default: what the dictionary says)")
    parser.add_argument("--card", type=Path, required=True, help="JSON file: data, recipe, seeds, metrics, default")
    parser.add_argument("--bits", type=float, default=5, help="bits a weight, 3 to 8, or 16 or 32 (default: 5)")
    parser.add_argument("--version", default="1.0.0", help="version of the package (default: 1.0.0)")
    parser.add_argument("--packages", type=Path, default=ROOT / "packages", help="the folder of packages")
    given = parser.parse_args()
    try:
        make(given)
    except (LucidaError, OSError, json.JSONDecodeError) as error:
        parser.error(str(error))


def make(given: argparse.Namespace) -> None:
    """Write the package that the options ask for."""
    dictionary = open_dictionary(given.dictionary)
    dictionary = replace(dictionary, name=given.name, model_name=given.model or dictionary.model_name)
    bits = int(given.bits) if given.bits == int(given.bits) else given.bits
    card = json.loads(given.card.read_text("utf-8"))
    folder = write_package(dictionary, given.packages, bits=bits, card=card, version=given.version)
    place = next(folder.glob("lucida_dictionary_*"))
    manifest, error = read_manifest(place), relative_error(open_dictionary(place), dictionary)
    rate = 8 * manifest.size / manifest.n_weights
    print(f"{folder}: {manifest.size / 1e6:.1f} MB in {len(manifest.files)} files, {rate:.2f} bits a weight, ", end="")
    print(f"relative error {error:.2%}")


if __name__ == "__main__":
    main()
