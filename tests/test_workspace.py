"""Stages run once; locations are found; what is written is whole."""

import json
from pathlib import Path

import pytest
from pydantic import BaseModel

from heliograph.config import AlsConfig
from heliograph.workspace import (
    RECORD,
    InputError,
    StageResult,
    digest_of,
    hash_file,
    hash_files,
    make_folder,
    resolve,
    run_stage,
    source_files,
    write_json,
)


def settings_of(seed: int = 1, factors: int = 8) -> dict[str, BaseModel | int | None]:
    return {"seed": seed, "als": AlsConfig(factors=factors)}


class Stage:
    """A stage that writes two files and counts how often it had to."""

    def __init__(self, workspace: Path) -> None:
        self.workspace = workspace
        self.runs = 0

    def run(
        self, seed: int = 1, factors: int = 8, source: str = "abc", content: str = "x"
    ) -> StageResult:
        def work(folder: Path) -> dict[str, float]:
            self.runs += 1
            (folder / "one.txt").write_text(content)
            (folder / "sub").mkdir(exist_ok=True)
            (folder / "sub" / "two.txt").write_text("two")
            return {"rows": 3}

        return run_stage(
            self.workspace, "stage", settings_of(seed, factors), {"source": source}, work
        )


@pytest.fixture
def stage(tmp_path: Path) -> Stage:
    return Stage(tmp_path / "deep" / "workspace")


def test_a_stage_runs_once_and_is_reused(stage: Stage) -> None:
    first, second = stage.run(), stage.run()
    assert (first.reused, second.reused, stage.runs) == (False, True, 1)
    assert second.counts == {"rows": 3}
    assert (second.digest, second.seconds, second.folder) == (
        first.digest,
        first.seconds,
        stage.workspace / "stage",
    )


def test_a_stage_runs_again_when_a_setting_changes(stage: Stage) -> None:
    stage.run()
    assert not stage.run(factors=16).reused
    assert not stage.run(seed=2).reused


def test_a_stage_runs_again_when_an_input_changes(stage: Stage) -> None:
    stage.run()
    assert not stage.run(source="abd").reused


def test_the_same_files_have_the_same_digest_whatever_the_settings(stage: Stage) -> None:
    """So that the next stages need not run again."""
    assert stage.run().digest == stage.run(factors=16).digest
    assert stage.run().digest != stage.run(seed=3, content="y").digest


@pytest.mark.parametrize("file", ["one.txt", "sub/two.txt", RECORD])
def test_a_stage_runs_again_when_a_file_is_missing(stage: Stage, file: str) -> None:
    (stage.run().folder / file).unlink()
    assert not stage.run().reused
    assert stage.run().reused


def test_a_stage_runs_again_when_a_file_is_truncated(stage: Stage) -> None:
    (stage.run().folder / "sub" / "two.txt").write_text("tw")
    assert not stage.run().reused


@pytest.mark.parametrize("record", ["", "{", "[]", "7", "{}", '{"key": 1}', "\x00\x00"])
def test_a_stage_runs_again_when_its_record_is_damaged(stage: Stage, record: str) -> None:
    (stage.run().folder / RECORD).write_text(record)
    assert not stage.run().reused
    assert stage.run().reused


def test_a_record_of_another_shape_is_not_trusted(stage: Stage) -> None:
    path = stage.run().folder / RECORD
    record = json.loads(path.read_text())
    record["files"]["one.txt"] = {}
    path.write_text(json.dumps(record))
    assert not stage.run().reused


