"""One call measures everything, the report comes back from its file, and the picture is a picture."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from relu_models import fitting_dictionary, greedy_rows, perfect_dictionary, random_rows, relu_model

from lucida.errors import DictionaryError, LucidaError, PromptError
from lucida.evaluation import EvaluationReport, PromptSet, evaluate, given_prompts
from lucida.evaluation.picture import draw


def prompts_of(model: Any, rows: torch.Tensor, count: int = 3) -> PromptSet:
    return given_prompts(model, [row[:9].tolist() for row in rows[:count]])


@pytest.fixture(scope="module")
def report(tiny_model: Any) -> Any:
    model = tiny_model("llama")
    rows = random_rows(model)
    dictionaries: dict[str, Any] = {
        "clt": fitting_dictionary(model, rows, span=3, reads_at="resid_mid"),
        "plt": fitting_dictionary(model, rows),
        "neurons": "neurons",
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("lucida.statistics.RESAMPLES", 50)
        prompts = prompts_of(model, rows)
        return evaluate(model, dictionaries, rows, prompts, nodes=20, faithfulness=2, data="random tokens")


def test_a_perfect_dictionary_stands_in_the_table() -> None:
    model = relu_model("gpt2")
    rows = random_rows(model)
    found = evaluate(model, {"p": perfect_dictionary(model)}, rows, prompts_of(model, rows), nodes=None, faithfulness=0)
    row = found["p"]
    assert row.reconstruction.nmse < 1e-10
    assert row.replacement_model is not None
    assert row.replacement_model.kl.value < 1e-6
    assert row.replacement_model.agreement.value == 1
    assert row.answers is not None
    assert row.answers.value == 1
    assert row.graphs is not None
    assert row.graphs.replacement.value == pytest.approx(1, abs=1e-4)
    assert row.faithfulness is None


def test_all_rows_have_all_measures(report: EvaluationReport) -> None:
    assert [basis.name for basis in report.bases] == ["clt", "plt", "neurons"]
    assert [basis.span for basis in report.bases] == [3, 1, 1]
    for basis in report.bases:
        assert basis.replacement_model is not None
        assert basis.graphs is not None
        assert basis.answers is not None
        assert (basis.faithfulness is None) == (basis.kind == "neurons")
    assert report["clt"].replacement_model.model_loss.value == report.model_loss  # type: ignore[union-attr]
    with pytest.raises(LucidaError, match="clt, plt, neurons"):
        report["sae"]


def test_neurons_are_as_sparse_as_the_first_dictionary(report: EvaluationReport) -> None:
    assert report["neurons"].reconstruction.l0 == pytest.approx(report["clt"].reconstruction.l0, rel=0.02)


def test_a_cross_layer_and_a_per_layer_dictionary_are_compared(report: EvaluationReport) -> None:
    (pair,) = report.disagreements
    assert (pair.cross_layer, pair.per_layer) == ("clt", "plt")
    assert pair.tokens is not None
    assert -1 <= pair.tokens.value <= 1
    assert report["plt"].skips is None
    assert report["clt"].skips is not None
    assert report["clt"].skips.features > 0


def test_pieces_give_what_the_whole_gives(tiny_model: Any, report: EvaluationReport) -> None:
    from lucida.evaluation import DictionaryBasis, measure_reconstruction, measure_replacement

    model = tiny_model("llama")
    rows = random_rows(model)
    basis = DictionaryBasis(model, fitting_dictionary(model, rows))
    (fit,), (run,) = measure_reconstruction(model, [basis], rows), measure_replacement(model, [basis], rows)
    assert fit == report["plt"].reconstruction
    assert run is not None
    assert report["plt"].replacement_model is not None
    assert run.kl.value == pytest.approx(report["plt"].replacement_model.kl.value)


def test_a_report_comes_back(report: EvaluationReport, tmp_path: Path) -> None:
    report.save(tmp_path / "r.json")
    assert EvaluationReport.load(tmp_path / "r.json") == report
    assert json.loads(report.to_json())["bases"][0]["name"] == "clt"


def test_what_does_not_exist_is_null(report: EvaluationReport) -> None:
    """A path length without paths is no number, and JSON has no word for it."""
    lost = dataclasses.replace(report["clt"].graphs.prompts[0], path_length=float("nan"))  # type: ignore[union-attr]
    graphs = dataclasses.replace(report["clt"].graphs, prompts=(lost,))  # type: ignore[type-var]
    found = dataclasses.replace(report, bases=(dataclasses.replace(report["clt"], graphs=graphs),))
    back = EvaluationReport.from_json(found.to_json())["clt"].graphs
    assert back is not None
    assert back.prompts[0].path_length != back.prompts[0].path_length


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"schema": 2}', '{"schema": 1}', '{"schema": 1, "model": 3}'])
def test_other_files_are_not_reports(text: str, tmp_path: Path) -> None:
    path = tmp_path / "r.json"
    path.write_text(text, "utf-8")
    with pytest.raises(LucidaError, match="not an evaluation"):
        EvaluationReport.load(path)
    with pytest.raises(LucidaError, match="cannot read"):
        EvaluationReport.load(tmp_path / "none.json")


def test_a_report_with_a_wrong_value_is_refused(report: EvaluationReport) -> None:
    document = json.loads(report.to_json())
    document["bases"][0]["features"] = "many"
    with pytest.raises(LucidaError, match="expected int"):
        EvaluationReport.from_json(json.dumps(document))


def test_the_table_has_a_column_for_each(report: EvaluationReport) -> None:
    names, *rows = report.table()
    assert names == ("", "clt", "plt", "neurons")
    table = {row[0]: row[1:] for row in rows}
    assert float(table["NMSE, mean of layers"][1]) == pytest.approx(report["plt"].reconstruction.nmse, abs=1e-3)
    assert table["dead features"][2] == "-"
    assert table["KL from the model, nats"][0].startswith(f"{report['clt'].replacement_model.kl.value:.3f} ±")  # type: ignore[union-attr]
    # Three layers have no pair with live MLPs between: the measure is left out.
    assert "faithfulness, all pairs" in table
    assert "faithfulness, knock-on" not in table
    assert len(str(report).splitlines()) == len(rows) + 1


def test_the_picture_is_the_same_every_time(report: EvaluationReport, tmp_path: Path) -> None:
    draw(report, tmp_path / "a.svg")
    draw(report, tmp_path / "b.svg")
    first = (tmp_path / "a.svg").read_bytes()
    assert first == (tmp_path / "b.svg").read_bytes()
    assert len(first) > 10_000


def test_a_report_without_prompts_is_drawn(tiny_model: Any, tmp_path: Path) -> None:
    model = tiny_model("llama")
    rows = random_rows(model)
    found = evaluate(model, {"_$odd": fitting_dictionary(model, rows)}, rows, 0)
    assert found["_$odd"].graphs is None
    assert found.prompts == 0
    draw(found, tmp_path / "r.png")
    assert (tmp_path / "r.png").stat().st_size > 10_000
    with pytest.raises(LucidaError, match=r"\.svg or a \.png"):
        draw(found, tmp_path / "r.pdf")


def test_prompts_are_chosen_when_a_number_is_given(tiny_model: Any) -> None:
    model = tiny_model("llama")
    rows = greedy_rows(model, 30, 18)
    with pytest.raises(PromptError, match="none of"):
        evaluate(model, {"neurons": "neurons"}, rows[:1], 2)


def test_neurons_alone_have_a_default(tiny_model: Any) -> None:
    model = tiny_model("gemma2")
    rows = random_rows(model)
    found = evaluate(model, {"neurons": "neurons"}, rows, prompts_of(model, rows), nodes=None)
    assert found["neurons"].reconstruction.l0 == pytest.approx(48, rel=0.05)
    assert found.disagreements == ()


def test_progress_reaches_its_end(tiny_model: Any) -> None:
    model = tiny_model("llama")
    rows = random_rows(model)
    seen: dict[str, tuple[int, int | None]] = {}
    dictionaries = {"clt": fitting_dictionary(model, rows, span=3)}
    evaluate(
        model, dictionaries, rows, prompts_of(model, rows, 1), progress=lambda what, *count: seen.update({what: count})
    )
    assert set(seen) == {"held-out text", "graphs", "ablations", "skip test"}
    assert all(done == total for done, total in seen.values())


@pytest.mark.parametrize(("dictionaries", "says"), [({}, "nothing to evaluate"), ({"x": "clt"}, "give a loaded Dic")])
def test_nothing_to_evaluate(tiny_model: Any, dictionaries: dict[str, Any], says: str) -> None:
    model = tiny_model("llama")
    with pytest.raises(DictionaryError, match=says):
        evaluate(model, dictionaries, random_rows(model), 0)
