"""The generated pages say what code, settings and measurements say; test_site.py builds them into the site."""

import re

from docs.generate import errors, law, papers, repository, results, settings
from tests.docs.blocks import HOME


def test_results_are_those_of_the_committed_records() -> None:
    records = results.recordings()
    assert {"table2", "phase", "methods"} <= records.keys()
    claims, board = results.claims_page(records), results.board_page(records)
    assert claims.count("<tr>") - claims.count("<table") == sum(len(values["claims"]) for values in records.values())
    assert "✗ refuted" in claims and "✓ supported" in claims
    assert 'href="experiments/phase/index.html"' in board and "arcee_fusion" in board
    page = results.experiment_page("table2", repository.text("experiments/table2/README.md"), records["table2"])
    assert "bm run -m experiment=table2" in page and records["table2"]["commit"][:7] in page
    assert "mergekit==0.1.5" in results.speed_page()
    assert "10 points of gain cost" in law.law_table()


def test_every_score_and_difference_of_the_board_has_its_interval() -> None:
    rows = [line.split("<td")[1:] for line in results.board_page(results.recordings()).splitlines() if "<td" in line]
    assert len(rows) > 80
    for cells in rows:
        score, difference = cells[4], cells[5]
        assert "<small>" in score
        assert "<small>" in difference or "–</td>" in difference


def test_a_figure_has_the_caption_that_its_file_holds() -> None:
    page = "experiments/lambda/index.md"
    text = repository.captioned("    ![λ](figures/methods.svg)\n\n![other](../nowhere.svg)\n", page)
    lines = text.splitlines()
    assert lines[:2] == ['    <figure markdown="span">', "    ![λ](figures/methods.svg)"]
    assert lines[2].startswith("    <figcaption>pass@1") and "Experiment lambda: recipe tiny, 6 seeds" in lines[2]
    assert lines[-1] == "![other](../nowhere.svg)", "a figure without a caption stays"


def test_every_setting_has_its_type_default_and_mark() -> None:
    rows = {line.split("`")[1]: line for line in settings.settings_page().splitlines() if line.startswith("| `")}
    assert len(rows) > 140
    assert "number > 0 | `0.0002`" in rows["branch.learning_rate"] and rows["branch.learning_rate"].endswith("| yes |")
    assert rows["branch.micro_batch"].endswith("| no |") and rows["evaluate.data"].endswith("| by its content |")
    assert rows["branch.teacher"].endswith("| by its content |") and rows["merge.device"].endswith("| by its kind |")
    assert rows["repo"].startswith("| `repo` | text")


def test_every_setting_says_what_it_means() -> None:
    rows = [line.split(" | ") for line in settings.settings_page().splitlines() if line.startswith("| `")]
    assert not [name for name, _, _, meaning, _ in rows if len(meaning) < 8], (
        "write it below the setting, in bm/config/"
    )
    assert {name.strip("| `") for name, *_ in rows} >= {"plan.cards.NAME.gib", "grid.recipe", "consolidate.NAME.start"}


def test_what_counts_in_no_key_says_so() -> None:
    rows = {line.split("`")[1]: line for line in settings.settings_page().splitlines() if line.startswith("| `")}
    assert all(rows[name].endswith("| no |") for name in ("repo", "record", "verifier", "plan.gpu", "output"))
    assert all(rows[name].endswith("| by its content |") for name in ("model", "models", "base", "mergekit"))


def test_every_option_of_every_group_is_there() -> None:
    page = settings.options_page()
    for group in settings.GROUPS:
        for file in (HOME / "conf" / group).rglob("*.yaml"):
            assert f"### {group}={file.relative_to(HOME / 'conf' / group).with_suffix('')}\n" in page
    assert "It takes `weights`" in page


def test_every_parameter_of_an_option_is_explained() -> None:
    """In its function's docstring, or behind its value in the YAML."""
    silent = []
    for group in settings.GROUPS:
        for file in (HOME / "conf" / group).rglob("*.yaml"):
            for target in settings.targets(group, text := file.read_text()):
                function = settings.function_of(target)
                said = (function.__doc__ or "") + "\n".join(line for line in text.splitlines() if "#" in line)
                names = [parameter.name for parameter in settings.parameters(function, text)]
                silent += [f"{group}={file.stem}: {name}" for name in names if not re.search(rf"\b{name}\b", said)]
    assert not silent


def test_papers_are_those_that_the_code_cites() -> None:
    assert papers.cited().keys() == papers.papers().keys()
    assert "[arXiv 2306.01708](https://arxiv.org/abs/2306.01708)" in papers.papers_page()


def test_mistakes_are_shown() -> None:
    page = errors.errors_page()
    assert "did you mean 'run'?" in page
    assert "the disk is full, a is a model" in page and "| 130 | … interrupted" in page


def test_links_lead_where_the_site_has_something() -> None:
    text = "[a](../phase/README.md), [b](../../docs/statistics.md#x), [c](../../conf/run.yaml), ![d](figures/f.svg)"
    there = repository.relinked(text, "experiments/table2/README.md", "experiments/table2/index.md")
    assert there == "[a](../phase/index.md), [b](../../statistics.md#x), c, ![d](figures/f.svg)"
