"""The stages together: what runs, what is reused, what the evaluation finds."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from heliograph.bundle import METRICS_FILE, open_bundle
from heliograph.cli import run_stages
from heliograph.comparison import NOBODY
from heliograph.config import EmbeddingConfig
from heliograph.model_stages import read_epochs
from heliograph.models.item_lm_run import best_epoch
from heliograph.models.popularity import Popularity
from heliograph.models.transitions import Transitions
from heliograph.workspace import InputError, resolve
from small_shop import ITEMS, STEPS, USERS, build_shop, item_id

pytestmark = pytest.mark.cluster
EXAMPLE = Path(__file__).parent.parent / "examples" / "your_own_data"


@pytest.fixture(scope="module")
def shop(built_shop: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("copied") / "shop"
    return Path(shutil.copytree(built_shop, folder)) / "shop.yaml"


def test_every_model_is_compared_and_the_circle_is_learned(shop: Path) -> None:
    workspace = shop.parent / "workspace"
    metrics = json.loads((workspace / "evaluation" / METRICS_FILE).read_text())
    assert set(metrics["test"]["models"]) == {
        "popularity", "transitions", "als", "text", "item_lm", "retrieval", "pipeline",
    }  # fmt: skip
    assert metrics["users"] == USERS
    for model in ("transitions", "item_lm", "pipeline"):
        assert metrics["test"]["models"][model]["recall@5"] > 0.95, model
    assert (
        metrics["test"]["models"]["pipeline"]["ndcg@10"]
        > metrics["test"]["models"]["popularity"]["ndcg@10"]
    )


def test_the_learning_curve_is_kept(shop: Path) -> None:
    epochs = read_epochs(shop.parent / "workspace" / "models" / "item_lm")
    assert [epoch.number for epoch in epochs] == list(range(1, len(epochs) + 1))
    assert epochs[-1].loss < epochs[0].loss


def test_what_is_served_is_fitted_on_validation_too_for_as_many_epochs(shop: Path) -> None:
    workspace = shop.parent / "workspace"
    chosen = best_epoch(read_epochs(workspace / "models" / "item_lm")).number
    again = read_epochs(workspace / "refit" / "models" / "item_lm")
    assert len(again) == chosen
    assert all(epoch.validation_ndcg is None for epoch in again)
    popularity = {
        folder: np.expm1(Popularity.load(workspace / folder).item_scores).sum()
        for folder in ("models/popularity", "refit/models/popularity")
    }
    assert popularity["refit/models/popularity"] == pytest.approx(
        popularity["models/popularity"] + USERS, rel=1e-4
    )
    bundle = open_bundle(workspace / "bundles")
    served = bundle.path("models/popularity/model.safetensors").read_bytes()
    assert served == (workspace / "refit/models/popularity/model.safetensors").read_bytes()
    assert bundle.metrics()["refit"]["models"]["pipeline"]["recall@5"] > 0.95
    assert bundle.metrics()["test"]["models"]["pipeline"]["recall@5"] > 0.95


def test_the_bundle_knows_every_event_of_every_user(shop: Path) -> None:
    histories = open_bundle(shop.parent / "workspace" / "bundles").histories()
    known = histories.find("user-0")
    assert known is not None and len(known) == STEPS


def test_the_bundle_tells_what_became_of_the_data(shop: Path) -> None:
    cleaning = open_bundle(shop.parent / "workspace" / "bundles").cleaning()
    assert (cleaning.items.kept, cleaning.events.kept, cleaning.users) == (
        ITEMS,
        USERS * STEPS,
        USERS,
    )
    assert cleaning.split == [f"{USERS} of {USERS} users are evaluated"]


def test_a_second_build_reuses_everything(shop: Path) -> None:
    before = open_bundle(shop.parent / "workspace" / "bundles").id
    assert all(result.reused for result in build_shop(shop))
    assert open_bundle(shop.parent / "workspace" / "bundles").id == before


def test_a_changed_setting_runs_its_stage_and_what_follows(shop: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(shop.parent, tmp_path / "copy")) / shop.name
    copy.write_text(copy.read_text().replace("factors: 8", "factors: 4"))
    ran = {result.name for result in build_shop(copy) if not result.reused}
    follows = {"models/als", "index", "evaluation"}
    assert ran == follows | {f"refit/{name}" for name in follows}


def test_a_new_item_is_the_only_one_embedded_and_moves_the_numbers_of_all_others(
    shop: Path, tmp_path: Path
) -> None:
    copy = Path(shutil.copytree(shop.parent, tmp_path / "copy")) / shop.name
    with (copy.parent / "items.csv").open("a") as file:
        file.write("added,A thing that comes first,late,9\n")
    results = {result.name: result for result in build_shop(copy, until="index")}
    assert results["embeddings"].counts["embedded"] == 1
    models = copy.parent / "workspace" / "models"
    assert Transitions.load(models / "transitions").evidence.shape == (ITEMS + 1, ITEMS + 1)
    assert Popularity.load(models / "popularity").ranking[-1] == 0


def test_a_shop_that_has_just_opened_is_built_and_nobody_is_evaluated(
    embedded_shop: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = Path(shutil.copytree(embedded_shop, tmp_path / "new"))
    rows = [f"user-{user},{item_id(user + step)},{step}" for user in range(9) for step in range(2)]
    events = ["user_id,item_id,timestamp", *rows[:5], "user-9,a,line,too,long", *rows[5:]]
    (folder / "events.csv").write_text("\n".join(events))
    made = run_stages(folder / "shop.yaml", ["train.epochs=2"], until="bundle")
    assert made is not None and open_bundle(made).metrics()["skipped"] == NOBODY
    printed = " ".join(capsys.readouterr().out.split())
    assert f"note: {NOBODY}" in printed and "18 events, 9 users, 1 rejected" in printed
    refused = pq.read_table(folder / "workspace/events/rejected_events.parquet").to_pylist()
    assert [(row["reason"], json.loads(row["row"])) for row in refused] == [
        ("5 values, where the header has 3", {"file": "events.csv", "place": "row 7"})
    ]


def test_an_encoder_that_cannot_be_loaded_is_an_error_that_names_it(
    embedded_shop: Path, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(embedded_shop, tmp_path / "shop"))
    encoder = Path(shutil.copytree(resolve(EmbeddingConfig().encoder), folder / "encoder"))
    (encoder / "model.safetensors").write_bytes(b"cut off")
    with (folder / "shop.yaml").open("a") as file:
        file.write("embedding: {encoder: ./encoder}\n")
    with pytest.raises(InputError, match=f"encoder {encoder} cannot be loaded: ") as caught:
        build_shop(folder / "shop.yaml", until="embed")
    assert type(caught.value) is InputError


def test_your_own_data_is_read_the_same_from_csv_and_parquet(
    ray_cluster: None, tmp_path: Path
) -> None:
    folder = Path(
        shutil.copytree(EXAMPLE, tmp_path / "example", ignore=shutil.ignore_patterns("workspace*"))
    )
    for name in ("shop.yaml", "shop_parquet.yaml"):
        events = {result.name: result for result in build_shop(folder / name, until="ingest")}
        assert events["events"].counts["rejected"] == 2
    refused = pq.read_table(folder / "workspace/events/rejected_events.parquet")
    assert sorted(refused["reason"].to_pylist()) == [
        "item_id is not in the catalogue",
        "timestamp is in the future",
    ]
    for table in ("items/items.parquet", "events/events.parquet"):
        from_csv = pq.read_table(folder / "workspace" / table)
        from_parquet = pq.read_table(folder / "workspace-parquet" / table)
        same = [name for name in from_csv.column_names if name not in ("price", "event_id")]
        assert from_csv.select(same).to_pydict() == from_parquet.select(same).to_pydict()
