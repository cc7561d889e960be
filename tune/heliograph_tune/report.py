"""A run -> one HTML page: who won, how the trials learned, what mattered, what stands against what.

The page needs nothing beside itself: no script, no network.
"""

from __future__ import annotations

from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

import heliograph.report
from heliograph.config_file import dump_config
from heliograph.report.charts import Bar, Group, grouped_bars
from heliograph.report.layout import Cell, Table
from heliograph.workspace import InputError
from heliograph_tune import repetition
from heliograph_tune.goal import keeps, said
from heliograph_tune.importance import importance_of
from heliograph_tune.pareto import front
from heliograph_tune.progress import as_text, cell, figure, reached
from heliograph_tune.records import Record
from heliograph_tune.report_charts import best_by_trial, learning_curves, parameters, pareto
from heliograph_tune.report_population import course_table
from heliograph_tune.run_folder import RunFolder
from heliograph_tune.search_file import Search
from heliograph_tune.setting import with_settings
from heliograph_tune.standings import Standing, standings
from heliograph_tune.table import write_trials
from heliograph_tune.trials_to_run import BASELINE

TEMPLATE = "report.html.j2"

STATES = {
    "done": "ran to its end",
    "stopped": "stopped early: others were better by then",
    "cut": "at work when the time was over",
    "known": "not run: the same configuration had been",
    "failed": "failed",
}


def write_report(folder: RunFolder, path: Path) -> Path:
    """Write the report of a run, and bring its table up to date.

    Raises:
        InputError: This is no run, no trial of it has come to a result, or nothing can be written
            at the path.
    """
    if path.is_dir() or not path.parent.is_dir():
        found = "is a folder" if path.is_dir() else f"lies in {path.parent}, which does not exist"
        raise InputError(f"{path} {found}; name a file in a folder that is there")
    search, record = folder.search(), folder.record()
    if not standings(search, record):
        raise InputError(f"no trial of {folder.path} has come to a result; run it first")
    write_trials(record, search.config, folder.path)
    path.write_text(render(search, record, folder.path.name), encoding="utf-8")
    return path


def render(search: Search, record: Record, name: str) -> str:
    """Return the report of a run as HTML."""
    platform = Path(str(heliograph.report.__file__)).parent
    templates = Environment(
        loader=FileSystemLoader([Path(__file__).parent, platform]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    ranked = standings(search, record)
    return templates.get_template(TEMPLATE).render(
        name=name,
        search=search.settings,
        is_complete=record.is_complete,
        sentences=verdict(search, record, ranked),
        how_judged=repetition.told(search),
        standing_table=standing_table(search, record, ranked),
        best_by_trial=best_by_trial(search, record),
        course_table=course_table(search, record, ranked[0].number),
        curves=learning_curves(search, record, ranked[0].number),
        parameters=parameters(search, record, ranked[0].number),
        importance=importance_chart(importance_of(search, record)),
        pareto=pareto(search, record),
        front_table=front_table(search, record, ranked[0]),
        trials=trials_table(search, record),
        config=dump_config(with_settings(search.config, record.asked[ranked[0].number].settings)),
    )


def verdict(search: Search, record: Record, ranked: list[Standing]) -> list[str]:
    """Say who has won, and how sure that is."""
    settings, best = search.settings, ranked[0]
    objective = settings.objectives[0]
    as_it_stands = next((found for found in ranked if found.is_baseline), None)
    how = f"a mean {objective} of {best.mean:.4f} over {len(best.repeated)} other seeds"
    if not best.repeated:
        how = f"a {objective} of {best.score:.4f}, in one run that was not repeated"
    elif repetition.draws_weights(search):
        how = f"a {objective} of {best.mean:.4f} among users whom the search had not seen"
    if not keeps(settings.goal, best.metrics):
        return [
            f"No trial keeps the goal, {said(settings.goal)}. Nearest comes trial {best.number}: "
            f"{reached(settings, best.metrics)}."
        ]
    if best.is_baseline:
        return [f"Nothing was better than the configuration as it stands, with {how}."]
    sentences = [f"Trial {best.number} is the best, with {how}."]
    if settings.goal:
        sentences[0] = (
            f"Trial {best.number} is recommended: the best of those that keep the goal, "
            f"{said(settings.goal)}. It has {reached(settings, best.metrics)}."
        )
    if as_it_stands is not None:
        has = (
            reached(settings, as_it_stands.metrics) if settings.goal else f"{as_it_stands.mean:.4f}"
        )
        sentences.append(f"The configuration as it stands has {has}, judged the same way.")
    sentences.append(
        f"It differs in {as_text(record.asked[best.number].told)}. All of this is on "
        "validation items; what it is worth on test items only heliograph tune promote can tell."
    )
    return sentences


def front_table(search: Search, record: Record, best: Standing) -> Table | None:
    """Lay out the trials that no other beats in every objective, where there are several."""
    objectives = search.settings.objectives
    if len(objectives) < 2:
        return None
    place = "the best"
    if search.settings.goal:
        place = "recommended" if keeps(search.settings.goal, best.metrics) else "nearest the goal"
    rows = []
    for number in front(search, record, len(objectives)):
        metrics, settings = record.finished[number].metrics, record.asked[number].settings
        is_best = number == best.number
        name = "as it stands" if number == BASELINE else f"{number}"
        rows.append(
            [
                Cell(f"{name}, {place}" if is_best else name, words=True),
                *(Cell(figure(metrics[objective]), best=is_best) for objective in objectives),
                Cell(as_text(settings), words=True),
            ]
        )
    return Table(
        "The Pareto front, by the first objective", ["trial", *objectives, "settings"], rows
    )


def standing_table(search: Search, record: Record, ranked: list[Standing]) -> Table:
    """Lay out the configurations that were run again."""
    objective = search.settings.objectives[0]
    columns = ["trial", objective, f"mean {repetition.column(search)}", "each", "differs in"]
    rows = [
        [
            Cell("as it stands" if found.is_baseline else f"{found.number}", words=True),
            Cell(cell(record.finished[found.number], objective)),
            Cell(f"{found.mean:.4f}" if found.repeated else "", best=found is ranked[0]),
            Cell(", ".join(f"{value:.4f}" for value in found.repeated)),
            Cell(as_text(record.asked[found.number].told), words=True),
        ]
        for found in ranked[:20]
    ]
    return Table("The best, the winner first", columns, rows)


def importance_chart(shares: dict[str, float]) -> Markup | None:
    """Draw how much each setting mattered."""
    if not shares:
        return None
    groups = [
        Group(path, "", [Bar(share, None, None, "pipeline")]) for path, share in shares.items()
    ]
    told = ", ".join(f"{path} {share:.2f}" for path, share in shares.items())
    return grouped_bars(groups, f"Importance of each setting: {told}")


def trials_table(search: Search, record: Record) -> Table:
    """Lay out every trial of the search, in order."""
    objectives = search.settings.objectives
    columns = ["trial", *objectives, "steps", "seconds", "settings", "how it ended"]
    rows = []
    for asked in record.of("search"):
        end = record.finished[asked.number]
        scores = [record.score(asked.number, objective) for objective in objectives]
        number = "as it stands" if asked.number == BASELINE else f"{asked.number}"
        rows.append(
            [
                Cell(number, words=True),
                *(Cell("" if score is None else figure(score)) for score in scores),
                Cell(f"{len(end.steps) or ''}"),
                Cell(f"{end.seconds:.1f}"),
                Cell(as_text(asked.told), words=True),
                Cell(STATES[end.state] + (f": {end.error}" if end.error else ""), words=True),
            ]
        )
    return Table("Every trial, in order", columns, rows)
