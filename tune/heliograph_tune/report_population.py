"""How the winner of a population came about, from its first epoch to its last."""

from __future__ import annotations

from heliograph.report.layout import Cell, Table
from heliograph_tune.population import last_epoch, latest, lineage
from heliograph_tune.progress import short
from heliograph_tune.records import Member, Record
from heliograph_tune.search_file import BY_EPOCH, Search


def course_table(search: Search, record: Record, winner: int) -> Table | None:
    """Lay out the trials that the winner's weights went through; None where it is no member."""
    trials = lineage(record, winner)
    if not trials:
        return None
    paths = list(search.space.parameters)
    names = [path.rpartition(".")[2] for path in paths]
    rows = []
    for asked in trials:
        assert asked.member is not None  # of a lineage
        values = latest(asked.settings)
        last = record.finished[asked.number].steps[-1]
        rows.append(
            [
                Cell(
                    f"{last_epoch(search, asked.member.generation - 1) + 1} to {last.step}",
                    words=True,
                ),
                Cell(f"{asked.number}"),
                *(Cell(short(values[path])) for path in paths),
                Cell(f"{last.values[BY_EPOCH]:.4f}"),
                Cell(_origin(record, asked.member), words=True),
            ]
        )
    columns = ["epochs", "trial", *names, f"{BY_EPOCH} then", "its weights"]
    return Table("The course of the winner", columns, rows)


def _origin(record: Record, member: Member) -> str:
    """Say where the weights of a trial came from."""
    if member.parent is None:
        return "at random, with settings that were drawn"
    parent = record.asked.get(member.parent)
    if parent is not None and parent.member and parent.member.place == member.place:
        return "went on"
    return f"a copy of trial {member.parent}, with settings changed"
