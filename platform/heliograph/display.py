"""What the command line shows: progress of stages, tables of results."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from heliograph.doctor import Finding
from heliograph.workspace import StageResult

if TYPE_CHECKING:
    from heliograph.against import Agreement

COLUMNS = ("recall", "precision", "f1", "ndcg", "mrr")
TRAIN_ONLY_TITLE = "Fitted on train only"
REFIT_TITLE = "Refitted on train and validation, as served"


class StageProgress:
    """Shows a bar for the stage at work and one line for each that is done."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.progress = Progress(
            TextColumn("{task.description:<20}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.fields[note]}"),
            console=console,
            transient=True,
        )

    def __enter__(self) -> Self:
        self.progress.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.progress.stop()

    def start(self, stage: str, total: int | None) -> None:
        """Begin a stage."""
        for task in self.progress.task_ids:
            self.progress.remove_task(task)
        self.progress.add_task(stage, total=total, note="")

    def advance(self, steps: int, note: str = "") -> None:
        """Move the bar."""
        for task in self.progress.task_ids:
            self.progress.update(task, advance=steps, note=note)

    def finish(self, result: StageResult) -> None:
        """Replace the bar by one line."""
        for task in self.progress.task_ids:
            self.progress.remove_task(task)
        counts = ", ".join(f"{_number(value)} {name}" for name, value in result.counts.items())
        how = "unchanged, reused" if result.reused else f"{result.seconds:.1f} s"
        self.console.print(
            f"[green]✓[/green] {result.name:<20} {counts}  [dim]({how})[/dim]", highlight=False
        )


def comparison(metrics: Path) -> list[Table | str]:
    """Lay out an evaluation: all models at every cut-off, and why the pipeline is what it is."""
    from heliograph.verdict import DECISIVE_K  # with scipy, which no other command needs

    content = json.loads(metrics.read_text())
    if content.get("skipped"):
        return [content["skipped"]]
    tables: list[Table | str] = ["\n".join(content["split"])] if "split" in content else []
    tables += _blend(content["cohorts"]) if content["cohorts"] else []
    for name, title in (("test", TRAIN_ONLY_TITLE), ("refit", REFIT_TITLE)):
        verdict = content.get(name)
        if verdict is None:
            continue
        rows = verdict["models"]
        ks = sorted({int(metric.partition("@")[2]) for row in rows.values() for metric in row})
        tables += [_comparison_at(rows, k, f"{title}, first {k}") for k in ks]
        tables.append(_leads(verdict["lead"], DECISIVE_K))
        if "split" in content:
            tables += [_cohorts(kind, found) for kind, found in verdict["cohorts"].items()]
    if content.get("ratings"):
        tables.append(_ratings(content["ratings"]))
    return tables


def skipped(metrics: Path) -> str | None:
    """Return why an evaluation has no figures; None: it has."""
    reason: str | None = json.loads(metrics.read_text()).get("skipped")
    return reason


def headline(metrics: Path) -> list[Table | str]:
    """Lay out the models as they are served, at the cut-off that decides."""
    from heliograph.verdict import DECISIVE_K

    content = json.loads(metrics.read_text())
    if content.get("skipped"):
        return [content["skipped"]]
    verdict = content.get("refit") or content["test"]
    title = REFIT_TITLE if "refit" in content else TRAIN_ONLY_TITLE
    return [
        _comparison_at(verdict["models"], DECISIVE_K, title),
        _leads(verdict["lead"], DECISIVE_K),
    ]


def agreement(found: Agreement) -> Table:
    """Lay out what a graph and the offline pipeline came to."""
    tiers = ", ".join(f"{count:,} {tier}" for tier, count in sorted(found.tiers.items()))
    verdict = "[green]they agree[/green]" if found.agrees else "[red]THEY DO NOT AGREE[/red]"
    table = Table(title=f"{found.users:,} users, {tiers}: {verdict}")
    for heading in ("", "offline", "served"):
        table.add_column(heading, justify="right" if heading else "left")
    for name, value in found.offline.items():
        table.add_row(name, f"{value:.4f}", f"{found.served[name]:.4f}")
    table.add_row("lists that differ", "", f"{len(found.differing):,}")
    return table


def recommendations(answer: dict[str, Any], title: str) -> Table:
    """Lay out the answer of the recommendation endpoint, with reasons where it has them."""
    late = "" if answer.get("explained", True) else ", reasons would have been late"
    table = Table(title=f"{escape(title)}  [dim](tier: {answer['tier']}{late})[/dim]")
    table.add_column("#", justify="right")
    table.add_column("title")
    table.add_column("item")
    table.add_column("score", justify="right")
    explained = answer.get("explained", False)
    table.add_column("because" if explained else "sources")
    for item in answer["items"]:
        table.add_row(
            str(item["rank"]),
            escape(item["title"]),
            escape(item["item_id"]),
            f"{item['score']:.4f}",
            escape(_because(item["reasons"])) if explained else ", ".join(item["sources"]),
        )
    return table


