"""API keys: the file, the commands, and what a changed file does."""

from __future__ import annotations

import json
import stat
from pathlib import Path

import pytest
from typer.testing import CliRunner

from heliograph.cli import app
from heliograph.keys import PREFIX, KeyRing, Scope, add_key, read_keys, remove_key
from heliograph.workspace import InputError
from heliograph_serve import access
from heliograph_serve.access import WatchedKeys


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "keys.json"


def test_a_key_is_found_by_what_its_holder_sends(file: Path) -> None:
    secret = add_key(file, "shop", [Scope.WRITE, Scope.READ])
    ring = KeyRing(read_keys(file))
    found = ring.find(secret)
    assert found is not None and (found.name, found.scopes) == ("shop", ("read", "write"))
    assert secret.startswith(PREFIX) and len(secret) == len(PREFIX) + 43  # 32 bytes in base64
    for other in ("", secret[:-1], secret + "=", secret.lower(), found.sha256, "ключ"):
        assert ring.find(other) is None


def test_the_key_itself_is_not_in_the_file_and_others_cannot_read_it(file: Path) -> None:
    secret = add_key(file, "shop", [Scope.READ])
    assert secret not in file.read_text() and secret[len(PREFIX) :] not in file.read_text()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


def test_two_keys_never_have_one_name(file: Path) -> None:
    add_key(file, "shop", [Scope.READ])
    with pytest.raises(InputError, match="has a key shop already"):
        add_key(file, "shop", [Scope.ADMIN])
    assert len(read_keys(file)) == 1


@pytest.mark.parametrize("name", ["", "a b", "a\nb", "../x", "-x", "x" * 65, "é"])
def test_a_name_that_would_be_odd_in_a_log_is_refused(file: Path, name: str) -> None:
    with pytest.raises(InputError, match="name of the key"):
        add_key(file, name, [Scope.READ])
    assert not file.exists()


def test_removing_a_key_leaves_the_others(file: Path) -> None:
    secrets = {name: add_key(file, name, [Scope.READ]) for name in ("shop", "batch")}
    remove_key(file, "shop")
    ring = KeyRing(read_keys(file))
    assert ring.find(secrets["shop"]) is None and ring.find(secrets["batch"]) is not None
    with pytest.raises(InputError, match="no key shop; here are: batch"):
        remove_key(file, "shop")


@pytest.mark.parametrize(
    "content", ["", "{", "[]", '{"keys": [{"name": "x"}]}', '{"keys": [], "more": 1}', "\xff"]
)
def test_a_file_that_is_none_is_refused_by_name(file: Path, content: str) -> None:
    file.write_text(content, encoding="latin-1")
    with pytest.raises(InputError, match="keys.json is not a keys file"):
        read_keys(file)


def test_a_missing_file_says_how_to_make_one(file: Path) -> None:
    with pytest.raises(InputError, match="heliograph keys add"):
        read_keys(file)


def test_a_changed_file_counts_and_a_broken_one_changes_nothing(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(access, "LOOK_EVERY_S", 0.0)
    first = add_key(file, "first", [Scope.READ])
    keys = WatchedKeys(file)
    second = add_key(file, "second", [Scope.READ])
    assert keys.find(first) is not None and keys.find(second) is not None
    remove_key(file, "first")
    assert keys.find(first) is None
    file.write_text("{")
    assert keys.find(second) is not None  # somebody edits it
    file.unlink()
    assert keys.find(second) is not None and keys.find(first) is None


def test_the_commands_print_a_key_once_list_names_and_remove(file: Path) -> None:
    def run(*arguments: str) -> str:
        result = CliRunner().invoke(app, ["keys", *arguments, "--file", str(file)])
        assert result.exit_code == 0, result.output
        return result.output

    secret = run("add", "shop", "--scope", "read", "--scope", "write").strip()
    assert KeyRing(read_keys(file)).find(secret) is not None
    listed = run("list")
    assert "shop" in listed and "read write" in listed
    assert secret not in listed and json.loads(file.read_text())["keys"][0]["sha256"] not in listed
    assert "removed shop" in run("remove", "shop")
    assert not read_keys(file)


def test_a_scope_that_does_not_exist_is_refused(file: Path) -> None:
    result = CliRunner().invoke(app, ["keys", "add", "x", "--scope", "root", "--file", str(file)])
    assert result.exit_code == 2 and not file.exists()
