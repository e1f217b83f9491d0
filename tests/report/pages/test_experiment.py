"""The report of a grid: its page, its figures and their files, its record, and the command that makes them."""

import csv
import json
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
from lxml import etree

from bm.errors import UserError
from bm.report import Cost, compare, read, report, report_grid, results
from bm.report.figures.charts import charts
from bm.report.figures.charts.frontier import Point, unbeaten
from bm.report.figures.drawing import style
from bm.report.findings.grid import Cell, Grid, gather
from bm.report.findings.published import published
from bm.report.findings.results import Results, write
from bm.report.pages.exports import escaped, latex
from bm.report.pages.record import command
from bm.report.pages.tables import Column, Table, TableCell, TableRow, tabled
from bm.report.pages.wording import spent
from bm.store import Artefact, Store, model_digest
from tests.conftest import Bm
from tests.report import grids
from tests.report.conftest import DOMAINS, SETTINGS, TASKS, Fixture
from tests.report.pages.test_html import Outline

BARS = {"bars-mean", "bars-tiny_coding", "bars-tiny_math", "bars-tiny_science"}
ALWAYS = BARS | {"frontier", "methods", "retention", "cosines-updates"}


@pytest.fixture(scope="module")
def outputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("outputs")
    for make in grids.ALL.values():
        make(folder)
    return folder


