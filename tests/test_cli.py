"""The command line: every command explains itself, and mistakes are one line."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command

from heliograph import cli
from heliograph.build import STAGES


def commands(command: Any, *path: str) -> list[str]:
    """Return every command below one, in the order in which help lists them."""
    inner: Mapping[str, Any] = getattr(command, "commands", {})
    if not inner:
        return [" ".join(path)]
    names = command.list_commands(None)
    return [found for name in names for found in commands(inner[name], *path, name)]


cli.add_commands()
COMMANDS = commands(get_command(cli.app))


def run(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, *arguments: str
) -> tuple[int, str]:
    """Run the command line in this process; returns the exit code and what it printed."""
    monkeypatch.setattr(sys, "argv", ["heliograph", *arguments])
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    printed = capsys.readouterr()
    code = stopped.value.code
    return code if isinstance(code, int) else 0, " ".join((printed.out + printed.err).split())


def shop_without_data(folder: Path) -> Path:
    path = folder / "shop.yaml"
    path.write_text(
        "name: shop\nworkspace: workspace\n"
        "items: {path: items.csv, format: csv}\nevents: {path: events.csv, format: csv}\n"
    )
    return path


def test_commands_are_listed_as_the_data_flows() -> None:
    groups = list(dict.fromkeys(command.split()[0] for command in COMMANDS))
    assert groups == list(cli.ORDER)
    assert [command for command in groups if command in STAGES] == list(STAGES)
    inner = {"events import", "experiment start", "items put", "keys add", "status", "tune promote"}
    assert inner <= set(COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_the_help_of_every_command_shows_an_example(
    command: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    code, printed = run(capsys, monkeypatch, *command.split(), "--help")
    assert code == 0
    typed = command.removesuffix(" search")  # the default of `tune`, which is not typed
    assert "Example:" in printed and f"heliograph {typed}" in printed


def test_the_help_lists_the_stages_first(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    _, printed = run(capsys, monkeypatch, "--help")
    places = [
        printed.index(f" {name} ") for name in ("ingest", "bundle", "serve", "deploy", "keys")
    ]
    assert places == sorted(places)


def test_a_missing_configuration_is_one_line(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    code, printed = run(capsys, monkeypatch, "build", "nowhere.yaml")
    assert code == 2
    assert printed.startswith("error: no configuration at nowhere.yaml")
    assert "Traceback" not in printed


def test_an_unknown_setting_names_the_one_that_was_meant(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    example = Path(__file__).parent.parent / "examples/movielens/movielens.yaml"
    code, printed = run(capsys, monkeypatch, "build", str(example), "--set", "train.epoch=3")
    assert code == 2
    assert "did you mean train.epochs?" in printed


def test_a_data_file_that_is_missing_is_named(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    path = shop_without_data(tmp_path)
    code, printed = run(capsys, monkeypatch, "ingest", str(path))
    assert code == 2
    assert "items.csv" in printed


def test_a_folder_that_is_no_bundle_is_not_served(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    code, printed = run(capsys, monkeypatch, "serve", str(tmp_path))
    assert code == 2
    assert "is not a bundle" in printed


def test_an_endpoint_that_does_not_answer_is_named(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    code, printed = run(capsys, monkeypatch, "recommend", "http://127.0.0.1:9", "anyone")
    assert code == 2
    assert "nothing answers at http://127.0.0.1:9" in printed
    assert "heliograph serve" in printed


@pytest.mark.parametrize("url", ["127.0.0.1:9", "localhost", "http://127.0.0.1:abc"])
def test_what_is_no_url_is_not_tried(
    url: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    code, printed = run(capsys, monkeypatch, "recommend", url, "ann")
    assert code == 2 and "is no URL of an endpoint" in printed


def test_where_nothing_answers_the_graph_is_not_ready(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    code, printed = run(capsys, monkeypatch, "status", "http://127.0.0.1:9")
    assert code == 1 and "not ready: nothing answers at http://127.0.0.1:9" in printed


def test_a_key_that_no_header_can_carry_is_named(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HELIOGRAPH_KEY", "schl\u00fcssel")
    code, printed = run(capsys, monkeypatch, "status", "http://127.0.0.1:9")
    assert code == 2 and "HELIOGRAPH_KEY holds characters" in printed


@pytest.mark.parametrize(
    ("file", "told"),
    [
        ("item_id,title\na,A\n,B\n", "row 2 of {path} has no item_id"),
        ("sku,title\na,A\n", "{path} has no column 'item_id', which items.item_id names"),
    ],
)
def test_an_item_that_nobody_can_name_is_not_put(
    file: str,
    told: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    config, path = shop_without_data(tmp_path), tmp_path / "new.csv"
    path.write_text(file)
    code, printed = run(
        capsys, monkeypatch, "items", "put", "http://127.0.0.1:9", str(config), str(path)
    )
    assert code == 2 and told.format(path=path) in printed


def test_a_file_that_cannot_be_written_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    config, file = shop_without_data(tmp_path), tmp_path / "a file"
    (tmp_path / "workspace" / "bundles").mkdir(parents=True)
    file.touch()
    run(capsys, monkeypatch, "events", "migrate", str(config))
    code, printed = run(
        capsys, monkeypatch, "events", "export", str(config), "--to", str(file / "in it")
    )
    assert code == 2 and f"error: {file}" in printed and "Traceback" not in printed
    code, printed = run(
        capsys, monkeypatch, "events", "import", "http://127.0.0.1:9", str(tmp_path)
    )
    assert code == 2 and f"{tmp_path} is a folder" in printed


@pytest.mark.parametrize(("rules", "told"), [("{", "no JSON"), ("[1]", "must be an object")])
def test_rules_that_are_none_are_refused(
    rules: str, told: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    request = ("recommend", "http://127.0.0.1:9", "anyone", "--rules", rules)
    code, printed = run(capsys, monkeypatch, *request)
    assert (code, told in printed, rules in printed) == (2, True, True)


def test_the_console_script_is_installed_and_starts_without_ray_or_torch() -> None:
    script = Path(sys.executable).with_name("heliograph")
    done = subprocess.run(
        [script, "version"],
        env=os.environ | {"PYTHONPROFILEIMPORTTIME": "1"},  # lists imports on standard error
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip()
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert "heliograph.config" in imported
    assert not imported & {"faiss", "pandas", "ray", "torch", "transformers"}


def test_events_are_migrated_and_exported_by_command(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    path = shop_without_data(tmp_path)
    assert run(capsys, monkeypatch, "events", "migrate", str(path))[0] == 0
    store = tmp_path / "workspace" / "bundles" / "events.sqlite"
    with closing(sqlite3.connect(store)) as database, database:
        row = "('e', 'ann', 'a', 1, 'view')"
        database.execute(
            f"INSERT INTO events(event_id, user_id, item_id, time_us, type) VALUES {row}"
        )
    code, printed = run(capsys, monkeypatch, "events", "export", str(path))
    assert code == 0
    assert "1 new events, up to position 1" in printed
    assert len(list((tmp_path / "workspace" / "feedback").glob("*.parquet"))) == 1
    lines = tmp_path / "clicks.jsonl"
    lines.write_text("nothing\n")
    code, printed = run(capsys, monkeypatch, "events", "import", "http://127.0.0.1:9", str(lines))
    assert "0 new events" in printed and "1 lines rejected" in printed
