"""Who is in which arm, what stands on the disk of it, and what a replica makes of that."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from scipy import stats
from typer import BadParameter

from heliograph.deployments import (
    Deployment,
    NameTaken,
    experiment_runs,
    newest_deployment,
    require_same_experiment,
    write_deployment,
)
from heliograph.event_store.exposures import Exposure, keep_exposures
from heliograph.experiment_cli import seconds
from heliograph.experiments import EXPERIMENT_NAME, Experiment, place
from heliograph.pseudonyms import pseudonym
from heliograph.workspace import InputError
from heliograph_serve.api import Recommendations
from heliograph_serve.experiment_api import ExperimentIngress
from heliograph_serve.exposure_log import ExposureLog
from heliograph_serve.request_log import line_of
from heliograph_serve.request_record import CURRENT, RequestRecord, note_answer, note_experiment
from heliograph_serve.rollout import ExperimentRuns, require_no_harm
from heliograph_serve.shelf import Arms
from heliograph_serve.tally import Tally
from stores import exposure, opened

GRAPH = "this-graph"
USERS = [f"user-{number}" for number in range(10_000)]
SHOWN = Experiment("larger-model", "shop-2", 0.3)


def treated(experiment: Experiment) -> list[bool]:
    return [experiment.assign(user).arm == "treatment" for user in USERS]


@pytest.mark.parametrize("share", [0.01, 0.3, 0.5, 0.99])
def test_the_share_of_users_is_what_was_asked_for(share: float) -> None:
    for name in ("a", "b", "larger-model"):
        count = sum(treated(Experiment(name, "shop-2", share)))
        assert stats.binomtest(count, len(USERS), share).pvalue > 0.001


def test_experiments_divide_users_independently() -> None:
    names = ("a", "b", "a-2", "larger-model")
    arms = {name: treated(Experiment(name, "shop-2", 0.5)) for name in names}
    for one in names:
        for other in names:
            if one < other:
                pairs = list(zip(arms[one], arms[other], strict=True))
                table = [[pairs.count((a, b)) for b in (True, False)] for a in (True, False)]
                assert stats.chi2_contingency(table).pvalue > 0.001


def test_users_with_a_pseudonym_are_divided_by_it() -> None:
    names = [pseudonym(user, b"secret") for user in USERS]
    count = sum(SHOWN.assign(name).arm == "treatment" for name in names)
    assert stats.binomtest(count, len(USERS), 0.3).pvalue > 0.001


def test_an_arm_is_the_same_for_ever() -> None:
    """A change of these figures would change arms in the middle of an experiment."""
    assert place("larger-model", "user-1") == 0.6544440056969724
    assert place("larger-model", "Ünï;-- 日本") == 0.7450154765601004


@pytest.mark.parametrize("user", ["", "7", "a'; DROP TABLE", "日本 \u202e", "x" * 512])
def test_anybody_has_an_arm_and_its_probability(user: str) -> None:
    found = SHOWN.assign(user)
    assert found == SHOWN.assign(user)
    assert found.propensity == (0.3 if found.arm == "treatment" else 0.7)
    assert 0 <= place("x", user) < 1


def test_a_larger_share_moves_nobody_out_of_the_treatment() -> None:
    few, many = treated(Experiment("x", "b", 0.1)), treated(Experiment("x", "b", 0.6))
    assert all(later for earlier, later in zip(few, many, strict=True) if earlier)


@pytest.mark.parametrize("name", ["", "A", "a b", "-a", "a\n", "../a", "a" * 65, "a'; DROP", "ä"])
def test_a_name_is_plain(name: str) -> None:
    assert not re.fullmatch(EXPERIMENT_NAME.removesuffix("$"), name)


def deployed(
    generation: int, bundle: str, experiment: Experiment | None, graph: str = GRAPH
) -> Deployment:
    at = f"2026-01-0{generation}T00:00:00+00:00"
    return Deployment(generation, graph, bundle, None, at, experiment)


def test_a_run_lasts_until_its_graph_decides_otherwise(tmp_path: Path) -> None:
    other = Experiment("other", "shop-3", 0.5)
    written = [
        deployed(1, "shop-1", None),
        deployed(2, "shop-1", SHOWN),
        deployed(3, "shop-1", other, graph="a second graph"),
        deployed(4, "shop-2", None),
    ]
    for one in written:
        write_deployment(tmp_path, one)
    assert newest_deployment(tmp_path, GRAPH) == written[3]
    assert newest_deployment(tmp_path, "a second graph") == written[2]
    first, second = experiment_runs(tmp_path)
    assert (first.experiment, first.control, first.ended) == (SHOWN, "shop-1", written[3].at)
    assert (second.experiment, second.ended) == (other, None)


def test_a_deployment_of_a_version_without_experiments_is_read(tmp_path: Path) -> None:
    (tmp_path / "deployments").mkdir()
    fields = '{"generation": 1, "graph": "g", "bundle": "shop-1", "previous": null, "at": "now"}'
    (tmp_path / "deployments" / "00000001.json").write_text(fields)
    assert newest_deployment(tmp_path) == Deployment(1, "g", "shop-1", None, "now")


@pytest.mark.parametrize("content", ["[]", "{}", '{"experiment": 3}', '{"experiment": {"a": 1}}'])
def test_a_file_that_is_no_deployment_is_named(tmp_path: Path, content: str) -> None:
    (tmp_path / "deployments").mkdir()
    (tmp_path / "deployments" / "00000001.json").write_text(content)
    with pytest.raises(InputError, match="00000001.json is not a deployment"):
        newest_deployment(tmp_path)


def test_a_name_stands_for_one_experiment(tmp_path: Path) -> None:
    write_deployment(tmp_path, deployed(1, "shop-1", SHOWN))
    require_same_experiment(tmp_path, SHOWN, "shop-1")
    require_same_experiment(tmp_path, Experiment("another", "shop-3", 0.1), "shop-1")
    for changed, control in (
        (Experiment(SHOWN.name, "shop-2", 0.5), "shop-1"),
        (Experiment(SHOWN.name, "shop-3", 0.3), "shop-1"),
        (SHOWN, "shop-0"),
    ):
        with pytest.raises(NameTaken, match="another name"):
            require_same_experiment(tmp_path, changed, control)


def test_only_the_end_of_an_experiment_ends_it() -> None:
    require_no_harm(SHOWN, "stop experiment", "shop-2")
    require_no_harm(SHOWN, "deploy", "shop-2")
    for action, bundle in (
        ("deploy", "shop-3"),
        ("rollback", "shop-2"),
        ("start experiment", "shop-2"),
    ):
        with pytest.raises(ExperimentRuns, match="larger-model"):
            require_no_harm(SHOWN, action, bundle)  # type: ignore[arg-type]


def test_exposures_wait_for_a_store_that_is_down_and_are_lost_only_for_want_of_room(
    tmp_path: Path,
) -> None:
    async def scenario() -> None:
        async with opened(f"sqlite:///{tmp_path}/later/events.sqlite") as store:
            log = ExposureLog(partial(keep_exposures, store), 0.001, 0.01, most_waiting=60)
            for number in range(25):
                log.note(exposure(number))  # of two items
            await asyncio.sleep(0.05)
            assert (log.kept, log.waiting, log.lost) == (0, 20, 5)
            (tmp_path / "later").mkdir()
            while log.waiting:
                await asyncio.sleep(0.001)
            log.note(exposure(99))
            while log.waiting:
                await asyncio.sleep(0.001)
            assert (log.kept, log.erased, log.lost) == (21, 0, 5)

    asyncio.run(scenario())


@pytest.mark.parametrize("key", [None, b"a secret of the shop"])
def test_what_is_kept_of_an_answer_names_its_user_as_the_store_does(key: bytes | None) -> None:
    written: list[Exposure] = []

    async def keep(batch: Sequence[Exposure]) -> int:
        written.extend(batch)
        return len(batch)

    async def scenario() -> None:
        ingress: Any = ExperimentIngress()
        ingress.pseudonym_key = key
        ingress.shelf = SimpleNamespace(current="control")
        ingress.exposures = ExposureLog(keep, gather_s=0)
        token = CURRENT.set(RequestRecord("POST /v1/recommendations", "r" * 500))
        for user in USERS[:50]:
            answer = Recommendations(items=[], tier="popular", bundle="b", timings_ms={})
            who = ingress.participant(Arms(SHOWN, "treatment"), user)
            assert who.serving == who.assignment.arm == SHOWN.assign(pseudonym(user, key)).arm
            ingress.expose(answer, who)
            assert answer.experiment is not None
            assert answer.experiment.propensity == (0.3 if who.serving == "treatment" else 0.7)
        CURRENT.reset(token)
        while ingress.exposures.waiting:
            await asyncio.sleep(0)

    asyncio.run(scenario())
    assert [one.user_id for one in written] == [pseudonym(user, key) for user in USERS[:50]]
    assert {one.arm for one in written} == {"control", "treatment"}
    assert {len(one.request_id) for one in written} == {128}
    assert len({one.exposure_id for one in written}) == 50


def test_a_request_in_an_experiment_is_logged_and_counted_with_its_arm() -> None:
    record = RequestRecord("POST /v1/recommendations", "r1")
    note_experiment("nobody reads this", "control")
    token = CURRENT.set(record)
    note_experiment("larger-model", "treatment")
    note_answer("popular", {}, None)
    CURRENT.reset(token)
    assert '"experiment":"larger-model","arm":"treatment"' in line_of(record)
    assert "arm" not in line_of(RequestRecord("GET /v1/status", "r2"))
    assert Tally([record, record]).arms == {("larger-model", "treatment", "popular"): 2}


@pytest.mark.parametrize(("text", "expected"), [("30m", 1800), ("1.5h", 5400), ("7d", 604_800)])
def test_a_time_is_read(text: str, expected: float) -> None:
    assert seconds(text) == expected


@pytest.mark.parametrize("text", ["", "7", "d", "-1d", "0d", "7 d", "7w", "1e9d"])
def test_what_is_no_time_is_told(text: str) -> None:
    with pytest.raises(BadParameter, match="is no time"):
        seconds(text)
