"""Swap experiments on SmolLM2: take the features of one word out, put another word's in; does the answer change along?

python benchmarks/swaps.py [--tasks opposites capitals] [--json FILE]

The protocol, fixed before any rate was seen (but for the 40, which are for time):

* Prompts `The opposite of "X" is "` and `The capital of X is`, all X of the lists below that are one token, for which
  the right answer is one token and the model's most probable one.
* Pairs: of the X that pass 40 at the most, in an order drawn from seed 0; each A is paired with the next B in that
  circle whose word and answer are neither A's word nor A's answer, and C is the next after B that differs so from both.
  Every A counts once.
* Of each prompt a graph of its right answer (1,024 features, or 256 neurons). The features of a word are the 50
  strongest of `Graph.strongest` at the word's position ("operand"), or the 50 strongest wherever they stand
  ("anywhere": the features that say the answer are among these).
* The swap: A's features at `suppress`, B's at `strength` times what they were on B's prompt: 0 and 1 ("1x"), -1 and
  2 ("2x"). Everything runs live, attention too. "all": all features that are active at the word's position, 1x,
  the most that can be done there.
* Controls: matched, 5 draws: other features of A's prompt of the same positions that write as much are changed by as
  much (`matched_controls`). Another word: C's features put in, and B's answer asked for.
* Success: B's answer is the most probable token. Beside it: B's answer is more probable than A's; A's answer is no
  longer the most probable. Shares over pairs with Wilson's 95 % interval; a pair's control is the mean of its draws.
"""

import argparse
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from meter import measure

from lucida import Microscope
from lucida.graph import Graph, Node
from lucida.interventions import Donor, Edits, Outcome, Swap, donor_of, matched_controls, resolve, sweep
from lucida.interventions.changes import Case, Donated, Inject
from lucida.interventions.probe import Probe
from lucida.models.linear import FrozenModel
from lucida.models.recording import record
from lucida.statistics import wilson

