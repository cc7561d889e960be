"""Searches on Ray: what becomes of trials that are stopped, fail or never end, and of the best."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
import time
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any, Literal

import pytest
import ray
from safetensors import SafetensorError

from heliograph.bundle import open_bundle
from heliograph.config import HeliographConfig
from heliograph.config_file import dump_config, load_config
from heliograph.workspace import InputError, hash_files
from heliograph_tune.ending import SearchEndedError
from heliograph_tune.prepare import Prepared, prepare
from heliograph_tune.records import Report, Step
from heliograph_tune.run_folder import RunFolder, create_run
from heliograph_tune.search import run_prepared, run_search
from heliograph_tune.search_file import load_search
from heliograph_tune.setting import with_settings
from search_runs import EPOCHS, TRIALS, nobody, run, write
from searches import make_search
from small_shop import Silent

pytestmark = pytest.mark.cluster
ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])  # workers do not see tests/


@pytest.fixture
def shop(embedded_shop: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(embedded_shop, tmp_path / "shop"))


def test_asha_stops_bad_trials_and_frees_their_places(shop: Path) -> None:
    space = {"train.lr": {"type": "log_uniform", "low": 1e-6, "high": 1e-2}}
    asha = {"grace_epochs": 2}
    changes = {"scheduler": "asha", "asha": asha, "space": space, "searcher": "random"}
    record = run(write(shop, **changes, budget={"trials": 14, "concurrency": 2}))
    stopped = [end for end in record.finished.values() if end.state == "stopped"]
    done = [end for end in record.finished.values() if end.state == "done"]
    assert stopped
    assert all(len(end.steps) < EPOCHS for end in stopped)
    assert all(len(end.steps) == EPOCHS for end in done)
    best = max(record.finished.values(), key=lambda end: end.metrics["ndcg@10"])
    assert best.state == "done"


def test_the_best_are_run_again_with_other_seeds(shop: Path) -> None:
    space = {"models.als.factors": {"type": "integer", "low": 2, "high": 16}}
    changes = {"name": "als", "search": "als", "space": space, "scheduler": None}
    budget = {"trials": TRIALS, "concurrency": 1}
    record = run(write(shop, **changes, budget=budget, repeat={"best": 2, "seeds": 2}))
    assert record.is_complete
    assert len(record.of("repeat")) == 6
    assert {asked.seed for asked in record.of("repeat")} == {8, 9}


def test_a_search_whose_every_trial_fails_says_why(shop: Path) -> None:
    space = {"train.lr": {"type": "uniform", "low": 1e29, "high": 1e30}}
    with pytest.raises(InputError, match=r"no trial of 3 came to a result.*training diverged"):
        run(
            write(
                shop,
                space=space,
                overrides=["train.lr=1e30"],
                budget={"trials": 3, "concurrency": 1},
            )
        )


def test_a_trial_that_fails_is_recorded_and_the_search_goes_on(shop: Path) -> None:
    space = {"train.lr": {"type": "choice", "values": [1e30, 1e-3]}}
    changes = {
        "space": space,
        "budget": {"trials": 4, "concurrency": 1},
        "overrides": ["train.epochs=2"],
    }
    record = run(write(shop, **changes))
    failed = [end for end in record.finished.values() if end.state == "failed"]
    assert failed
    assert "training diverged" in str(failed[0].error)
    assert any(end.state == "done" for end in record.finished.values())


@dataclass(frozen=True)
class Odd:
    """Judges factors: of 1 it makes no number, of 2 an error, and 3 kill its worker."""

    def judge(
        self, config: HeliographConfig, ks: tuple[int, ...], checkpoint: Path, report: Report
    ) -> dict[str, float]:
        """See `heliograph_tune.judges.Judge`."""
        match config.models.als.factors:
            case 1:
                return {"ndcg@10": float("nan")}
            case 2:
                raise ValueError("two are too few")
            case 3:
                os.kill(os.getpid(), signal.SIGKILL)
        return {"ndcg@10": 0.5}


def test_no_number_an_error_and_a_death_are_recorded_and_the_search_goes_on(
    ray_cluster: None, tmp_path: Path
) -> None:
    values = {"type": "choice", "values": [1, 2, 3, 4]}
    space = {"models.als.factors": values}
    search = make_search(tmp_path, space=space, budget={"minutes": 1}, repeat={"best": 0})
    record = run_prepared(search, create_run(search), Prepared(Odd(), {}), nobody)
    errors: dict[int, str | None] = {}
    for asked in record.of("search")[1:]:
        error = record.finished[asked.number].error
        errors.setdefault(asked.settings["models.als.factors"], error)
    assert "ndcg@10 is nan" in str(errors[1])
    assert errors[2] == "ValueError: two are too few"
    assert errors[3] == "its worker died again and again"
    assert errors[4] is None


@dataclass(frozen=True)
class Stuck:
    """A judge of many factors to whom something happens for as long as a file is there."""

    there: Path
    happens: Literal["full disk", "Serve has been ended"]

    def judge(
        self, config: HeliographConfig, ks: tuple[int, ...], checkpoint: Path, report: Report
    ) -> dict[str, float]:
        """See `heliograph_tune.judges.Judge`."""
        if config.models.als.factors > 2 and self.there.exists():
            if self.happens == "full disk":
                raise SafetensorError("I/O error: No space left on device (os error 28)")
            raise SearchEndedError("Serve has been ended; go on with --resume")
        return {"ndcg@10": 1 / config.models.als.factors}


@pytest.mark.parametrize(
    ("happens", "told"),
    [
        (
            "full disk",
            r"trial \d+ stopped on .*{folder}.* MB are free; .*No space left.*--resume",
        ),
        ("Serve has been ended", r"^Serve has been ended; go on with --resume"),
    ],
)
def test_what_no_trial_can_help_stops_the_search_and_its_trials_run_when_it_is_over(
    happens: Literal["full disk", "Serve has been ended"],
    told: str,
    ray_cluster: None,
    tmp_path: Path,
) -> None:
    space = {"models.als.factors": {"type": "choice", "values": [1, 2, 3, 4]}}
    changes: dict[str, Any] = {"overrides": ["models.als.factors=1"], "searcher": "random"}
    budget = {"trials": 8, "concurrency": 2}
    search = make_search(tmp_path, space=space, budget=budget, repeat={"best": 0}, **changes)
    there, folder = tmp_path / "there", create_run(search)
    there.touch()
    prepared = Prepared(Stuck(there, happens), {})
    with pytest.raises(InputError, match=told.format(folder=folder.path)):
        run_prepared(search, folder, prepared, nobody)
    before = folder.record()
    assert before.open
    assert not [end for end in before.finished.values() if end.state == "failed"]
    there.unlink()
    record = run_prepared(search, folder, prepared, nobody)
    assert record.is_complete
    assert not record.open
    assert {end.state for end in record.finished.values()} == {"done", "known"}
    assert {number: record.finished[number] for number in before.finished} == before.finished


@dataclass(frozen=True)
class Endless:
    """A judge that reports and never ends."""

    def judge(
        self, config: HeliographConfig, ks: tuple[int, ...], checkpoint: Path, report: Report
    ) -> dict[str, float]:
        """See `heliograph_tune.judges.Judge`."""
        for step in count(1):
            time.sleep(0.05)
            report(Step(step=step, values={"ndcg@10": 0.5, "best": 0.5}))
        raise AssertionError


def test_time_that_is_over_cuts_what_is_at_work(ray_cluster: None, tmp_path: Path) -> None:
    budget = {"minutes": 0.25, "concurrency": 2}
    search = make_search(tmp_path, budget=budget, repeat={"best": 0})
    record = run_prepared(search, create_run(search), Prepared(Endless(), {}), nobody)
    assert [end.state for end in record.finished.values()] == ["cut", "cut"]
    assert all(end.steps and end.metrics == {"ndcg@10": 0.5} for end in record.finished.values())


def test_more_processors_than_there_are_are_refused(shop: Path) -> None:
    budget = {"trials": 2, "concurrency": 3}
    with pytest.raises(InputError, match="3 trials at once, of 1 CPUs .* do not fit"):
        run(write(shop, budget=budget))


@pytest.mark.parametrize(
    ("model", "path", "values"),
    [("transitions", "window", [1, 5, 9]), ("text", "half_life", [1.0, 3.0, 9.0])],
)
def test_models_without_luck_are_searched_and_not_run_again(
    model: str, path: str, values: list[float], shop: Path
) -> None:
    space = {f"models.{model}.{path}": {"type": "choice", "values": values}}
    changes = {"name": model, "search": model, "space": space, "scheduler": None}
    record = run(write(shop, **changes, budget={"trials": 4}, repeat={"best": 1}))
    assert record.is_complete
    assert not record.of("repeat")
    assert {end.state for end in record.finished.values()} <= {"done", "known"}
    assert all(end.metrics["ndcg@10"] > 0 for end in record.finished.values())


def model_files(workspace: Path) -> dict[str, str]:
    return {
        name: str(entry["sha256"])
        for stage in ("models", "index")
        for name, entry in hash_files(workspace / stage).items()
    }


def test_a_search_on_another_configuration_leaves_the_models_of_the_workspace_alone(
    shop: Path,
) -> None:
    space = {"candidates.depth": {"type": "integer", "low": 10, "high": 40}}
    changes = {"name": "pipeline", "search": "pipeline", "scheduler": None, "space": space}

    def inputs(*overrides: str) -> tuple[dict[str, str], set[str]]:
        search, report = load_search(write(shop, **changes, overrides=list(overrides))), Silent()
        prepared = prepare(search, create_run(search), report)
        return prepared.inputs, {stage.name for stage in report.finished if not stage.reused}

    first, _ = inputs()
    before = model_files(shop / "workspace")
    other, fitted = inputs("models.als.factors=4")
    assert fitted == {"models/als", "index"}
    assert {name for name in first if first[name] != other[name]} == fitted
    assert model_files(shop / "workspace") == before
    shutil.rmtree(shop / "workspace" / "models" / "als")  # whoever builds there may fit others
    assert inputs("models.als.factors=4") == (other, set())


def test_models_that_have_not_seen_several_items_of_each_user_are_kept_apart(shop: Path) -> None:
    space = {"candidates.depth": {"type": "integer", "low": 10, "high": 40}}
    changes = {"name": "pipeline", "search": "pipeline", "scheduler": None, "space": space}

    def fitted(held_out: int) -> set[str]:
        search, report = load_search(write(shop, **changes, held_out=held_out)), Silent()
        prepare(search, create_run(search), report)
        return {stage.name for stage in report.finished if not stage.reused}

    fitted(1)
    before = model_files(shop / "workspace")
    assert {"models/als", "models/transitions", "models/item_lm", "index"} <= fitted(3)
    assert model_files(shop / "workspace") == before
    assert (fitted(1), fitted(3)) == (set(), set())


def with_fewer_events(shop: Path, config: HeliographConfig) -> Path:
    """Write a configuration of a workspace of its own, whose events lack the last one."""
    lines = (shop / "events.csv").read_text().splitlines(keepends=True)
    (shop / "fewer.csv").write_text("".join(lines[:-1]))
    changes = {"events.path": str(shop / "fewer.csv"), "workspace": str(shop / "fewer")}
    path = shop / "fewer.yaml"
    path.write_text(dump_config(with_settings(config, changes)))
    return path


class KilledError(Exception):
    """Stands for the end of a process."""


class KilledWhenTheBundleBegins(Silent):
    """Ends the second of two builds when its test items have been read."""

    def start(self, stage: str, total: int | None) -> None:
        """Begin a stage."""
        begun = [result.name for result in self.finished]
        if stage == "bundle" and begun.count("evaluation") == 2:
            raise KilledError


def test_a_pipeline_is_searched_promoted_and_reported(shop: Path) -> None:
    from heliograph_tune.promote import PROMOTION_FILE, promote
    from heliograph_tune.report import write_report

    changes: dict[str, Any] = {
        "name": "pipeline", "search": "pipeline", "scheduler": None,
        "overrides": ["candidates.weights={text: 500.0}"],  # titles say nothing here
        "space": {"candidates.weights.text": {"type": "uniform", "low": 0, "high": 0.1}},
        "budget": {"trials": 10, "concurrency": 1}, "repeat": {"best": 0},
    }  # fmt: skip
    path = write(shop, **changes)
    search = load_search(path)
    folder = create_run(search)
    record = run_search(search, folder, Silent(), nobody)
    assert len(record.finished) == 10
    page = write_report(folder, folder.path / "report.html").read_text()
    assert "pipeline-1: what was found" in page
    others = with_settings(search.config, {"seed": 3, "evaluation.max_users": 50})
    against = shop / "against.yaml"  # in whose own evaluation other users are asked
    against.write_text(dump_config(others))
    with pytest.raises(InputError, match="has other events than the search"):
        promote(folder, Silent(), with_fewer_events(shop, others))
    with pytest.raises(KilledError):
        promote(folder, KilledWhenTheBundleBegins(), against)
    found = promote(folder, Silent(), against)
    assert found.read_before is not None
    assert Path(found.bundle, "manifest.json").is_file()
    assert found.difference.users == 120
    written = json.loads((folder.path / PROMOTION_FILE).read_text())
    assert promote(RunFolder(folder.path), Silent()) == found
    with pytest.raises(InputError, match="for one comparison"):
        promote(folder, Silent(), shop / "shop.yaml")
    assert written["trial"] == found.trial
    assert found.difference.difference > 0


PROMOTED: dict[str, dict[str, list[Any]]] = {
    "als": {"models.als.factors": [1, 8]},
    "item_lm": {"train.lr": [1e-6, 5e-3]},
    "text": {"models.text.half_life": [0.01, 3.0]},
    "transitions": {"models.transitions.window": [3, 5]},
    "retrieval": {"models.transitions.window": [3, 5], "candidates.depth": [30, 40]},
}
"""What is searched: the value that the searched configuration has, and another one."""

DECIDED = ("als", "item_lm")
"""Here the first value is bad, and the other one is that of the small shop."""


@pytest.mark.parametrize("searched", list(PROMOTED))
def test_the_winner_of_every_search_is_promoted(
    searched: str, built_shop: Path, tmp_path: Path
) -> None:
    from heliograph_tune.promote import promote

    shop = Path(shutil.copytree(built_shop, tmp_path / "shop"))
    values = PROMOTED[searched]
    changes: dict[str, Any] = {
        "name": searched.replace("_", "-"), "search": searched,
        "scheduler": None, "searcher": "random",
        "held_out": 3 if searched == "retrieval" else 1,  # what is promoted has seen all but one
        "overrides": [f"{path}={first}" for path, (first, _) in values.items()],
        "space": {path: {"type": "choice", "values": both} for path, both in values.items()},
        "budget": {"trials": 8, "concurrency": 1}, "repeat": {"best": 0},
    }  # fmt: skip
    search = load_search(write(shop, **changes))
    folder = create_run(search)
    run_search(search, folder, Silent(), nobody)
    found = promote(folder, Silent(), shop / "shop.yaml")
    best, served = load_config(folder.best), open_bundle(Path(found.bundle)).config
    assert best == with_settings(search.config, found.settings)
    assert (served.models, served.train, served.candidates) == (
        best.models,
        best.train,
        best.candidates,
    )
    if searched in DECIDED:
        assert found.settings == {path: other for path, (_, other) in values.items()}
        assert found.ndcg == pytest.approx(found.ndcg_before, abs=1e-6)