def _because(reasons: list[dict[str, Any]]) -> str:
    """Put each reason on a line: what adds how much, and for which items of the history."""
    lines = []
    for reason in reasons:
        titles = ", ".join(cause["title"] for cause in reason["because"])
        lines.append(
            f"{reason['source']} {reason['nats']:+.2f}" + (f": {titles}" if titles else "")
        )
    return "\n".join(lines)


def findings(found: Sequence[Finding]) -> Table:
    """Lay out what the doctor found."""
    colours = {"ok": "green", "warning": "yellow", "problem": "red"}
    table = Table(title="heliograph doctor")
    for heading in ("", "checked", "found", "what to do"):
        table.add_column(heading)
    for finding in found:
        colour = colours[finding.status]
        table.add_row(
            f"[{colour}]{finding.status}[/{colour}]",
            escape(finding.name),
            escape(finding.seen),
            escape(finding.remedy),
        )
    return table


def _comparison_at(rows: dict[str, dict[str, float]], k: int, title: str) -> Table:
    table = Table(title=f"Test items, all items ranked. {title}")
    table.add_column("model")
    for name in (*COLUMNS, "coverage"):
        table.add_column(name, justify="right")
    best = {name: max(row[f"{name}@{k}"] for row in rows.values()) for name in COLUMNS}
    for model, row in sorted(rows.items(), key=lambda entry: -entry[1][f"ndcg@{k}"]):
        cells = []
        for name in (*COLUMNS, "coverage"):
            value = row[f"{name}@{k}"]
            cells.append(f"[bold]{value:.4f}[/bold]" if value == best.get(name) else f"{value:.4f}")
        table.add_row(model, *cells)
    return table


def _leads(rows: dict[str, dict[str, float]], k: int) -> Table:
    """Lay out how far the pipeline leads each model, and whether that may be luck."""
    table = Table(title=f"The pipeline's lead: ndcg@{k} less that of each model")
    table.add_column("model")
    for name in ("lead", "95 % interval", "p, all at once"):
        table.add_column(name, justify="right")
    for model, row in sorted(rows.items(), key=lambda entry: -entry[1]["difference"]):
        interval = f"{-row['high']:+.4f} to {-row['low']:+.4f}"  # the rows are model less pipeline
        table.add_row(model, f"{-row['difference']:+.4f}", interval, f"{row['p_adjusted']:.2g}")
    return table


def _cohorts(kind: str, models: dict[str, list[dict[str, Any]]]) -> Table:
    """Lay out how well each model serves each cohort."""
    table = Table(title=f"NDCG@10 by {kind}")
    table.add_column(kind)
    table.add_column("users", justify="right")
    for model in models:
        table.add_column(model, justify="right")
    for rows in zip(*models.values(), strict=True):
        means = (f"{row['mean']:.4f}" for row in rows)
        table.add_row(rows[0]["cohort"], f"{rows[0]['users']:,}", *means)
    return table


def _ratings(models: dict[str, dict[str, float]]) -> Table:
    """Lay out how far predicted ratings are from given ones."""
    table = Table(title="Ratings of the test items, predicted from those of training")
    for name in ("model", "ratings", "RMSE", "MAE"):
        table.add_column(name, justify="left" if name == "model" else "right")
    for model, row in models.items():
        table.add_row(model, f"{row['ratings']:,}", f"{row['rmse']:.4f}", f"{row['mae']:.4f}")
    return table


def _blend(cohorts: list[dict[str, Any]]) -> list[Table]:
    """Lay out why each cohort has its weights, and the weights."""
    found = [row for row in cohorts if row["users"]]
    table = Table(title="NDCG@10 on validation, by length of history")
    for name in ("history", "users", "item LM", "retrieval", "blend", "its own", "p"):
        table.add_column(name, justify="right")
    for row in found:
        own = ("", "") if row["own"] is None else (f"{row['own']:.4f}", f"{row['p_value']:.2g}")
        scores = (f"{row[name]:.4f}" for name in ("item_lm", "retrieval", "shared"))
        table.add_row(f"from {row['shortest']}", f"{row['users']:,}", *scores, *own)
    return [table, _weights(found)]


def _weights(cohorts: list[dict[str, Any]]) -> Table:
    """Lay out how the stages are blended for each cohort."""
    sources = sorted({name for row in cohorts for name in row["weights"]})
    table = Table(title="Weights beside the item LM's log-probability")
    table.add_column("history", justify="right")
    table.add_column("weights")
    for name in ("item LM", *sources):
        table.add_column(name, justify="right")
    for row in cohorts:
        weights = (f"{row['weights'].get(name, 0):.2g}" for name in sources)
        whose = "own" if row["has_own"] else "shared"
        table.add_row(
            f"from {row['shortest']}", whose, "1" if row["asks_item_lm"] else "not asked", *weights
        )
    return table


def _number(value: float) -> str:
    return f"{int(value):,}" if value == int(value) else f"{value:g}"