FEATURES, NODES, DRAWS = 50, 1024, 5
STRENGTHS = {"1x": (1.0, 0.0), "2x": (2.0, -1.0)}
"""Name: (strength of what is put in, factor of what is taken out)."""
TEMPLATES = {"opposites": 'The opposite of "{}" is "', "capitals": "The capital of {} is"}
SPACES = {"opposites": ("", ""), "capitals": (" ", " ")}
"""What stands before the word in the prompt, and before the answer, inside their tokens."""
OPPOSITES = """hot cold|cold hot,warm|big small,little|small big,large|large small,little|tall short,small
short long,tall|long short|fast slow|slow fast,quick|quick slow|happy sad,unhappy|sad happy|old young,new|new old
young old|rich poor|poor rich|hard soft,easy|soft hard|easy hard,difficult|difficult easy|light dark,heavy
dark light,bright|bright dark,dull|heavy light|up down|down up|left right|right left,wrong|wrong right|good bad,evil
bad good|evil good|strong weak|weak strong|high low|low high|wet dry|dry wet|early late|late early|open closed,close
closed open|close open,far|full empty|empty full|black white|white black|day night|night day|true false|false true
yes no|no yes|love hate,hatred|hate love|win lose|lose win|male female|female male|man woman|woman man|inside outside
outside inside|positive negative|negative positive|public private|private public|clean dirty|dirty clean|deep shallow
thin thick,fat|thick thin|wide narrow|narrow wide|cheap expensive|expensive cheap|north south|south north|east west
west east|war peace|peace war|begin end|start end,stop,finish|stop start,go|end begin,beginning,start|buy sell|sell buy
internal external|external internal|major minor|minor major|safe dangerous,unsafe|active passive,inactive|passive active
first last|last first|above below|below above|before after|after before|more less|less more|maximum minimum
minimum maximum|success failure|failure success|increase decrease|decrease increase|simple complex|complex simple
life death|death life|friend enemy|enemy friend|summer winter|winter summer|sweet sour,bitter|near far|far near
loud quiet|quiet loud|smooth rough|rough smooth|sharp dull,blunt|dull sharp,bright|alive dead|dead alive|asleep awake"""
CAPITALS = """France Paris|Germany Berlin|Italy Rome|Spain Madrid|Japan Tokyo|China Beijing|Russia Moscow|England London
Britain London|Greece Athens|Egypt Cairo|Ireland Dublin|Portugal Lisbon|Austria Vienna|Poland Warsaw|Sweden Stockholm
Norway Oslo|Denmark Copenhagen|Finland Helsinki|Hungary Budapest|Turkey Ankara|Iran Tehran|Iraq Baghdad|Cuba Havana
Peru Lima|Chile Santiago|Canada Ottawa|Australia Canberra|Kenya Nairobi|Thailand Bangkok|Vietnam Hanoi|Nepal Kathmandu
Pakistan Islamabad|Afghanistan Kabul|Syria Damascus|Lebanon Beirut|Ukraine Kiev,Kyiv|Scotland Edinburgh|Wales Cardiff
Belgium Brussels|Switzerland Bern|Nigeria Abuja|Ghana Accra|Jamaica Kingston|Serbia Belgrade|Bulgaria Sofia
Romania Bucharest|Venezuela Caracas|Colombia Bogota|Korea Seoul|Israel Jerusalem|Jordan Amman
Libya Tripoli|Uganda Kampala|Ethiopia Addis|Philippines Manila|Indonesia Jakarta|Bangladesh Dhaka|Croatia Zagreb
Colorado Denver|Georgia Atlanta|Texas Austin|Hawaii Honolulu|Massachusetts Boston|Arizona Phoenix|Ohio Columbus
Tennessee Nashville|Utah Salt|Oregon Salem|Alaska Juneau|California Sacramento|Michigan Lansing|Virginia Richmond"""
WORDS = {"opposites": OPPOSITES, "capitals": CAPITALS}


@dataclass(frozen=True, eq=False)
class Word:
    """A word that the model answers right: its prompt's tokens, and the token of the right answer."""

    text: str
    answer_text: str
    answer: int
    tokens: tuple[int, ...]


@dataclass(frozen=True)
class Score:
    """Of one run: the three kinds of success."""

    is_top: bool
    is_above: bool
    is_moved: bool


def main() -> None:
    """Run both tasks with the dictionary and with neurons, print a table for each."""
    options = _options()
    torch.set_num_threads(options.threads)
    scope = Microscope(options.model, options.dictionaries, offline=options.offline)
    neurons = Microscope(scope.model, "neurons")
    rows: list[dict[str, Any]] = []
    with measure() as cost:
        for task in options.tasks:
            known = passing(scope, task)
            words = [known[i] for i in np.random.default_rng(0).permutation(len(known))][: options.most]
            pairs = paired(words)
            position = operand_position(words)
            print(f"\n{task}: {len(known)} of {len(entries(task))} pass, {len(pairs)} pairs", flush=True)
            print("  " + ", ".join(f"{a.text}>{a.answer_text}" for a in words))
            for kind, lens in (("features", scope), ("neurons", neurons)):
                found = [row | {"task": task, "kind": kind} for row in run(lens, words, pairs, position)]
                rows += found
                show(found)
    print(f"\nCPU {cost.cpu:.0f} s, load {cost.load:.1f}")
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1), "utf-8")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--dictionaries", help="default: the shipped one")
    parser.add_argument("--tasks", nargs="+", choices=list(TEMPLATES), default=list(TEMPLATES))
    parser.add_argument("--most", type=int, default=40, help="words of a task that are used at the most")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", type=Path, help="save the rates")
    parser.add_argument("--offline", action="store_true", help="use cached weights only")
    return parser.parse_args()


# --- words and pairs ----------------------------------------------------------------------------------