@pytest.fixture(scope="module")
def reported(outputs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the `report` of the grid `lambda`, and its record as experiments/ would have it."""
    folder = tmp_path_factory.mktemp("reported")
    (folder / "experiments/lambda").mkdir(parents=True)
    report_grid(outputs, "lambda", None, grids.PRICES, folder / "report", folder / "experiments/lambda")
    return folder


def names(grid: Grid) -> set[str]:
    with style():
        return {chart.name for chart in charts(grid, None)}


def test_each_figure_is_drawn_only_where_the_grid_has_what_it_takes(outputs: Path) -> None:
    assert names(gather(outputs, "figure2", None)) == ALWAYS
    assert names(gather(outputs, "orders", None)) == ALWAYS | {"orders-arcee_fusion"}
    assert names(gather(outputs, "lambda", None)) == ALWAYS | {"curve-merge.methods.arcee_fusion.lam"}
    axes = ("branch.epochs", "branch.learning_rate")
    maps = {f"distance-{model}-{axes[0]}-{axes[1]}" for model in ("arcee_fusion", "linear", "mixture")}
    assert names(gather(outputs, "distance", None)) == ALWAYS | {f"curve-{axis}" for axis in axes} | maps


def test_a_grid_of_one_student_has_a_page_without_figures(tmp_path: Path) -> None:
    grids.cell(tmp_path, "alone", 1, {"student": {"kind": "student", "skill": 0.3}})
    report_grid(tmp_path, "alone", None, grids.PRICES, tmp_path / "report", None)
    assert Outline((tmp_path / "report/index.html").read_text()).open == []
    assert sorted(p.name for p in (tmp_path / "report/figures").iterdir()) == ["models.csv", "models.tex"]


def test_files_of_figures_are_whole_and_the_page_is_self_contained(reported: Path) -> None:
    report = reported / "report"
    page = Outline((report / "index.html").read_text())
    assert page.open == []
    assert len(page.ids) == len(set(page.ids))
    assert all(address.startswith(("#", "data:,")) for address in page.addresses)
    stems = {p.stem for p in (report / "figures").glob("*.svg")}
    assert "curve-merge-methods-arcee-fusion-lam" in stems
    for stem in stems:
        svg = etree.fromstring((report / f"figures/{stem}.svg").read_bytes())
        assert svg.tag == "{http://www.w3.org/2000/svg}svg"
        assert (report / f"figures/{stem}.png").read_bytes().startswith(b"\x89PNG")
        with (report / f"figures/{stem}.csv").open(newline="") as file:
            table = list(csv.reader(file))
        assert len(table) > 1
        assert len({len(row) for row in table}) == 1
    with (report / "figures/curve-merge-methods-arcee-fusion-lam.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["line"] == "mean"]
    assert [float(row["lam"]) for row in rows] == [0, 0.5, 1.5, 3, 6]
    assert all(float(row["low"]) < float(row["mean"]) < float(row["high"]) for row in rows)


def test_two_reports_of_one_grid_are_equal_to_the_byte(outputs: Path, reported: Path, tmp_path: Path) -> None:
    report_grid(outputs, "lambda", None, grids.PRICES, tmp_path, None)
    first, second = (
        {p.relative_to(home): p.read_bytes() for p in home.rglob("*.*")} for home in (reported / "report", tmp_path)
    )
    assert len(first) > 20
    assert first == second


def test_what_models_cost_by_themselves_and_in_all(outputs: Path) -> None:
    table = tabled(gather(outputs, "lambda", None), None)
    place = {column.name: number for number, column in enumerate(table.columns)}
    for row in table.rows:
        own, whole = (float(row.cells[place[name]].value) for name in ("time", "time in all"))
        assert whole == pytest.approx(3 * own)
        assert row.cells[place["USD in all"]].text == "0.01"


def test_a_grid_costs_its_models_and_their_tests_each_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """At an hour for 3600 USD, a dollar a second: of the model twice in the grid, its test, and no stranger."""
    store = Store(tmp_path / "store")

    def wrote(folder: Path) -> dict[str, int]:
        (folder / "scores.json").write_text("{}")
        (folder / "config.json").write_text(json.dumps({"of": folder.name}))
        return {"tokens": 5}

    model, stranger = (store.make("branch", name, {"name": name}, [], [], wrote) for name in ("student", "stranger"))
    tests = [store.make("evaluate", m.label, {}, [Artefact(m.path, m.manifest | {"key": model_digest(m)})], [], wrote)
             for m in (model, stranger)]  # fmt: skip
    for seed in (1, 2):
        run = grids.cell(tmp_path, "alone", seed, {"student": {"kind": "student", "skill": 0.3}}) / "results.json"
        outcome = read(run)
        write(replace(outcome, rows=tuple(replace(row, key=model.key) for row in outcome.rows)), run)
    report_grid(tmp_path, "alone", None, grids.PRICES, tmp_path / "report", None)
    seconds = sum(float(artefact.manifest["seconds"]) for artefact in (model, tests[0]))
    said = f"From the first trace to the last score: {spent(Cost(seconds, 0.0, 5, 0.0, seconds))}."
    assert said in " ".join(capsys.readouterr().out.split("\n")).replace("  ", " ")
    assert said in (tmp_path / "report/index.html").read_text()


def test_the_record_holds_every_row_and_claim(outputs: Path, reported: Path, tmp_path: Path) -> None:
    record = reported / "experiments/lambda"
    kept = json.loads((record / "measured.json").read_text())
    assert kept.keys() >= {"experiment", "recipe", "command", "commit", "hardware", "versions", "rows", "claims"}
    assert kept["command"] == "bm run -m experiment=lambda recipe=tiny seed=1,2,3"
    assert len(kept["rows"]) == 15 * 6
    assert {"settings", "seed", "name", "kind", "scores", "cost", "key"} <= kept["rows"][0].keys()
    assert [claim["id"] for claim in kept["claims"]] == [claim.id for claim in published("lambda").claims]
    assert (record / "figures/models.tex").read_text() == (reported / "report/figures/models.tex").read_text()
    with pytest.raises(UserError, match="needs a checkout"):
        report_grid(outputs, "lambda", None, grids.PRICES, tmp_path / "report", tmp_path / "nowhere")


def test_paper_and_measured_stand_side_by_side(outputs: Path) -> None:
    table = tabled(gather(outputs, "figure2", None), published("figure2"))
    names = [column.name for column in table.columns]
    paper = names.index("paper, GPQA-Diamond")
    assert names[paper - 1] == "tiny_science"
    rows = {row.cells[0].value: row.cells[paper].text for row in table.rows}
    assert (rows["arcee_fusion"], rows["linear"], rows["dare_ties"], rows["ties"]) == ("68.2", "66.7", "34.9", "–")


def test_no_other_model_is_cheaper_and_better_than_one_of_the_front(outputs: Path) -> None:
    entry = gather(outputs, "figure2", None).entries[0]
    points = [Point(entry, *at) for at in ((3, 0.5), (1, 0.4), (2, 0.4), (1, 0.2), (4, 0.5), (5, 0.9))]
    front = unbeaten(points)
    assert [(p.seconds, p.mean) for p in front] == [(1, 0.4), (3, 0.5), (5, 0.9)]
    assert all(cheaper.seconds < dearer.seconds and cheaper.mean < dearer.mean for cheaper, dearer in pairwise(front))


def test_latex_is_escaped() -> None:
    assert escaped(r"a_b & 5 % of {x}\y~z^2 #1 $") == (
        r"a\_b \& 5 \% of \{x\}\textbackslash{}y\textasciitilde{}z\textasciicircum{}2 \#1 \$"
    )
    line = TableRow("merge", [TableCell("a_b", ""), TableCell("62.1", 0.6, "57.1–65.2", best=True)])
    assert latex(Table([Column("model", words=True), Column("math")], [line])) == (
        "\\begin{tabular}{lr}\n\\toprule\nmodel & math \\\\\n\\midrule\n"
        "a\\_b & \\textbf{62.1} {\\scriptsize 57.1--65.2} \\\\\n\\bottomrule\n\\end{tabular}\n"
    )


def test_the_command_prints_eighty_columns_and_names_what_it_wrote(outputs: Path, bm: Bm) -> None:
    said = bm("report", "experiment=figure2", f"paths.outputs={outputs}", cwd=outputs)
    assert said.returncode == 0, said.stderr
    assert max(map(len, said.stdout.splitlines())) <= 80 or str(outputs) in max(said.stdout.splitlines(), key=len)
    assert "measured" in said.stdout
    assert "Another scale than the paper's" in " ".join(said.stdout.split())
    assert (outputs / "report/figure2/index.html").is_file()


def test_an_unknown_experiment_is_one_line(outputs: Path, bm: Bm) -> None:
    said = bm("report", "experiment=figure3", f"paths.outputs={outputs}", cwd=outputs)
    assert (said.returncode, said.stderr.count("\n")) == (2, 1)
    assert "did you mean 'figure2'" in said.stderr


def test_the_command_keeps_every_override_and_config_dir(outputs: Path) -> None:
    grid = gather(outputs, "figure2", None)

    def with_run(cell: Cell, *words: str) -> Cell:
        assert cell.results.run is not None
        words = (f"seed={cell.seed}", *words, "experiment=figure2", "student=my own")
        run = replace(cell.results.run, overrides=words, config_dirs=("/mine",))
        return replace(cell, results=replace(cell.results, run=run))

    two = [replace(grid.cells[0], seed=seed) for seed in (1, 2)]
    crossed = [with_run(cell, f"branch.epochs={number}") for cell in two for number in (0, 1)]
    assert command(replace(grid, cells=tuple(crossed))) == (
        "bm run -m --config-dir=/mine experiment=figure2 recipe=tiny seed=1,2 branch.epochs=0,1 'student=my own'"
    )
    assert "seed=" not in command(replace(grid, cells=tuple(crossed[:3]))), "three of four runs are no cross product"
    ways = tuple(with_run(cell, word) for cell in two for word in ("adapter=lora", "~adapter"))
    assert "adapter" not in command(replace(grid, cells=ways)), "a group that some cells leave out is of the sweep"


def test_a_map_of_orders_comes_from_fields_not_from_names(outputs: Path) -> None:
    grid = gather(outputs, "orders", None)

    def renamed(results: Results) -> Results:
        rows = tuple(replace(row, name=f"model {number}") for number, row in enumerate(results.rows))
        return replace(results, rows=rows)

    cells = [replace(cell, results=renamed(cell.results)) for cell in grid.cells]
    assert "orders-arcee_fusion" in names(replace(grid, cells=tuple(cells)))


def test_a_setting_is_not_taken_for_a_task_or_a_cost(outputs: Path) -> None:
    grid = gather(outputs, "figure2", None)
    cells = [
        replace(c, settings={"branch.tokens": n % 4, "teacher.tiny_math": n % 4}) for n, c in enumerate(grid.cells)
    ]
    columns = [column.name for column in tabled(replace(grid, cells=tuple(cells)), None).columns]
    assert {"branch.tokens", "teacher.tiny_math", "tokens", "tiny_math"} <= set(columns)
    assert len(columns) == len(set(columns))


def test_runs_and_plain_sweeps_have_tables_with_intervals(tmp_path: Path) -> None:
    runs = {}
    for epochs in (1, 2):
        models = {
            "student": {"kind": "student", "skill": 0.3},
            "mixture": {"kind": "mixture", "skill": 0.3 + epochs / 9},
        }
        runs[str(epochs)] = grids.cell(tmp_path, "", 1, models, branch={"epochs": epochs}) / "results.json"
    compare(runs, tmp_path / "report")
    with (tmp_path / "report/tables/tiny.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["epochs"] for row in rows if row["model"] == "mixture"] == ["1", "2"]
    assert all(float(row["mean low"]) < float(row["mean"]) < float(row["mean high"]) for row in rows)
    assert r"\toprule" in (tmp_path / "report/tables/tiny.tex").read_text()


def test_a_single_run_has_its_tables(experiment: Fixture, tmp_path: Path) -> None:
    outcome = report(experiment.subjects, experiment.artefacts, SETTINGS, tmp_path)
    with (tmp_path / "report/verdicts.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [float(row["difference low"]) for row in rows] == [verdict.low for verdict in outcome.verdicts]
    assert "57" in (tmp_path / "report/models.tex").read_text() and (tmp_path / "report/models.csv").is_file()


def test_a_domain_has_its_task_without_any_verdict(experiment: Fixture) -> None:
    outcome = results([s for s in experiment.subjects if s.kind == "student"], [], SETTINGS)
    assert (outcome.verdicts, dict(outcome.domains), outcome.compared) == ((), DOMAINS, tuple(sorted(TASKS)))
