"""The commands `heliograph items ...`: the catalogue of a running graph."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape

from heliograph.events_cli import ConfigPath
from heliograph.workspace import InputError

if TYPE_CHECKING:
    from heliograph.config import ItemsConfig

app = typer.Typer(help="The catalogue of a running graph.", no_args_is_help=True)
console = Console()

ITEMS_A_REQUEST = 250
"""With texts of some kilobytes each, a request keeps below the limit of its size."""

Url = Annotated[str, typer.Argument(help="Of a running graph, e.g. http://127.0.0.1:8000")]


@app.command()
def put(
    url: Url,
    config: ConfigPath,
    source: Annotated[Path, typer.Argument(metavar="FILE", help="As the file of items.")],
) -> None:
    """Add items to the catalogue of a running graph, or replace them.

    The file is read by the configuration's settings of items: format, and what columns are called.
    Every item that it names is replaced as a whole; doing it again changes nothing.

    Example: heliograph items put http://127.0.0.1:8000 shop.yaml new.csv
    """
    from heliograph import client
    from heliograph.config_file import load_config

    added = updated = 0
    rows = list(_rows(source, load_config(config, []).items))
    for start in range(0, len(rows), ITEMS_A_REQUEST):
        told = client.put_items(url, rows[start : start + ITEMS_A_REQUEST])
        added, updated = added + len(told["added"]), updated + len(told["updated"])
    console.print(f"{added} items added, {updated} updated; every replica recommends them")


@app.command()
def availability(
    url: Url,
    off: Annotated[list[str] | None, typer.Option(help="Item not to be recommended.")] = None,
    on: Annotated[list[str] | None, typer.Option(help="Item to be recommended again.")] = None,
) -> None:
    """Say which items may be recommended by a running graph.

    Example: heliograph items availability http://127.0.0.1:8000 --off hammer-1 --on hammer-2
    """
    from heliograph import client

    told = client.put_availability(
        url, dict.fromkeys(off or [], False) | dict.fromkeys(on or [], True)
    )
    gone, back = told["made_unavailable"], told["made_available"]
    console.print(f"{len(gone)} items made unavailable, {len(back)} available")
    if told["unknown_items"]:
        console.print(f"not in the catalogue: {escape(', '.join(told['unknown_items']))}")


@app.command()
def export(
    config: ConfigPath,
    to: Annotated[Path, typer.Option(help="File of JSON lines to write.")],
) -> None:
    """Write the items that were changed online, as a file of items; a build reads them by itself.

    Example: heliograph items export shop.yaml --to changed.jsonl
    """
    from heliograph.config_file import load_config
    from heliograph.event_store.changed_items import export_changed, store_of

    settings = load_config(config, [])
    url = store_of(settings)
    count = 0 if url is None else asyncio.run(export_changed(url, settings.items, to))
    console.print(f"{count} items [bold]{escape(str(to))}[/bold]")


def _rows(source: Path, items: ItemsConfig) -> Iterator[dict[str, Any]]:
    """Read a file of items.

    Raises:
        InputError: It cannot be read, or a row does not say which item it is of.
    """
    from heliograph.formats import read_file
    from heliograph.tables import lacking

    number = 0
    for block in read_file(str(source), items):
        if items.item_id not in block.column_names:
            raise lacking(str(source), items.item_id, "items.item_id", block.column_names)
        for row in block.to_pylist():
            number += 1
            item_id = row.pop(items.item_id)
            if item_id is None:
                raise InputError(
                    f"row {number} of {source} has no {items.item_id}, so nobody knows which item "
                    "it is of; give it one or take it out. Nothing was sent"
                )
            yield {"item_id": str(item_id)} | {name: _as_json(value) for name, value in row.items()}


def _as_json(value: Any) -> Any:
    if isinstance(value, date):  # times are dates too
        return value.isoformat()
    return float(value) if isinstance(value, Decimal) else value
