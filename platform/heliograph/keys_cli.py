"""The commands `heliograph keys ...`: who may use an endpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from heliograph.keys import Scope, add_key, read_keys, remove_key

app = typer.Typer(help="API keys: who may use an endpoint, and for what.", no_args_is_help=True)
console = Console()

KeysPath = Annotated[Path, typer.Option("--file", help="The keys file, as `serve.keys` names it.")]
KeyName = Annotated[str, typer.Argument(help="Of the key; stands in logs and metrics.")]
KEYS_FILE = Path("keys.json")


@app.command()
def add(
    name: KeyName,
    scopes: Annotated[
        list[Scope], typer.Option("--scope", help="What it is good for; may be repeated.")
    ],
    file: KeysPath = KEYS_FILE,
) -> None:
    """Make a key and print it, this once: the file keeps a digest.

    Running graphs take it within seconds.

    Example: heliograph keys add shop-frontend --scope read --scope write
    """
    typer.echo(add_key(file, name, scopes))  # nothing else, so that it can be piped


@app.command("list")
def list_command(file: KeysPath = KEYS_FILE) -> None:
    """Print names, scopes and dates of all keys.

    Example: heliograph keys list --file /etc/shop/keys.json
    """
    table = Table("name", "scopes", "created")
    for key in read_keys(file):
        table.add_row(key.name, " ".join(key.scopes), f"{key.created:%Y-%m-%d %H:%M}")
    console.print(table)


@app.command()
def remove(name: KeyName, file: KeysPath = KEYS_FILE) -> None:
    """Make a key worthless; running graphs refuse it within seconds.

    Example: heliograph keys remove shop-frontend
    """
    remove_key(file, name)
    console.print(f"removed {name}")
