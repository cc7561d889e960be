"""A scheduler knows what earlier sittings have seen; a promotion knows what may be promoted."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from heliograph.significance import PairedDifference
from heliograph.workspace import InputError, write_json
from heliograph_tune.promote import PROMOTION_FILE, Promotion, begin_reading, promote
from heliograph_tune.records import Asked, Event, Journal, Over, Record
from heliograph_tune.run_folder import create_run
from heliograph_tune.schedulers import most_epochs, scheduler_of
from heliograph_tune.search_file import Search
from heliograph_tune.worker import told_as
from searches import ended, make_search, steps
from small_shop import Silent

NOBODY: Any = None
LR = {"train.lr": {"type": "log_uniform", "low": 1e-4, "high": 1e-2}}


def item_lm_search(folder: Path, **changes: Any) -> Search:
    settings = {"space": LR, "asha": {"grace_epochs": 2}}
    return make_search(folder, search="item_lm", **(settings | changes))


def decision(search: Search, record: Record, *scores: float) -> list[str]:
    """Return what the scheduler says to each step of a new trial."""
    scheduler = scheduler_of(search, record)
    trial: Any = SimpleNamespace(trial_id="new")
    scheduler.on_trial_add(NOBODY, trial)
    return [scheduler.on_trial_result(NOBODY, trial, told_as(step)) for step in steps(*scores)]


def record_of(*curves: tuple[float, ...]) -> Record:
    events: list[Event] = []
    for number, curve in enumerate(curves):
        asked = Asked(number=number, seed=7, settings={})
        events += [asked, ended(asked, max(curve), state="stopped", steps=steps(*curve))]
    return Record(events)


def test_asha_stops_a_trial_that_is_worse_than_what_earlier_sittings_saw(tmp_path: Path) -> None:
    search = item_lm_search(tmp_path)
    seen = record_of((0.5, 0.6), (0.4, 0.5), (0.7, 0.8))
    assert decision(search, seen, 0.1, 0.2)[-1] == "STOP"
    assert decision(search, seen, 0.1, 0.9)[-1] == "CONTINUE"
    assert decision(search, Record(), 0.1, 0.2)[-1] == "CONTINUE"


def test_a_trial_counts_as_its_best_epoch(tmp_path: Path) -> None:
    seen = record_of((0.5, 0.6), (0.4, 0.5), (0.7, 0.8))
    assert decision(item_lm_search(tmp_path), seen, 0.9, 0.2)[-1] == "CONTINUE"


@pytest.mark.parametrize("epochs", [2, 6])
def test_at_its_last_epoch_nobody_is_stopped(epochs: int, tmp_path: Path) -> None:
    search = item_lm_search(tmp_path, overrides=[f"train.epochs={epochs}"])
    seen = record_of((0.8,) * epochs, (0.9,) * epochs, (0.7,) * epochs)
    worse = decision(search, seen, *([0.1] * epochs))
    assert ("STOP" in worse) == (epochs > 2)
    assert worse[-1] == "CONTINUE"


def test_fifo_stops_nobody(tmp_path: Path) -> None:
    search = item_lm_search(tmp_path, scheduler="fifo")
    assert set(decision(search, record_of((0.5, 0.6)), 0.1, 0.1)) == {"CONTINUE"}


def test_the_longest_trial_has_the_most_epochs_that_are_drawn(tmp_path: Path) -> None:
    epochs = {"type": "integer", "low": 5, "high": 90}
    assert most_epochs(item_lm_search(tmp_path)) == 60
    assert most_epochs(item_lm_search(tmp_path, space={"train.epochs": epochs})) == 90
    chosen = {"type": "choice", "values": [5, 70, 9]}
    assert most_epochs(item_lm_search(tmp_path, space={"train.epochs": chosen})) == 70


def test_a_search_that_has_not_ended_is_not_promoted(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="has not ended; go on with its search and --resume"):
        promote(create_run(item_lm_search(tmp_path)), Silent())


def test_the_configuration_as_it_stands_is_nothing_to_promote(tmp_path: Path) -> None:
    folder = create_run(item_lm_search(tmp_path, repeat={"best": 0}))
    first, second = Asked(number=0, seed=7, settings={}), Asked(number=1, seed=7, settings={})
    events: list[Event] = [first, ended(first, 0.5), second, ended(second, 0.4)]
    with Journal(folder.journal) as journal:
        for event in [*events, Over(phase="search"), Over(phase="repeat")]:
            journal.append(event)
    with pytest.raises(InputError, match="better than the configuration as it stands"):
        promote(folder, Silent())


def test_that_test_items_are_read_is_written_down_before(tmp_path: Path) -> None:
    folder = create_run(item_lm_search(tmp_path))
    against, other = tmp_path / "shop.yaml", tmp_path / "other.yaml"
    assert begin_reading(folder, against) is None
    began = begin_reading(folder, against)  # the first one was killed
    assert began is not None
    assert began == begin_reading(folder, against)
    with pytest.raises(InputError, match=r"for one comparison.*with .*shop.yaml, not with"):
        begin_reading(folder, other)


def test_a_promoted_run_is_not_compared_with_another_configuration(tmp_path: Path) -> None:
    folder = create_run(item_lm_search(tmp_path))
    found = Promotion(
        trial=3,
        settings={},
        validation=0.2,
        ndcg=0.12,
        ndcg_before=0.1,
        against=str(tmp_path / "shop.yaml"),
        difference=PairedDifference(100, 0.02, 0.01, 0.03, 0.04, 0.04),
        config=str(folder.best),
        bundle="bundle",
    )
    write_json(folder.path / PROMOTION_FILE, asdict(found))
    assert promote(folder, Silent()) == found
    assert promote(folder, Silent(), tmp_path / "shop.yaml") == found
    with pytest.raises(InputError, match=r"with .*shop.yaml, not with .*other.yaml"):
        promote(folder, Silent(), tmp_path / "other.yaml")
