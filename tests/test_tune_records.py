"""What a search writes down survives whatever happens, and one process at a time writes."""

from __future__ import annotations

import errno
import itertools
import json
import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import yaml
from safetensors import SafetensorError

from heliograph.config import HeliographConfig
from heliograph.workspace import InputError
from heliograph_tune.disk import is_full, room_on_disk
from heliograph_tune.loggers import PACKAGES, require_loggers, write_trial
from heliograph_tune.proposer import Proposer
from heliograph_tune.records import Asked, Event, Finished, Journal, Over, Record, read_journal
from heliograph_tune.run_folder import create_run, locked, newest_run
from heliograph_tune.schedulers import scheduler_of
from heliograph_tune.table import TRIALS_FILE, write_trials
from heliograph_tune.trials_to_run import BASELINE, repeat_trials, search_trials
from searches import ended, make_search, search_content, steps, write_config, write_search


def asked(number: int, **settings: Any) -> Asked:
    return Asked(number=number, seed=7, settings=settings)


def test_a_journal_gives_back_what_was_written(tmp_path: Path) -> None:
    events: list[Event] = [
        asked(0),
        asked(1, lr=0.1),
        ended(asked(0), 0.5, steps=steps(0.4, 0.5)),
        Over(phase="search"),
    ]
    with Journal(tmp_path / "journal.jsonl") as journal:
        for event in events:
            journal.append(event)
    assert list(read_journal(tmp_path / "journal.jsonl")) == events
    record = Record(events)
    assert [trial.number for trial in record.open] == [1]
    assert record.over == {"search"}
    assert not record.is_complete


