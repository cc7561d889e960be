"""A search that was killed and told the same again proposes the same, and learns."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from heliograph_tune.distributions import Choice, Uniform
from heliograph_tune.importance import importance_of
from heliograph_tune.memory import FORGETS_AT, GOOD, REMEMBERED, remembered
from heliograph_tune.proposer import Proposer
from heliograph_tune.records import Asked, Event, Finished, Record
from heliograph_tune.search_file import Search
from heliograph_tune.space import Space
from heliograph_tune.standings import standings
from heliograph_tune.trials_to_run import BASELINE, repeat_trials, search_trials, to_repeat
from searches import ended, make_search, steps

TRIALS = 30


def score_of(asked: Asked) -> float:
    """Return a score that is best at 16 factors and a low learning rate."""
    factors, lr = asked.settings.get("models.als.factors", 64), asked.settings.get("train.lr", 0)
    return float(1 - abs(int(factors) - 16) / 64 - lr)


def run(search: Search, record: Record, most: int = TRIALS) -> Record:
    """Run trials one after the other, as a sitting does, until so many have ended."""
    proposer = Proposer(search.settings, search.space)
    proposer.learn_all(record)

    def write(event: Event) -> None:
        record.note(event)
        if isinstance(event, Finished):
            proposer.learn(event)

    for asked in search_trials(search, record, proposer, write):
        if len(record.finished) >= most:
            return record  # killed: this one was handed out and never ended
        write(ended(asked, score_of(asked), **second_objective(search, asked)))
    return record


def second_objective(search: Search, asked: Asked) -> dict[str, Any]:
    if len(search.settings.objectives) == 1:
        return {}
    return {"metrics": {"ndcg@10": score_of(asked), "seconds": 1.0 + asked.number % 5}}


@pytest.mark.parametrize("searcher", ["random", "tpe", "nsga2"])
def test_an_interrupted_search_proposes_what_an_unbroken_one_does(
    searcher: str, tmp_path: Path
) -> None:
    objectives = ["ndcg@10", "seconds"] if searcher == "nsga2" else ["ndcg@10"]
    search = make_search(
        tmp_path, searcher=searcher, budget={"trials": TRIALS}, objectives=objectives
    )
    unbroken = run(search, Record())
    broken = Record()
    for most in (3, 14, 25, TRIALS):
        broken = run(search, Record([*broken.asked.values(), *broken.finished.values()]), most)
    assert len(unbroken.finished) == TRIALS
    assert broken.asked == unbroken.asked
    assert broken.finished == unbroken.finished


def test_other_seeds_propose_other_trials(tmp_path: Path) -> None:
    first, second = (
        run(make_search(tmp_path, seed=seed), Record()).asked[1].settings for seed in (1, 2)
    )
    assert first != second


def test_tpe_learns_where_the_best_values_are(tmp_path: Path) -> None:
    search = make_search(tmp_path, budget={"trials": 40})
    record = run(search, Record(), 40)
    late = [score_of(record.asked[number]) for number in range(25, 40)]
    early = [score_of(record.asked[number]) for number in range(1, 11)]
    assert sum(late) / len(late) > sum(early) / len(early)
    shares = importance_of(search, record)
    assert max(shares, key=lambda path: shares[path]) == "models.als.factors"


def test_the_first_trial_is_the_configuration_as_it_stands(tmp_path: Path) -> None:
    record = run(make_search(tmp_path), Record(), 2)
    assert record.asked[BASELINE].settings == {}
    assert record.asked[BASELINE].drawn == {
        "models.als.factors": 64,
        "models.als.regularization": 0.05,
    }


def test_a_configuration_that_has_been_run_is_known_and_not_run_again(tmp_path: Path) -> None:
    space = {"models.als.factors": {"type": "choice", "values": [16, 32, 64]}}
    search = make_search(tmp_path, space=space)
    record = run(search, Record())
    states = [record.finished[number].state for number in sorted(record.finished)]
    assert states.count("done") == 3  # 64 is the configuration as it stands
    assert states.count("known") == 9
    for number, end in record.finished.items():
        assert end.metrics["ndcg@10"] == score_of(record.asked[number])


SPACE = Space({"train.lr": Uniform(type="uniform", low=0, high=1)})

SHAPES = {  # of nine pairs three are no shape that the ranking engine runs
    "models.item_lm.hidden_size": {"type": "choice", "values": [64, 72, 128]},
    "models.item_lm.heads": {"type": "choice", "values": [1, 2, 4]},
    "train.lr": {"type": "log_uniform", "low": 1e-4, "high": 1e-2},
}


@pytest.mark.parametrize("searcher", ["random", "tpe", "nsga2"])
def test_settings_that_do_not_go_together_are_drawn_again_and_cost_no_trial(
    searcher: str, tmp_path: Path
) -> None:
    changes = {"search": "item_lm", "space": SHAPES, "scheduler": "fifo", "searcher": searcher}
    search = make_search(tmp_path, budget={"trials": TRIALS}, **changes)
    unbroken = run(search, Record())
    assert len(unbroken.finished) == TRIALS
    assert {end.state for end in unbroken.finished.values()} <= {"done", "known"}
    assert any(asked.rejected for asked in unbroken.asked.values())
    broken = Record()
    for most in (3, 14, 25, TRIALS):
        broken = run(search, Record([*broken.asked.values(), *broken.finished.values()]), most)
    assert broken.asked == unbroken.asked


def test_tpe_learns_which_settings_do_not_go_together(tmp_path: Path) -> None:
    search = make_search(tmp_path, search="item_lm", space=SHAPES, budget={"trials": TRIALS})
    record = run(search, Record())
    late = [len(record.asked[number].rejected) for number in range(20, TRIALS)]
    assert sum(late) < 10  # less than one a trial


def test_settings_that_hardly_ever_go_together_are_a_failed_trial(tmp_path: Path) -> None:
    some = make_search(tmp_path, search="item_lm", space=SHAPES, budget={"trials": 5})
    never = Space({"models.item_lm.heads": Choice(type="choice", values=(3, 5, 7))})
    search = replace(some, space=never)
    record = Record()
    for asked in search_trials(search, record, Proposer(search.settings, never), record.note):
        record.note(ended(asked, 0.5))
    states = [end.state for end in record.finished.values()]
    assert states == ["done", *["failed"] * 4]
    assert "runs heads of" in str(record.finished[1].error)


def test_what_has_failed_is_not_run_again(tmp_path: Path) -> None:
    space = {"models.als.factors": {"type": "choice", "values": [16, 32]}}
    search = make_search(tmp_path, space=space, budget={"trials": 12}, searcher="random")
    proposer, record = Proposer(search.settings, search.space), Record()
    ran = 0
    for asked in search_trials(search, record, proposer, record.note):
        ran += 1
        record.note(ended(asked, 0, state="failed", metrics={}, error="ValueError: no"))
    assert ran == 3
    assert len(record.finished) == 12
    assert "as trial 1 did: ValueError: no" in {end.error for end in record.finished.values()}


def test_a_space_that_is_used_up_ends_a_search_by_time(tmp_path: Path) -> None:
    space = {"models.als.factors": {"type": "choice", "values": [16, 32]}}
    search = make_search(tmp_path, space=space, budget={"minutes": 1}, searcher="random")
    record = run(search, Record(), 10_000)
    states = [end.state for end in record.finished.values()]
    assert states.count("done") == 3


def test_trials_of_an_earlier_run_are_known_from_the_start(tmp_path: Path) -> None:
    search = make_search(tmp_path)
    earlier = run(search, Record())
    proposer = Proposer(search.settings, search.space)
    assert search.config.models.als.factors == 64
    assert proposer.warm_up(earlier, search.config) == len(earlier.finished)
    narrow = make_search(
        tmp_path, space={"models.als.factors": {"type": "integer", "low": 60, "high": 64}}
    )
    inside = [a for a in earlier.asked.values() if a.settings.get("models.als.factors", 64) >= 60]
    assert Proposer(narrow.settings, narrow.space).warm_up(earlier, search.config) == len(inside)


def test_what_an_earlier_run_did_not_draw_it_had_from_its_configuration(tmp_path: Path) -> None:
    halved = "models.popularity.half_life_days"
    window = {"models.transitions.window": {"type": "integer", "low": 2, "high": 40}}
    first = make_search(
        tmp_path, search="retrieval", space=window, overrides=[f"{halved}=30"], budget={"trials": 4}
    )
    more = window | {halved: {"type": "choice", "values": [None, 7, 30]}}
    search = make_search(tmp_path, search="retrieval", space=more)
    proposer = Proposer(search.settings, search.space)
    assert proposer.warm_up(run(first, Record()), first.config) == 4
    assert {trial.params[halved] for trial in proposer.study.trials} == {2}  # the third value


def test_stopped_trials_count_behind_those_that_ran_on(tmp_path: Path) -> None:
    search = make_search(tmp_path)
    proposer = Proposer(search.settings, search.space)
    asked = proposer.propose(1, 7)
    proposer.learn(ended(asked, 0.2, state="stopped", steps=steps(0.1, 0.2)))
    (trial,) = proposer.study.trials
    assert trial.state.name == "PRUNED"
    assert trial.intermediate_values == {2: 0.2}


def test_stopped_trials_of_an_earlier_run_count_as_stopped(tmp_path: Path) -> None:
    search = make_search(tmp_path)
    proposer, earlier = Proposer(search.settings, search.space), Record()
    for number, state in ((1, "done"), (2, "stopped"), (3, "cut"), (4, "failed")):
        asked = Proposer(search.settings, search.space).propose(number, 7)
        earlier.note(asked)
        metrics = {} if state == "failed" else {"ndcg@10": 0.2}
        end = ended(asked, 0.2, state=state, metrics=metrics, steps=steps(0.1, 0.2))
        earlier.note(end)
    assert proposer.warm_up(earlier, search.config) == 3
    trials = proposer.study.trials
    assert [trial.state.name for trial in trials] == ["COMPLETE", "PRUNED", "PRUNED"]
    assert [trial.intermediate_values for trial in trials] == [{}, {2: 0.2}, {2: 0.2}]


def test_of_many_trials_the_best_the_latest_and_those_at_work_are_remembered(
    tmp_path: Path,
) -> None:
    proposer = Proposer(make_search(tmp_path, searcher="random").settings, SPACE)
    for number in range(FORGETS_AT):
        asked = proposer.propose(number, 7)
        if number == 3:
            continue  # at work
        proposer.learn(ended(asked, 1 / (1 + abs(number - 50))))  # 50 is the best one
    trials = proposer.study.trials
    kept = [trial.number for trial in remembered(trials, proposer.study.directions)]
    good = range(50 - GOOD // 2, 51 + GOOD // 2)
    latest = range(FORGETS_AT - REMEMBERED + GOOD, FORGETS_AT)
    assert kept == [3, *good, *latest]


def test_stopped_trials_are_remembered_as_good_where_few_were_not_stopped(tmp_path: Path) -> None:
    proposer = Proposer(make_search(tmp_path, searcher="random").settings, SPACE)
    for number in range(FORGETS_AT):
        curve = [number / FORGETS_AT] * (2 if number == 5 else 1)
        end = ended(proposer.propose(number, 7), curve[0], state="stopped", steps=steps(*curve))
        proposer.learn(end)
    kept = [trial.number for trial in remembered(proposer.study.trials, proposer.study.directions)]
    assert kept[0] == 5  # it went furthest
    assert len(kept) == REMEMBERED


@pytest.mark.parametrize("objectives", [["ndcg@10"], ["ndcg@10", "seconds"]])
def test_who_is_told_of_many_trials_at_once_proposes_what_who_saw_them_end_does(
    objectives: list[str], tmp_path: Path
) -> None:
    many, changes = FORGETS_AT + 20, {"objectives": objectives}
    budget = {"trials": many}
    seen = run(make_search(tmp_path, searcher="random", budget=budget, **changes), Record(), many)
    search = make_search(tmp_path, budget={"trials": many + 1}, **changes)
    told, saw = (Proposer(search.settings, search.space) for _ in range(2))
    told.learn_all(seen)
    for number, asked in sorted(seen.asked.items()):
        saw.note(asked)
        saw.learn(seen.finished[number])
    assert told.propose(many, 7) == saw.propose(many, 7)
    assert len(told.study.trials) < FORGETS_AT


def test_luck_does_not_win(tmp_path: Path) -> None:
    search = make_search(tmp_path, budget={"trials": 6}, repeat={"best": 2, "seeds": 3})
    record = run(search, Record())
    lucky, second = to_repeat(search, record)[:2]
    for asked in repeat_trials(search, record, record.note):
        score = 0.9 if asked.repeats == second else 0.1
        record.note(ended(asked, score))
    repeats = record.of("repeat")
    assert len(repeats) == 9  # two configurations and the one as it stands, three seeds each
    assert {asked.seed for asked in repeats} == {8, 9, 10}
    ranked = standings(search, record)
    assert ranked[0].number == second
    assert ranked[0].mean == pytest.approx(0.9)
    assert lucky in [standing.number for standing in ranked]
    assert not list(repeat_trials(search, record, record.note))