def passing(scope: Microscope, task: str) -> list[Word]:
    """The words of a task whose prompt the model answers right."""
    model, before, found = scope.model, SPACES[task], []
    for entry in entries(task):
        word, answers = entry.split(" ")
        tokens = model.tokenize(TEMPLATES[task].format(word)).tokens
        top = scope.top_tokens(list(tokens), 1)[0]
        if is_token(scope, before[0] + word) and top.text in [before[1] + answer for answer in answers.split(",")]:
            found.append(Word(word, top.text, top.token, tokens))
    return found


def entries(task: str) -> list[str]:
    """The lines of a task: a word, and its right answers."""
    return WORDS[task].replace("\n", "|").split("|")


def is_token(scope: Microscope, text: str) -> bool:
    """Whether a text is one token of the model."""
    return len(scope.model.tokenizer(text, add_special_tokens=False)["input_ids"]) == 1


def paired(words: Sequence[Word]) -> list[tuple[Word, Word, Word]]:
    """Each word A with B, the next in the circle that shares neither word nor answer, and a third word C."""
    found = []
    for index, a in enumerate(words):
        others = [*words[index + 1 :], *words[:index]]
        b = next((w for w in others if apart(a, w)), None)
        c = next((w for w in others if b is not None and w is not b and apart(a, w) and apart(b, w)), None)
        if b is not None and c is not None:
            found.append((a, b, c))
    return found


def apart(a: Word, b: Word) -> bool:
    """Whether two words have neither word nor answer in common."""
    return not {a.text.casefold(), a.answer_text.strip().casefold()} & {
        b.text.casefold(),
        b.answer_text.strip().casefold(),
    }


def operand_position(words: Sequence[Word]) -> int:
    """Where the word stands: the one position at which the prompts differ."""
    table = np.array([word.tokens for word in words])
    (differs,) = np.flatnonzero((table != table[0]).any(0)).tolist() or [0]
    return differs


# --- swaps --------------------------------------------------------------------------------------------


def run(
    scope: Microscope, words: Sequence[Word], pairs: Sequence[tuple[Word, Word, Word]], position: int
) -> list[dict[str, Any]]:
    """The rates of every condition."""
    graphs = {w.text: scope.trace(list(w.tokens), w.answer, max_nodes=_budget(scope)) for w in words}
    views = {w.text: FrozenModel(scope.model, record(scope.model, scope.model.tokenize(list(w.tokens)))) for w in words}
    scores: dict[tuple[str, str, str], list[list[Score]]] = {}
    for number, (a, b, c) in enumerate(pairs):
        cases = _cases(scope, graphs, views, (a, b, c), position, number)
        outcomes = sweep(scope.model, scope.dictionary, list(a.tokens), [e for _, e in cases], view=views[a.text])
        own: dict[tuple[str, str, str], list[Score]] = {}
        for (name, _), outcome in zip(cases, outcomes, strict=True):
            own.setdefault(name, []).append(_score(outcome, a, b))
        for name, found in own.items():
            scores.setdefault(name, []).append(found)
    return [_rates(name, found) for name, found in scores.items()]


def _budget(scope: Microscope) -> Any:
    return "default" if scope.dictionary is None else NODES


