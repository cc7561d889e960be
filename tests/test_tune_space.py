"""A search file is refused before anything starts, with what would be right."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import optuna
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from heliograph.config_file import ConfigError
from heliograph_tune.distributions import Integer, LogUniform, Uniform
from heliograph_tune.proposer import Proposer
from heliograph_tune.records import Record
from heliograph_tune.search_file import load_search, parse_search
from heliograph_tune.setting import find_setting, value_at, with_settings
from heliograph_tune.space import Space
from heliograph_tune.trials_to_run import search_trials
from searches import ALS_SPACE, make_search, search_content, write_config

ITEM_LM = "item_lm"


def refused(folder: Path, **changes: Any) -> str:
    """Return why a search is refused."""
    with pytest.raises(ConfigError) as refusal:
        make_search(folder, **changes)
    return str(refusal.value)


def space_of(path: str, **distribution: Any) -> dict[str, Any]:
    return {path: distribution}


def uniform(low: float, high: float) -> dict[str, Any]:
    return {"type": "uniform", "low": low, "high": high}


def test_a_search_of_what_exists_is_taken(tmp_path: Path) -> None:
    search = make_search(tmp_path)
    assert list(search.space.parameters) == list(ALS_SPACE)
    assert search.settings.objectives == ("ndcg@10",)
    assert not search.settings.uses_asha


def test_a_path_that_does_not_exist_names_the_nearest_one(tmp_path: Path) -> None:
    why = refused(tmp_path, space=space_of("models.als.factor", type="integer", low=1, high=2))
    assert "did you mean models.als.factors?" in why


def test_an_unknown_key_names_the_nearest_one(tmp_path: Path) -> None:
    assert "did you mean searcher?" in refused(tmp_path, sercher="tpe")


def test_a_bound_outside_the_fields_own_is_refused_with_what_is_allowed(tmp_path: Path) -> None:
    why = refused(tmp_path, space=space_of("models.als.regularization", **uniform(-1, 1)))
    assert "models.als.regularization" in why
    assert "greater than or equal to 0" in why
    high = refused(tmp_path, search=ITEM_LM, space=space_of("train.dropout", **uniform(0, 1)))
    assert "less than 1" in high


@pytest.mark.parametrize(
    ("path", "distribution", "told"),
    [
        ("models.als.factors", uniform(4, 64), "takes no fractions; use type: integer"),
        ("train.precision", uniform(0, 1), "takes no fractions; use type: choice"),
        ("train.precision", {"type": "integer", "low": 0, "high": 1}, "is no number"),
        ("train.precision", {"type": "choice", "values": ["float16"]}, "'auto', 'float32'"),
        ("models.als.factors", {"type": "integer", "low": 9, "high": 3}, "low is 9 and high is 3"),
        ("models.als.factors", {"type": "integer", "low": 0, "high": 3, "log": True}, "log: true"),
        ("train.lr", {"type": "choice", "values": []}, "at least 1 item"),
        ("train.lr", {"type": "choice", "values": [0.1, 0.1]}, "twice"),
        ("train.lr", {"type": "log_uniform", "low": 0, "high": 1}, "greater than 0"),
        ("ranking.cohorts", {"type": "choice", "values": [[1, 9, 5]]}, "must ascend from 1"),
        ("models.item_lm", {"type": "choice", "values": [{"depth": 3}]}, "no such setting"),
        ("models.item_lm", {"type": "choice", "values": [7]}, "is a section"),
        ("candidates.weights.alz", uniform(0, 1), "popularity, transitions, als, text"),
    ],
)
def test_what_a_setting_cannot_be_is_refused(
    path: str, distribution: dict[str, Any], told: str, tmp_path: Path
) -> None:
    searched = {"models.als": "als", "models.item_lm": ITEM_LM, "train": ITEM_LM}
    search = next((s for start, s in searched.items() if path.startswith(start)), "pipeline")
    assert told in refused(tmp_path, search=search, space={path: distribution})


def test_a_setting_that_the_searched_part_does_not_read_is_refused(tmp_path: Path) -> None:
    why = refused(tmp_path, space=space_of("train.lr", type="log_uniform", low=1e-4, high=1e-2))
    assert "train.lr changes nothing here: this search reads models.als" in why


@pytest.mark.parametrize(
    ("path", "values"),
    [
        ("train.workers", [1, 2]),
        ("train.device", ["cpu", "auto"]),
        ("train.validation_users", [500, 5000]),
    ],
)
def test_what_changes_nothing_or_the_yardstick_is_refused(
    path: str, values: list[object], tmp_path: Path
) -> None:
    space = {path: {"type": "choice", "values": values}}
    with pytest.raises(ConfigError, match=rf"{path} cannot be searched: .*out of the space"):
        make_search(tmp_path, search="item_lm", space=space)


def test_a_fraction_is_no_whole_number_that_could_have_been_drawn(tmp_path: Path) -> None:
    whole = {"models.als.confidence": {"type": "integer", "low": 1, "high": 40}}
    for confidence, drawn in ((3.7, None), (4.0, {"models.als.confidence": 4.0})):
        overrides = [f"models.als.confidence={confidence}"]
        search = make_search(tmp_path, space=whole, overrides=overrides)
        assert search.space.drawn_for(search.space.settings_of(search.config)) == drawn
        record, proposer = Record(), Proposer(search.settings, search.space)
        assert next(search_trials(search, record, proposer, record.note)).drawn == drawn


def test_how_an_index_is_searched_is_a_setting_of_the_graph_where_its_type_reads_it(
    tmp_path: Path,
) -> None:
    space = space_of("index.nprobe", type="integer", low=1, high=64)
    why = refused(tmp_path, search="serving", space=space)
    assert "index.nprobe makes no difference to an index of type flat" in why
    assert "overrides: [index.type=ivf]" in why
    search = make_search(tmp_path, search="serving", space=space, overrides=["index.type=ivf"])
    assert with_settings(search.config, {"index.nprobe": 7}).index.nprobe == 7
    space = space_of("index.lists", type="integer", low=64, high=99)
    assert "index.lists changes nothing here" in refused(tmp_path, search="serving", space=space)


def test_an_empty_space_a_zero_budget_and_an_endless_one_are_refused(tmp_path: Path) -> None:
    assert "the space is empty" in refused(tmp_path, space={})
    assert "greater than or equal to 1" in refused(tmp_path, budget={"trials": 0})
    assert "greater than 0" in refused(tmp_path, budget={"minutes": 0})
    assert "would never end" in refused(tmp_path, budget={})


def test_the_running_graph_is_judged_by_validation_items_alone(tmp_path: Path) -> None:
    space = {"candidates.depth": {"type": "integer", "low": 10, "high": 40}}
    with pytest.raises(ConfigError, match="held_out: 3, but the running graph"):
        make_search(tmp_path, search="serving", space=space, held_out=3)
    with pytest.raises(ConfigError, match="held_out"):
        make_search(tmp_path, held_out=0)


def test_objectives_are_names_of_the_evaluation(tmp_path: Path) -> None:
    assert "recall" in refused(tmp_path, objectives=["accuracy@10"])
    assert "cut-off" in refused(tmp_path, objectives=["ndcg@0"])
    assert "none twice" in refused(tmp_path, objectives=[])
    taken = make_search(tmp_path, objectives=["recall@20", "gini@10", "seconds"])
    assert len(taken.settings.objectives) == 3


def test_asha_needs_epochs_and_the_metric_that_is_known_after_each(tmp_path: Path) -> None:
    assert "has none; use fifo" in refused(tmp_path, scheduler="asha")
    space = space_of("train.lr", type="log_uniform", low=1e-4, high=1e-2)
    why = refused(tmp_path, search=ITEM_LM, space=space, objectives=["recall@10"])
    assert "use scheduler: fifo" in why
    assert make_search(tmp_path, search=ITEM_LM, space=space).settings.uses_asha


def test_a_section_is_chosen_whole_and_its_mappings_change_what_they_name(tmp_path: Path) -> None:
    sizes = [{"hidden_size": 64, "heads": 2}, {"hidden_size": 128, "heads": 4}]
    search = make_search(
        tmp_path, search=ITEM_LM, space=space_of("models.item_lm", type="choice", values=sizes)
    )
    changed = with_settings(search.config, {"models.item_lm": sizes[1]}).models.item_lm
    assert (changed.hidden_size, changed.heads) == (128, 4)
    assert changed.layers == search.config.models.item_lm.layers
    assert search.space.settings_of(search.config) == {"models.item_lm": sizes[0]}


def test_a_section_and_a_setting_of_it_cannot_both_be_drawn(tmp_path: Path) -> None:
    space = space_of("models.item_lm", type="choice", values=[{"layers": 1}])
    space |= space_of("models.item_lm.layers", type="integer", low=1, high=3)
    assert "keep one of them" in refused(tmp_path, search=ITEM_LM, space=space)


def test_the_weights_of_sources_are_settings_below_a_mapping(tmp_path: Path) -> None:
    path = "candidates.weights.als"
    search = make_search(tmp_path, search="pipeline", space=space_of(path, **uniform(0, 2)))
    assert value_at(search.config, path) is None
    assert with_settings(search.config, {path: 0.5}).candidates.weights == {"als": 0.5}


CONDITIONAL: dict[str, Any] = {
    "train.negatives": {
        "type": "integer", "low": 8, "high": 64, "where": {"train.precision": ["float32"]},
    },
    "train.precision": {"type": "choice", "values": ["float32", "bfloat16"]},
}  # fmt: skip


def test_a_conditional_setting_is_drawn_only_where_its_condition_holds(tmp_path: Path) -> None:
    space = make_search(tmp_path, search=ITEM_LM, space=CONDITIONAL).space
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=1))
    drawn = [space.draw(study.ask()) for _ in range(30)]
    assert {settings["train.precision"] for settings in drawn} == {"float32", "bfloat16"}
    for settings in drawn:
        assert ("train.negatives" in settings) == (settings["train.precision"] == "float32")


@pytest.mark.parametrize(
    ("where", "told"),
    [
        ({"train.lr": [1]}, "which is not searched"),
        ({"train.precision": ["auto"]}, "which is never drawn"),
    ],
)
def test_a_condition_that_cannot_hold_is_refused(
    where: dict[str, Any], told: str, tmp_path: Path
) -> None:
    space = CONDITIONAL | {"train.negatives": CONDITIONAL["train.negatives"] | {"where": where}}
    assert told in refused(tmp_path, search=ITEM_LM, space=space)


def test_a_condition_on_any_number_of_a_range_is_refused(tmp_path: Path) -> None:
    lr = {"type": "log_uniform", "low": 1e-4, "high": 1e-2}
    dropout = uniform(0, 0.5) | {"where": {"train.lr": [1e-3]}}
    why = refused(tmp_path, search=ITEM_LM, space={"train.lr": lr, "train.dropout": dropout})
    assert "train.dropout: where names train.lr, which is any number from 0.0001 to 0.01" in why
    assert "practically never" in why
    whole = {"type": "integer", "low": 1, "high": 3}
    layers = {"models.item_lm.layers": whole, "train.dropout": uniform(0, 0.5)}
    layers["train.dropout"] |= {"where": {"models.item_lm.layers": [1, 2]}}
    assert make_search(tmp_path, search=ITEM_LM, space=layers).space.parameters


INFINITE = float("inf")


@pytest.mark.parametrize(
    ("low", "high"), [(0, INFINITE), (-INFINITE, 1), (0, float("nan")), (-1.7e308, 1.7e308)]
)
def test_bounds_and_the_distance_between_them_are_finite(
    low: float, high: float, tmp_path: Path
) -> None:
    space = space_of("models.transitions.popularity_exponent", **uniform(low, high))
    assert "finite" in refused(tmp_path, search="transitions", space=space)


def test_what_would_never_end_is_refused(tmp_path: Path) -> None:
    assert "finite" in refused(tmp_path, budget={"minutes": INFINITE})
    assert "finite" in refused(tmp_path, goal={"ndcg@10": INFINITE})
    serving = {"search": "serving", "space": {"candidates.count": uniform(1, 9)}}
    assert "finite" in refused(tmp_path, **serving, load={"seconds": INFINITE})


def test_a_space_whose_draws_are_mostly_invalid_is_refused_with_the_reason(tmp_path: Path) -> None:
    space = space_of("models.item_lm.hidden_size", type="integer", low=65, high=95)
    why = refused(tmp_path, search=ITEM_LM, space=space)
    assert "64 of 64 draws from this space are no valid configuration" in why
    assert "over 2 heads gives heads of" in why
    assert "choice" in why
    replicas = space_of("serve.rank.max_replicas", type="integer", low=1, high=2)
    few = ["serve.rank.max_replicas=3", "serve.rank.min_replicas=3"]
    why = refused(tmp_path, search="serving", space=replicas, overrides=few)
    assert "is less than min_replicas 3" in why


def test_a_space_of_which_some_draws_are_invalid_is_taken(tmp_path: Path) -> None:
    space = space_of("models.item_lm.hidden_size", type="choice", values=[64, 128])
    space |= space_of("models.item_lm.heads", type="choice", values=[1, 2, 4])  # not 64 over 4
    assert make_search(tmp_path, search=ITEM_LM, space=space).space.parameters


def test_conditions_in_a_circle_are_refused(tmp_path: Path) -> None:
    circle = {"type": "choice", "values": ["float32"], "where": {"train.negatives": [8]}}
    space = CONDITIONAL | {"train.precision": circle}
    assert "circle" in refused(tmp_path, search=ITEM_LM, space=space)


@given(st.floats(0.001, 1), st.integers(4, 64))
def test_what_was_drawn_is_found_again_in_the_settings(value: float, factors: int) -> None:
    space = Space(
        {
            "a": LogUniform(type="log_uniform", low=0.001, high=1),
            "b": Integer(type="integer", low=4, high=64),
            "c": Uniform(type="uniform", low=0, high=1),
        }
    )
    settings = {"a": value, "b": factors, "c": value}
    assert space.drawn_for(settings) == settings
    assert space.drawn_for(settings | {"a": 2.0}) is None


def test_a_setting_knows_what_it_takes() -> None:
    assert find_setting("models.als.factors").is_whole_number
    assert find_setting("train.negatives").is_whole_number
    assert find_setting("train.lr").is_number
    assert find_setting("train").is_section
    assert find_setting("train.lr").check("1e-3") == 1e-3


def test_relative_paths_are_relative_to_the_search_file(tmp_path: Path) -> None:
    write_config(tmp_path)
    folder = tmp_path / "tune"
    folder.mkdir()
    path = folder / "als.yaml"
    path.write_text(yaml.safe_dump(search_content(Path("../shop.yaml"))))
    assert load_search(path).config.workspace == tmp_path / "workspace"


def test_a_missing_or_odd_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no search file at"):
        load_search(tmp_path / "none.yaml")
    (tmp_path / "list.yaml").write_text("- 1")
    with pytest.raises(ConfigError, match="is a mapping"):
        load_search(tmp_path / "list.yaml")
    with pytest.raises(ConfigError, match="no configuration at"):
        parse_search(search_content(tmp_path / "none.yaml"), "search.yaml")


ROOT = Path(__file__).parent.parent
SHIPPED = sorted([*ROOT.glob("tune/*.yaml"), *ROOT.glob("examples/tuning/*.yaml")])


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.name)
def test_searches_that_come_with_the_platform_are_taken(path: Path) -> None:
    assert load_search(path).space.parameters


def test_the_search_in_the_documentation_is_taken() -> None:
    text = (ROOT / "docs" / "tuning.md").read_text(encoding="utf-8")
    written = yaml.safe_load(text.partition("```yaml\n")[2].partition("```")[0])
    config = str(ROOT / "docs" / written["config"])
    assert parse_search(written | {"config": config}, "docs/tuning.md").settings.name == "item-lm"
