"""What mkdocs calls while it builds: pages that are made of code, settings and measurements, and are not committed."""

from pathlib import Path
from typing import Any

import api
import composing
import errors
import law
import papers
import repository
import results
import settings
from mkdocs.structure.files import File, Files

HOME = Path(__file__).parents[2]


def on_files(files: Files, config: Any) -> Files:
    """The written pages, and beside them the generated ones with their figures."""
    for page, text in generated().items():
        files.append(File.generated(config, page, content=text))
    for folder in sorted((HOME / "experiments").iterdir()):
        for place, path in repository.figures(folder):
            files.append(File.generated(config, place, abs_src_path=str(path)))
    script = HOME / "bm/report/pages/templates/table.js"
    files.append(File.generated(config, "assets/table.js", abs_src_path=str(script)))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Pages with the numbers that they leave open, and with the captions of their figures."""
    text = markdown.replace("{{ law }}", law.law_table()) if "{{ law }}" in markdown else markdown
    return repository.captioned(text, page.file.src_uri)


def generated() -> dict[str, str]:
    """Every generated page by its place in the site."""
    recordings = results.recordings()
    pages = dict(repository.pages())
    for name, values in recordings.items():
        page = f"experiments/{name}/index.md"
        pages[page] = results.experiment_page(name, pages[page], values)
    return pages | {
        "claims.md": results.claims_page(recordings),
        "board.md": results.board_page(recordings),
        "speed.md": results.speed_page(),
        "papers.md": papers.papers_page(),
        "reference/commands.md": "\n".join([settings.commands_page(), composing.section()]),
        "reference/settings.md": settings.settings_page(),
        "reference/options.md": settings.options_page(),
        "reference/errors.md": errors.errors_page(),
        **api.pages(),
    }
