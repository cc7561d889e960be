"""The configuration: what it accepts, and how it says what is wrong."""

from pathlib import Path

import pytest
import yaml
from hypothesis import example, given
from hypothesis import strategies as st

from heliograph.config import HeliographConfig, ServeConfig
from heliograph.config_file import (
    ConfigError,
    dump_config,
    load_config,
    override_serve,
    parse_config,
    read_mapping,
    setting_paths,
)
from heliograph.event_store.engine import store_url
from heliograph.workspace import InputError

MINIMAL = """
name: demo
workspace: work
items: {path: items.csv, format: csv}
events: {path: events.csv, format: csv}
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "demo.yaml"
    path.write_text(MINIMAL)
    return path


def test_the_smallest_configuration_names_four_things(file: Path) -> None:
    config = load_config(file)
    assert config.name == "demo"
    assert config.train.lr == 1e-3


def test_relative_paths_are_anchored_to_the_folder_of_the_file(file: Path) -> None:
    config = load_config(file)
    assert config.workspace == file.parent / "work"
    assert config.items.path == str(file.parent / "items.csv")
    assert config.events.path == str(file.parent / "events.csv")


@pytest.mark.parametrize(
    ("encoder", "expected"),
    [
        ("./enc", "{folder}/enc"),
        ("../enc", "{folder}/../enc"),
        ("/models/enc", "/models/enc"),
        ("~/enc", "{home}/enc"),
        ("org/name", "org/name"),
        ("name", "name"),
        ("package://some/model", "package://some/model"),
    ],
)
def test_an_encoder_that_is_a_path_is_anchored_and_a_hub_id_is_not(
    file: Path, encoder: str, expected: str
) -> None:
    found = load_config(file, [f"embedding.encoder={encoder}"]).embedding.encoder
    assert found == expected.format(folder=file.parent, home=Path.home())


@pytest.mark.parametrize("key", ["workspace", "items.path", "events.path", "splits.given"])
def test_a_path_may_begin_at_home(file: Path, key: str) -> None:
    found: object = load_config(file, [f"{key}=~/shop"])
    for name in key.split("."):
        found = getattr(found, name)
    assert str(found) == str(Path.home() / "shop")


@pytest.mark.parametrize(
    "key", ["workspace", "items.path", "events.path", "splits.given", "embedding.encoder"]
)
@pytest.mark.parametrize("url", ["s3://bucket/x", "gs://bucket/x", "file:///data/x"])
def test_a_url_is_no_path_and_the_error_says_to_mount_it(file: Path, key: str, url: str) -> None:
    with pytest.raises(ConfigError, match=r"mounted folders .*mount it") as caught:
        load_config(file, [f"{key}={url}"])
    assert f"  {key}: " in str(caught.value) and f"got '{url}'" in str(caught.value)


def test_a_workspace_is_not_inside_a_package(file: Path) -> None:
    with pytest.raises(ConfigError, match="workspace: .*package:// is no folder"):
        load_config(file, ["workspace=package://heliograph/x"])


@pytest.mark.parametrize("path", ["/data/items.csv", "package://recbole/x.item"])
def test_absolute_paths_and_packages_stay_as_they_are(file: Path, path: str) -> None:
    assert load_config(file, [f"items.path={path}"]).items.path == path


@pytest.mark.parametrize(
    ("override", "nearest"),
    [
        ("sede=1", "seed"),
        ("train.epoch=1", "train.epochs"),
        ("models.als.factor=8", "models.als.factors"),
        ("serve.rank.max_replica=2", "serve.rank.max_replicas"),
        ("events.user=uid", "events.user_id"),
        ("serve.rules.freshness.half_life=3", "serve.rules.freshness.half_life_days"),
        ("evaluation.k=[5]", "evaluation.ks"),
    ],
)
def test_an_unknown_setting_names_the_nearest_one(file: Path, override: str, nearest: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(file, [override])
    key = override.partition("=")[0]
    assert f"{key}: no such setting; did you mean {nearest}?" in str(caught.value)


@pytest.mark.parametrize(
    ("override", "key", "nearest"),
    [
        (
            "serve.rules.boosts=[{filter: {a: 1}, weight: 1}, {filter: {a: 1}, wieght: 1}]",
            "serve.rules.boosts.1.wieght",
            "serve.rules.boosts.1.weight",
        ),
        ("train.schedule=[{epoch: 2, lrr: 1.0}]", "train.schedule.0.lrr", "train.schedule.0.lr"),
        ("candidates.weights={alss: 1}", "candidates.weights.alss", "candidates.weights.als"),
    ],
)
def test_an_unknown_setting_in_a_list_or_mapping_names_the_nearest_one(
    file: Path, override: str, key: str, nearest: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(file, [override])
    assert f"  {key}: no such setting; did you mean {nearest}?" in str(caught.value)


def test_a_key_like_none_of_its_choices_lists_them(file: Path) -> None:
    listed = (
        r"candidates\.weights\.zzz: no such setting; here are: candidates\.weights\.popularity, "
    )
    with pytest.raises(ConfigError, match=listed):
        load_config(file, ["candidates.weights.zzz=1"])


def test_text_inside_an_optional_section_is_taken_as_it_is_typed(file: Path) -> None:
    overrides = ["serve.rules.freshness.half_life_days=3", "serve.rules.freshness.column=1e3"]
    freshness = load_config(file, overrides).serve.rules.freshness
    assert freshness is not None and freshness.column == "1e3"


def test_an_unknown_setting_like_no_other_lists_those_of_its_section(file: Path) -> None:
    with pytest.raises(ConfigError, match=r"no such setting; here are: train\.lr, train\.weight"):
        load_config(file, ["train.zzz=1"])


@pytest.mark.parametrize(
    ("override", "expected"),
    [("1e-3", 1e-3), ("0.5", 0.5), ("1E2", 100.0), ("3", 3.0)],
)
def test_numbers_are_read_as_people_type_them(file: Path, override: str, expected: float) -> None:
    assert load_config(file, [f"train.lr={override}"]).train.lr == expected


def test_overrides_reach_any_depth_and_the_last_one_counts(file: Path) -> None:
    config = load_config(
        file,
        [
            "models.als.factors=8",
            "models.als.factors=9",
            "evaluation.ks=[1, 2]",
            "events.type=null",
        ],
    )
    assert config.models.als.factors == 9
    assert config.evaluation.ks == (1, 2)
    assert config.events.type is None


@pytest.mark.parametrize("text", ["{title}=1", "{title}", "{title} ({year})", "7", "1e3", "nan"])
def test_text_is_taken_as_it_is_typed(file: Path, text: str) -> None:
    assert load_config(file, [f"items.text={text}"]).items.text == text


def test_null_takes_a_text_away(file: Path) -> None:
    assert load_config(file, ["events.timestamp=null"]).events.timestamp is None


@pytest.mark.parametrize("override", ["train.lr", "=3", " =3"])
def test_an_override_without_key_or_value_is_refused(file: Path, override: str) -> None:
    with pytest.raises(ConfigError, match="section.key=value"):
        load_config(file, [override])


@pytest.mark.parametrize(
    "override",
    [
        "train.lr=0",
        "train.lr=.inf",
        "train.lr=.nan",
        "train.epochs=1.5",
        "candidates.count=1001",
        "serve.port=70000",
        "train.device=tpu",
        "items.format=xls",
        "name=Has Spaces",
        "items.delimiter=ab",
        "seed=many",
        "evaluation.ks=[]",
    ],
)
def test_a_value_out_of_bounds_is_named_with_what_came(file: Path, override: str) -> None:
    key, _, value = override.partition("=")
    with pytest.raises(ConfigError) as caught:
        load_config(file, [override])
    assert f"{key}: " in str(caught.value)
    assert value.strip(".") in str(caught.value)
    assert str(file) in str(caught.value)


@pytest.mark.parametrize("k", [0, -5])
def test_a_cut_off_is_at_least_one(file: Path, k: int) -> None:
    with pytest.raises(ConfigError, match=rf"evaluation\.ks\.1: .*greater.* \(got {k}\)"):
        load_config(file, [f"evaluation.ks=[10, {k}]"])


def test_every_mistake_is_listed_at_once(file: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(file, ["train.lr=0", "sede=1", "serve.port=0"])
    assert all(key in str(caught.value) for key in ("train.lr", "sede", "serve.port"))


def test_a_missing_setting_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"items\.path: is missing, and has no default"):
        parse_config({"name": "demo", "workspace": "w", "items": {"format": "csv"}}, "demo.yaml")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no configuration at .*absent.yaml"):
        load_config(tmp_path / "absent.yaml")


@pytest.mark.parametrize("content", [b"a: [1", b"\tname: x", b"name: \xff\xfe", b"\x00"])
def test_a_file_that_is_not_yaml_is_named(file: Path, content: bytes) -> None:
    file.write_bytes(content)
    with pytest.raises(ConfigError, match="demo.yaml is not YAML"):
        load_config(file)


@pytest.mark.parametrize(
    ("more", "key", "first", "again"),
    [
        ("items: {path: others.csv, format: csv}\n", "items", 4, 6),
        ("train: {lr: 1, epochs: 2, lr: 3}\n", "lr", 6, 6),
        ("train:\n  lr: 1\n  epochs: 2\n  lr: 3\n", "lr", 7, 9),
        ("serve: {rules: {boosts: [{weight: 1,\n  weight: 2}]}}\n", "weight", 6, 7),
    ],
)
def test_a_key_that_stands_twice_is_named_with_its_lines(
    file: Path, more: str, key: str, first: int, again: int
) -> None:
    file.write_text(MINIMAL + more)
    told = rf"demo\.yaml: line {again} has the key '{key}' again, which line {first} has already"
    with pytest.raises(ConfigError, match=told):
        load_config(file)


def test_a_key_that_stands_twice_in_an_override_is_named(file: Path) -> None:
    with pytest.raises(ConfigError, match="--set .*the key 'lr' again"):
        load_config(file, ["train={lr: 1, lr: 2}"])


def test_what_is_merged_in_may_be_said_otherwise(file: Path) -> None:
    merged = "train: &long {epochs: 9, lr: 0.5}\n"
    one, two = "x: {a: &a {<<: *long, lr: 2}}\n", "y: {<<: *a, lr: 3}\n"
    file.write_text(merged + one + two)
    assert read_mapping(file, "file")["y"] == {"epochs": 9, "lr": 3}


@pytest.mark.parametrize("content", ["", "[1, 2]", "just text", "7"])
def test_a_file_that_holds_no_mapping_is_refused(file: Path, content: str) -> None:
    file.write_text(content)
    with pytest.raises(ConfigError, match="a configuration is a mapping"):
        load_config(file)


@pytest.mark.parametrize("section", ["items", "train", "models"])
@pytest.mark.parametrize("value", ["[1, 2]", "text", "null", "7"])
def test_a_section_that_is_no_mapping_is_named(file: Path, section: str, value: str) -> None:
    with pytest.raises(ConfigError, match=f"  {section}: "):
        load_config(file, [f"{section}={value}"])


@pytest.mark.parametrize("value", ["[1, 2]", "text", "null"])
def test_an_override_inside_a_section_that_is_no_mapping_is_refused(file: Path, value: str) -> None:
    with pytest.raises(ConfigError, match="train"):
        load_config(file, [f"train={value}", "train.lr=1"])


@pytest.mark.parametrize("override", ["train.lr=[1", "train.lr={", "train.lr=a: b: c"])
def test_an_override_that_is_not_yaml_is_named(file: Path, override: str) -> None:
    with pytest.raises(ConfigError, match=r"--set"):
        load_config(file, [override])


def test_a_number_in_the_file_may_be_written_like_one_in_an_override(file: Path) -> None:
    file.write_text(MINIMAL + "train: {lr: 1e-3}\n")
    assert load_config(file).train.lr == 1e-3


def test_an_unknown_top_level_key_that_is_a_number_is_refused(file: Path) -> None:
    file.write_text(MINIMAL + "7: 8\n")
    with pytest.raises(ConfigError, match="7"):
        load_config(file)


def test_what_is_dumped_loads_as_the_same_configuration(file: Path) -> None:
    config = load_config(file, ["items.text={title} ({año})", "events.timestamp=null"])
    again = file.with_name("again.yaml")
    again.write_text(dump_config(config), encoding="utf-8")
    assert load_config(again) == config


@given(
    lr=st.floats(1e-9, 1e9),
    seed=st.integers(-(2**60), 2**60),
    text=st.text(st.characters(blacklist_categories=["Cs"]), max_size=30) | st.none(),
    weight=st.floats(0, 1e6),
)
@example(lr=1.0, seed=0, text="line\x85line\u2028line\u2029{año}", weight=0.0)  # YAML's line breaks
def test_any_value_survives_the_dump(lr: float, seed: int, text: str | None, weight: float) -> None:
    config = parse_config(
        {
            "name": "demo",
            "workspace": "/w",
            "seed": seed,
            "items": {"path": "/i", "format": "csv", "text": text},
            "events": {"path": "/e", "format": "csv"},
            "train": {"lr": lr},
            "candidates": {"weights": {"als": weight}},
        },
        "test",
    )
    assert parse_config(yaml.safe_load(dump_config(config)), "dump") == config


def test_settings_never_change(file: Path) -> None:
    with pytest.raises(ValueError, match="frozen"):
        load_config(file).seed = 8


def test_every_path_of_the_schema_can_be_listed() -> None:
    paths = list(setting_paths(HeliographConfig))
    assert {"name", "items.path", "models.als.factors", "serve.rank.num_cpus"} <= set(paths)
    assert {"serve.rules.freshness.column", "train.schedule.0.lr"} <= set(paths)
    assert len(paths) == len(set(paths))


@pytest.mark.parametrize(
    ("store", "message"),
    [
        ("mysql://db/shop", "begins with sqlite:/// or postgresql://"),
        ("sqlite:///events.sqlite", "is absolute"),
        ("postgresql://shop:secret@db/shop", r"write \$\{NAME\}"),
    ],
)
def test_a_store_that_cannot_be_used_is_refused(file: Path, store: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_config(file, [f"serve.store={store}"])


def test_a_store_may_take_its_password_from_the_environment(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    serve = load_config(file, ["serve.store=postgresql://shop:${SHOP_DB}@db/shop"]).serve
    monkeypatch.delenv("SHOP_DB", raising=False)
    with pytest.raises(InputError, match="environment variable SHOP_DB"):
        store_url(serve, file.parent)
    monkeypatch.setenv("SHOP_DB", "p@ss/word")
    assert store_url(serve, file.parent) == "postgresql://shop:p%40ss%2Fword@db/shop"


def test_without_a_setting_events_are_kept_beside_the_bundles(file: Path) -> None:
    assert store_url(load_config(file).serve, Path("/b")) == "sqlite:////b/events.sqlite"


def test_options_of_the_command_line_are_checked_like_the_file() -> None:
    changed = override_serve(ServeConfig(), {"port": 9000, "host": None, "store": None})
    assert (changed.port, changed.host) == (9000, "127.0.0.1")
    with pytest.raises(ConfigError, match=r"the command line (.|\n)*store: .*mysql"):
        override_serve(ServeConfig(), {"store": "mysql://db/shop"})