def test_a_stage_killed_half_way_runs_again(stage: Stage) -> None:
    def killed(folder: Path) -> dict[str, float]:
        (folder / "one.txt").write_text("half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_stage(stage.workspace, "stage", settings_of(), {"source": "abc"}, killed)
    result = stage.run()
    assert not result.reused
    assert (result.folder / "one.txt").read_text() == "x"


def test_a_finished_stage_that_is_killed_when_run_anew_does_not_pass_as_finished(
    stage: Stage,
) -> None:
    def killed(folder: Path) -> dict[str, float]:
        raise KeyboardInterrupt

    stage.run()
    with pytest.raises(KeyboardInterrupt):
        run_stage(stage.workspace, "stage", {"seed": 9}, {}, killed)
    assert not stage.run().reused


def test_what_a_killed_writer_leaves_behind_does_not_change_the_digest(stage: Stage) -> None:
    digest = stage.run().digest
    (stage.workspace / "stage" / f".{RECORD}.123").write_text("half a rec")
    (stage.workspace / "stage" / RECORD).unlink()
    assert stage.run().digest == digest


def test_a_folder_is_made_with_those_above_it_and_left_as_it_is(tmp_path: Path) -> None:
    folder = tmp_path / "deep" / "workspace"
    make_folder(folder, "workspace")
    (folder / "kept").touch()
    make_folder(folder, "workspace")
    assert [path.name for path in folder.iterdir()] == ["kept"]


@pytest.mark.parametrize("place", ["file", "file/workspace", "/proc/workspace", "/proc"])
def test_a_folder_that_cannot_be_written_to_is_named(tmp_path: Path, place: str) -> None:
    (tmp_path / "file").touch()
    folder = tmp_path / place
    with pytest.raises(InputError, match="workspace .* set workspace to a path where") as caught:
        make_folder(folder, "workspace")
    assert str(folder) in str(caught.value)


def test_a_package_is_found_without_being_imported(tmp_path: Path) -> None:
    assert resolve("package://heliograph/py.typed").is_file()
    assert resolve("package://heliograph").is_dir()
    assert resolve(str(tmp_path)) == tmp_path


@pytest.mark.parametrize(
    ("location", "message"),
    [
        ("package://no_such_package/x", "package 'no_such_package' is not installed"),
        ("package://json.decoder/x", "is not installed"),
        ("package://math/x", "is not installed"),  # a module, not a folder
        ("package:///x", "is not installed"),
        ("package://../x", "is not installed"),
        ("package://heliograph/absent.csv", "nothing there"),
        ("s3://bucket/x", "scheme s3:// is unknown"),
        ("/no/such/file", "nothing there"),
    ],
)
def test_a_location_that_leads_nowhere_is_an_error_that_names_it(
    location: str, message: str
) -> None:
    with pytest.raises(InputError, match=message) as caught:
        resolve(location)
    assert location in str(caught.value)


def test_an_empty_folder_is_an_error_that_names_it(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds no files") as caught:
        source_files(str(tmp_path))
    assert str(tmp_path) in str(caught.value)


def test_the_files_of_a_folder_come_in_order_and_without_bookkeeping(tmp_path: Path) -> None:
    for name in ("b.csv", "a.csv", "c/d.csv", "_SUCCESS", ".a.csv.crc", ".hidden/x.csv"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    found = [file.relative_to(tmp_path).as_posix() for file in source_files(str(tmp_path))]
    assert found == ["a.csv", "b.csv", "c/d.csv"]


def test_a_location_under_a_hidden_folder_is_read_all_the_same(tmp_path: Path) -> None:
    file = tmp_path / ".cache" / "_x" / "a.csv"
    file.parent.mkdir(parents=True)
    file.touch()
    assert source_files(str(file.parent)) == [file] == source_files(str(file))


def test_hashes_are_those_of_the_contents(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"abc")
    known = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"  # FIPS 180-2
    assert hash_file(tmp_path / "a") == known
    assert hash_files(tmp_path) == {"a": {"sha256": known, "bytes": 3}}


def test_a_digest_depends_on_the_boundaries() -> None:
    assert digest_of("ab", "c") != digest_of("a", "bc") != digest_of("abc")


def test_json_that_cannot_be_written_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    write_json(path, {"a": 1})
    for content in ({"a": float("nan")}, {"a": object()}):
        with pytest.raises((ValueError, TypeError)):
            write_json(path, content)
    assert json.loads(path.read_text()) == {"a": 1}
    assert list(tmp_path.iterdir()) == [path]