def _cases(
    scope: Microscope,
    graphs: dict[str, Graph],
    views: dict[str, FrozenModel],
    triple: tuple[Word, Word, Word],
    position: int,
    number: int,
) -> list[tuple[tuple[str, str, str], Edits]]:
    """(features, strength, condition) and the edits of every run of one pair."""
    a, b, c = (word.text for word in triple)
    probe = Probe(views[a], scope.dictionary)
    found: list[tuple[tuple[str, str, str], Edits]] = []
    for where, at in (("operand", position), ("anywhere", None)):
        nodes = {word: strongest(graphs[word], at) for word in (a, b, c)}
        for times, (strength, suppress) in STRENGTHS.items():
            swap = swapped(graphs[b], nodes[a], nodes[b], strength, suppress)
            found.append(((where, times, "swap"), swap))
            other = swapped(graphs[c], nodes[a], nodes[c], strength, suppress)
            found.append(((where, times, "another word"), other))
            edits = resolve(probe, [Case(swap)])[0].edits
            controls = matched_controls(views[a], scope.dictionary, edits, draws=DRAWS, seed=number)
            found += [((where, times, "matched"), control.edits) for control in controls]
    found.append((("all", "1x", "swap"), all_at(probe, Probe(views[b], scope.dictionary), position)))
    found.append((("all", "1x", "another word"), all_at(probe, Probe(views[c], scope.dictionary), position)))
    return found


def strongest(graph: Graph, position: int | None) -> list[Node]:
    """The strongest features of a graph, at one position or anywhere."""
    nodes = graph.strongest(len(graph.nodes))
    return [node for node in nodes if position is None or node.position == position][:FEATURES]


def swapped(donor: Graph, out: Sequence[Node], into: Sequence[Node], strength: float, suppress: float) -> Edits:
    """Swaps position by position: the prompts have the same length, and differ in the word alone."""
    parts: list[Any] = []
    for position in sorted({node.position for node in [*out, *into] if node.position is not None}):
        here = tuple(node for node in out if node.position == position)
        given = donor_of(donor, [node for node in into if node.position == position])
        if here:
            parts.append(Swap(here, given, strength, suppress, positions=position))
        else:
            parts.append({(f.layer, position, f.feature): Inject(f.activation, strength) for f in given.features})
    return parts


def all_at(own: Probe, donor: Probe, position: int) -> Edits:
    """All features that are active at the position out, all of the donor's prompt in."""
    places = [(layer, position, feature) for layer, feature, _ in _active(own, position)]
    # Read one by one a feature at its threshold may round to the other side.
    out = [place for place, activation in own.recorded(places).items() if activation]
    into = tuple(Donated(*entry) for entry in _active(donor, position))
    return Swap(tuple(out), Donor(into, own.fingerprint), positions=position)


def _active(probe: Probe, position: int) -> list[tuple[int, int, float]]:
    layers = range(probe.view.n_layers) if probe.dictionary is None else probe.dictionary.layers
    found = []
    for layer in layers:
        activations = probe.recorded_layer(layer)[position]
        found += [(layer, int(i), float(activations[i])) for i in torch.nonzero(activations).flatten()]
    return found


# --- rates --------------------------------------------------------------------------------------------


def _score(outcome: Outcome, a: Word, b: Word) -> Score:
    top = int(outcome.logits.argmax())
    return Score(top == b.answer, bool(outcome.logits[b.answer] > outcome.logits[a.answer]), top != a.answer)


def _rates(name: tuple[str, str, str], scores: Sequence[Sequence[Score]]) -> dict[str, Any]:
    row: dict[str, Any] = dict(zip(("where", "strength", "condition"), name, strict=True)) | {"pairs": len(scores)}
    for measure_name in ("is_top", "is_above", "is_moved"):
        share = float(np.mean([np.mean([getattr(s, measure_name) for s in draws]) for draws in scores]))
        row[measure_name] = (share, *wilson(share * len(scores), len(scores)))
    return row


def show(rows: Sequence[dict[str, Any]]) -> None:
    """Print the rates as a table."""
    print(f"{'':9}{'features':10}{'':4}{'condition':14}{'B is top':22}{'B above A':22}{'A no longer top':22}")
    for row in rows:
        cells = "".join(
            f"{share:.2f} [{low:.2f}, {high:.2f}]".ljust(22)
            for share, low, high in (row["is_top"], row["is_above"], row["is_moved"])
        )
        print(f"{row['kind']:9}{row['where']:10}{row['strength']:4}{row['condition']:14}{cells}", flush=True)


if __name__ == "__main__":
    main()