@pytest.mark.parametrize("torn", [b'{"event": "asked", "num', b"\xff\xfe"])
def test_half_a_line_that_a_kill_left_is_cut_off(torn: bytes, tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    with Journal(path) as journal:
        journal.append(asked(0))
    with path.open("ab") as file:
        file.write(torn)
    assert len(list(read_journal(path))) == 1
    with Journal(path) as journal:
        journal.append(asked(1))
    assert [event.number for event in read_journal(path) if isinstance(event, Asked)] == [0, 1]


@contextmanager
def files_no_longer_than(length: int) -> Iterator[None]:
    """Let no file of this process grow beyond so many bytes: a write that would is cut short."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (length, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_line_that_was_written_in_part_is_taken_back(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    with Journal(path) as journal:
        journal.append(asked(0))
        whole = path.read_bytes()
        with files_no_longer_than(len(whole) + 7), pytest.raises(InputError, match="--resume"):
            journal.append(asked(1))
        assert path.read_bytes() == whole
        journal.append(asked(2))
    assert [event.number for event in read_journal(path) if isinstance(event, Asked)] == [0, 2]


@pytest.mark.parametrize("line", ["asked", "finished"])
def test_a_run_goes_on_when_a_line_of_its_journal_was_deleted(line: str, tmp_path: Path) -> None:
    search = make_search(tmp_path, searcher="random", budget={"trials": 8}, repeat={"best": 1})
    trials = [asked(number, **{"models.als.factors": 9 + number}) for number in range(6)]
    events: list[Asked | Finished] = []
    for trial in trials:
        events += [trial, ended(trial, 0.5)]
    record = Record(event for event in events if (event.event, event.number) != (line, 3))
    write_trials(record, search.config, tmp_path)
    lr = {"train.lr": {"type": "log_uniform", "low": 1e-4, "high": 1e-2}}
    scheduler_of(make_search(tmp_path, search="item_lm", space=lr), record)  # asha: of all ends
    proposer = Proposer(search.settings, search.space)
    proposer.learn_all(record)
    handed_out = []
    trials_left = search_trials(search, record, proposer, record.note)
    for trial in itertools.islice(trials_left, 9):  # the same one was handed out for ever
        handed_out.append(trial.number)
        record.note(ended(trial, 0.1))
    assert handed_out == ([6, 7, 8] if line == "asked" else [3, 6, 7])
    assert len(record.finished) == 8
    again = [trial.number for trial in repeat_trials(search, record, record.note)]
    assert again[0] == max(handed_out) + 1
    assert len(again) == 6


def test_the_configuration_as_it_stands_is_run_again_where_its_line_is_gone(
    tmp_path: Path,
) -> None:
    search = make_search(tmp_path, budget={"trials": 2})
    first = asked(1, **{"models.als.factors": 9})
    record = Record([first, ended(first, 0.5)])
    trials = search_trials(search, record, Proposer(search.settings, search.space), record.note)
    assert next(trials).number == BASELINE


def test_a_damaged_line_is_named(tmp_path: Path) -> None:
    (tmp_path / "journal.jsonl").write_text('{"event": "asked"}\n')
    with pytest.raises(InputError, match="line 1 of .* is damaged"):
        list(read_journal(tmp_path / "journal.jsonl"))


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_is_told_from_other_errors(code: int) -> None:
    bare = OSError(code, os.strerror(code))
    assert is_full(bare)
    assert is_full(SafetensorError(f"I/O error: {os.strerror(code)} (os error {code})"))
    try:
        try:
            raise bare
        except OSError as error:
            raise ValueError("the model cannot be written") from error
    except ValueError as error:
        assert is_full(error)
    assert not is_full(OSError(errno.EACCES, os.strerror(errno.EACCES)))
    assert not is_full(ValueError("no"))


@pytest.mark.skipif(
    not Path("/dev/full").exists(), reason="/dev/full, a disk without room, is there on Linux only"
)
def test_a_full_disk_says_how_to_go_on() -> None:
    full = Path("/dev/full")
    with Journal(full) as journal, pytest.raises(InputError, match="--resume"):
        journal.append(asked(0))
    with pytest.raises(InputError, match="disk of .* is full"), room_on_disk(full):
        full.write_text("x")


def test_the_table_has_a_row_a_trial_with_its_full_configuration(tmp_path: Path) -> None:
    search = make_search(tmp_path)
    first, second = asked(0), asked(1, **{"models.als.factors": 9})
    failed = ended(second, 0.0, state="failed", metrics={}, error="ValueError: no")
    record = Record([first, second, ended(first, 0.5, steps=steps(0.4, 0.5)), failed])
    write_trials(record, search.config, tmp_path)
    rows = pq.read_table(tmp_path / TRIALS_FILE).to_pylist()
    assert [row["state"] for row in rows] == ["done", "failed"]
    assert dict(rows[0]["metrics"])["ndcg@10"] == 0.5
    assert [dict(step["values"])["ndcg@10"] for step in rows[0]["steps"]] == [0.4, 0.5]
    config = HeliographConfig.model_validate(json.loads(rows[1]["config"]))
    assert config.models.als.factors == 9
    assert rows[1]["error"] == "ValueError: no"


def test_tensorboard_is_given_curves_and_settings(tmp_path: Path) -> None:
    trial = asked(3, **{"models.als.factors": 9, "train.precision": "float32"})
    require_loggers(["tensorboard"])
    write_trial("tensorboard", tmp_path, trial, ended(trial, 0.5, steps=steps(0.4, 0.5)))
    curves, settings = (
        b"".join(file.read_bytes() for file in (tmp_path / "tensorboard" / place).glob("events*"))
        for place in ("00003", "00003/settings")
    )
    assert b"loss" in curves
    assert b"models.als.factors" in settings
    assert b"float32" in settings


@pytest.mark.cluster
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # MLflow's own, of SQLAlchemy
def test_mlflow_is_given_curves_and_settings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import mlflow  # here: it takes seconds

    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    trial = asked(3, **{"models.als.factors": 9})
    run = tmp_path / "als-1"
    run.mkdir()
    write_trial("mlflow", run, trial, ended(trial, 0.5, steps=steps(0.4, 0.5)))
    client = mlflow.MlflowClient(tracking_uri=f"sqlite:///{run}/mlflow/mlflow.db")
    experiment = client.get_experiment_by_name("als-1")
    assert experiment is not None
    (written,) = client.search_runs([experiment.experiment_id])
    assert written.data.params["models.als.factors"] == "9"
    assert written.data.metrics["ndcg_at_10"] == 0.5
    curve = client.get_metric_history(written.info.run_id, "ndcg_at_10")
    assert [point.value for point in curve] == [0.4, 0.5, 0.5]


def test_a_logger_that_is_not_installed_names_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(PACKAGES, "mlflow", "a_package_that_nobody_has")
    with pytest.raises(InputError, match=r"not installed; pip install 'heliograph\[mlflow\]'"):
        require_loggers(["tensorboard", "mlflow"])


def test_runs_of_a_search_are_numbered(tmp_path: Path) -> None:
    search = make_search(tmp_path)
    assert [create_run(search).path.name for _ in range(3)] == ["als-1", "als-2", "als-3"]
    assert newest_run(search).path.name == "als-3"
    assert newest_run(search).search().space.parameters == search.space.parameters


def test_a_search_without_a_run_has_nothing_to_go_on_with(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="start one without --resume"):
        newest_run(make_search(tmp_path))


def test_a_changed_search_file_is_refused_showing_the_difference(tmp_path: Path) -> None:
    content = search_content(write_config(tmp_path))
    path = tmp_path / "als.yaml"
    create_run(write_search(path, content))
    with pytest.raises(InputError, match=r"budget.trials was 12 and is 13"):
        newest_run(write_search(path, content | {"budget": {"trials": 13}}))
    with pytest.raises(InputError, match=r"train.epochs was 60 and is 5"):
        newest_run(write_search(path, content | {"overrides": ["train.epochs=5"]}))
    newest_run(write_search(path, content))


def test_a_run_of_an_older_version_goes_on_with_the_defaults_of_what_is_new(tmp_path: Path) -> None:
    search = make_search(tmp_path)
    run = create_run(search)
    for name, key in (("config.yaml", "train"), ("search.yaml", "asha")):
        file = run.path / name
        older = yaml.safe_load(file.read_text())
        del older[key]
        file.write_text(yaml.safe_dump(older))
    assert newest_run(search) == run
    gone = yaml.safe_load((run.path / "config.yaml").read_text()) | {"frobnicate": 1}
    (run.path / "config.yaml").write_text(yaml.safe_dump(gone))
    with pytest.raises(InputError, match="frobnicate was 1 and is gone"):
        newest_run(search)


def test_a_run_is_whole_or_is_not_there(tmp_path: Path) -> None:
    search = make_search(tmp_path)
    (tmp_path / "workspace" / "searches" / "als-1").mkdir(parents=True)  # a stranger's, empty
    (tmp_path / "workspace" / "searches" / "als-2").mkdir()
    (tmp_path / "workspace" / "searches" / "als-2" / "note.txt").touch()
    folder = create_run(search)
    assert folder.path.name == "als-3"
    assert sorted(file.name for file in folder.path.iterdir()) == ["config.yaml", "search.yaml"]
    assert not list(folder.path.parent.glob(".*"))


def test_only_a_run_of_the_same_part_and_objectives_can_be_learned_from(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is no run of a search"):
        create_run(make_search(tmp_path, warm_start=str(tmp_path)))
    earlier = str(create_run(make_search(tmp_path)).path)
    create_run(make_search(tmp_path, warm_start=earlier))
    with pytest.raises(InputError, match="searched als by ndcg@10, but this search is of als by"):
        create_run(make_search(tmp_path, warm_start=earlier, objectives=["ndcg@10", "seconds"]))
    with pytest.raises(InputError, match=r"1 items of each user judged, here it is 8.*held_out: 1"):
        create_run(make_search(tmp_path, warm_start=earlier, held_out=8))
    space = {"models.transitions.window": {"type": "integer", "low": 1, "high": 9}}
    with pytest.raises(InputError, match="but this search is of transitions"):
        changes = {"search": "transitions", "space": space, "warm_start": earlier}
        create_run(make_search(tmp_path, **changes))


def test_a_run_on_other_data_cannot_be_learned_from(tmp_path: Path) -> None:
    earlier, data = create_run(make_search(tmp_path)), {"items": "a", "events": "b", "index": "c"}
    earlier.check_learned_from(data)  # it has not begun, so it has no trials
    earlier.check_inputs(data)
    earlier.check_learned_from(data | {"index": "another"})
    with pytest.raises(InputError, match=r"warm_start: .*als-1 saw other events.*warm_start out"):
        earlier.check_learned_from(data | {"events": "others"})


def test_changed_data_is_refused(tmp_path: Path) -> None:
    folder = create_run(make_search(tmp_path))
    folder.check_inputs({"events": "a"})
    folder.check_inputs({"events": "a"})
    with pytest.raises(InputError, match="events changed since"):
        folder.check_inputs({"events": "b"})


def test_a_folder_that_is_no_run_is_refused(tmp_path: Path) -> None:
    from heliograph_tune.run_folder import RunFolder

    with pytest.raises(InputError, match="is no run of a search"):
        RunFolder(tmp_path).search()


def test_two_searches_in_one_folder_are_refused(tmp_path: Path) -> None:
    with (
        locked(tmp_path / "lock", "searching"),
        pytest.raises(InputError, match=f"process {os.getpid()} is searching in"),
        locked(tmp_path / "lock", "searching"),
    ):
        pytest.fail("both hold the lock")
    with locked(tmp_path / "lock", "searching"):
        pass  # it is free again
