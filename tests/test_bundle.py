"""Bundles: named by content, whole or refused."""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from heliograph.blend import Blend, Cohort
from heliograph.bundle import (
    DATA_FILE,
    EPOCHS_FILE,
    LATEST,
    MANIFEST,
    METRICS_FILE,
    RANKING_FILE,
    open_bundle,
    write_bundle,
)
from heliograph.catalog import ITEMS_FILE
from heliograph.cleaning import Cleaning, Kept
from heliograph.config import (
    EmbeddingConfig,
    HeliographConfig,
    ItemLMConfig,
    SplitsConfig,
    TransitionsConfig,
)
from heliograph.config_file import parse_config
from heliograph.history import HISTORIES_FILE, write_histories
from heliograph.index import VectorIndex
from heliograph.models.als import Als
from heliograph.models.item_lm import ItemLM, ItemLMNetwork
from heliograph.models.popularity import Popularity
from heliograph.models.text import Text
from heliograph.models.transitions import Transitions
from heliograph.workspace import InputError, write_json
from worlds import cycle

N_ITEMS = 6
BLEND = Blend(
    [
        Cohort(1, {"transitions": 2.0}, {"text": 1.0}),
        Cohort(9, {"als": 0.5}, {"als": 1.0}, item_lm=False),
    ]
)
VECTORS = np.eye(N_ITEMS, dtype=np.float32)
CLEANING = Cleaning(Kept(N_ITEMS, {}), Kept(32, {"value is odd": 1}), 8, ["8 users"])
EPOCHS = [{"number": 1, "loss": 1.5, "validation_ndcg": None, "seconds": 0.1}]


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> Path:
    parts = tmp_path_factory.mktemp("parts")
    folder = tmp_path_factory.mktemp("bundles")
    write_bundle(write_parts(parts), config("shop"), folder)
    return folder


@pytest.fixture
def copied(bundles: Path, tmp_path: Path) -> Path:
    """Copy the bundle for a test that damages it."""
    return Path(shutil.copytree(open_bundle(bundles).folder, tmp_path / "bundle"))


def config(name: str) -> HeliographConfig:
    table = {"path": "/data/x.csv", "format": "csv"}
    return parse_config({"name": name, "workspace": ".", "items": table, "events": table}, "test")


def write_parts(folder: Path) -> dict[str, Path]:
    interactions = cycle(N_ITEMS, n_users=8, length=4)
    ids = [f"item-{row}" for row in range(N_ITEMS)]
    pq.write_table(pa.table({"item_id": ids, "title": ids, "text": ids}), folder / ITEMS_FILE)
    write_histories(interactions, folder / HISTORIES_FILE)
    write_json(folder / RANKING_FILE, BLEND.dump())
    write_json(folder / METRICS_FILE, {"test": {}})
    write_json(folder / DATA_FILE, asdict(CLEANING))
    write_json(folder / EPOCHS_FILE, EPOCHS)
    for name in ("popularity", "transitions", "als", "text", "item_lm"):
        (folder / "models" / name).mkdir(parents=True)
    models = folder / "models"
    Popularity(np.arange(N_ITEMS, dtype=np.float32)).save(models / "popularity")
    Transitions.fit(TransitionsConfig(), interactions, N_ITEMS).save(models / "transitions")
    Als(VECTORS, confidence=2.0, regularization=0.1).save(models / "als")
    Text(VECTORS, half_life=2.0).save(models / "text")
    torch.manual_seed(0)
    network = ItemLMNetwork(ItemLMConfig(), VECTORS, dropout=0.0).eval()
    with torch.no_grad():
        ItemLM(network, network.embeddings()).save(models / "item_lm")
    (folder / "index").mkdir()
    for name in ("als", "text"):
        VectorIndex.build(VECTORS).save(folder / "index" / f"{name}.faiss")
    files = [ITEMS_FILE, HISTORIES_FILE, RANKING_FILE, METRICS_FILE, DATA_FILE, EPOCHS_FILE]
    names = [*files, "models", "index"]
    return {name: folder / name for name in names}


def test_a_bundle_gives_back_what_was_put_in(bundles: Path) -> None:
    bundle = open_bundle(bundles)
    bundle.check()
    assert bundle.id.startswith("shop-")
    assert bundle.catalogue().ids == [f"item-{row}" for row in range(N_ITEMS)]
    assert bundle.blend().cohorts == BLEND.cohorts
    assert (bundle.cleaning(), bundle.epochs()) == (CLEANING, EPOCHS)
    assert (bundle.item_lm() / "model.safetensors").is_file()
    assert np.array_equal(bundle.sources().text.item_vectors, VECTORS)
    assert bundle.popularity().ranking[0] == N_ITEMS - 1
    known = bundle.histories().find(bundle.histories().interactions.user_ids[0])
    assert known is not None and len(known) == 4
    assert bundle.histories().find("nobody") is None


def test_the_same_content_is_the_same_bundle(bundles: Path, tmp_path: Path) -> None:
    again = write_bundle(write_parts(tmp_path), config("shop"), bundles)
    assert again.name == open_bundle(bundles).id
    assert sorted(path.name for path in bundles.iterdir()) == sorted([again.name, LATEST])


def test_no_path_of_the_building_machine_is_in_a_bundle(tmp_path: Path) -> None:
    given = SplitsConfig(given="/data/given.csv")
    settings = config("shop").model_copy(update={"splits": given, "workspace": Path("/data/w")})
    (tmp_path / "parts").mkdir()
    folder = write_bundle(write_parts(tmp_path / "parts"), settings, tmp_path / "bundles")
    assert "/data" not in (folder / "config.yaml").read_text()
    assert open_bundle(folder).config.splits.given == "given.csv"


def test_an_encoder_that_is_a_folder_is_found_by_the_graph(tmp_path: Path) -> None:
    encoder = EmbeddingConfig(encoder="/models/encoder")
    settings = config("shop").model_copy(update={"embedding": encoder})
    (tmp_path / "parts").mkdir()
    folder = write_bundle(write_parts(tmp_path / "parts"), settings, tmp_path / "bundles")
    assert open_bundle(folder).config.embedding == encoder


def test_the_name_of_the_newest_bundle_is_never_half_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "parts").mkdir()
    parts, bundles = write_parts(tmp_path / "parts"), tmp_path / "bundles"
    older = write_bundle(parts, config("older"), bundles)

    write = Path.write_text

    def full(path: Path, text: str, encoding: str | None = None) -> int:
        if LATEST not in path.name:
            return write(path, text, encoding)
        write(path, text[: len(text) // 2])
        raise OSError("no space left on device")

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(OSError, match="no space"):
        write_bundle({}, config("newer"), bundles)
    monkeypatch.undo()
    assert open_bundle(bundles).folder == older


@pytest.mark.parametrize("name", [ITEMS_FILE, "index/als.faiss", "models/item_lm/hf/config.json"])
def test_a_truncated_file_is_named(copied: Path, name: str) -> None:
    path = copied / name
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(InputError, match=name):
        open_bundle(copied)


def test_a_missing_file_is_named(copied: Path) -> None:
    (copied / RANKING_FILE).unlink()
    with pytest.raises(InputError, match=RANKING_FILE):
        open_bundle(copied)


def test_an_altered_file_of_the_same_size_is_named_when_it_is_read(copied: Path) -> None:
    path = copied / "models/als/model.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    bundle = open_bundle(copied)
    for read in (bundle.check, bundle.sources):
        with pytest.raises(InputError, match="models/als/model.safetensors"):
            read()


def test_a_file_that_nobody_bundled_is_refused(copied: Path) -> None:
    (copied / "models" / "surprise.pkl").write_bytes(b"")
    with pytest.raises(InputError, match="surprise.pkl"):
        open_bundle(copied)


@pytest.mark.parametrize("name", ["../outside.txt", "/etc/hostname", "models/../../outside.txt"])
def test_a_manifest_that_reaches_outside_is_refused(copied: Path, name: str) -> None:
    manifest = json.loads((copied / MANIFEST).read_text())
    manifest["files"][name] = {"bytes": 0, "sha256": "0"}
    (copied / MANIFEST).write_text(json.dumps(manifest))
    with pytest.raises(InputError, match="lies outside"):
        open_bundle(copied)


@pytest.mark.parametrize("newest", ["../elsewhere", "/tmp", "..", ".", ""])
def test_the_newest_bundle_is_beside_the_file_that_names_it(copied: Path, newest: str) -> None:
    (copied.parent / LATEST).write_text(newest + "\n")
    with pytest.raises(InputError, match="not a folder beside it"):
        open_bundle(copied.parent)


def test_a_manifest_that_was_cut_off_or_altered_is_refused(copied: Path) -> None:
    manifest = copied / MANIFEST
    content = manifest.read_text()
    manifest.write_text(content[: len(content) // 2])
    with pytest.raises(InputError, match=MANIFEST):
        open_bundle(copied)
    altered = json.loads(content)
    altered["files"].pop(RANKING_FILE)
    manifest.write_text(json.dumps(altered))
    with pytest.raises(InputError, match=MANIFEST):
        open_bundle(copied)


def test_a_folder_that_is_no_bundle_is_refused_with_the_cure(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="heliograph build"):
        open_bundle(tmp_path)


@pytest.mark.parametrize(
    "files",
    [
        ["a"],
        {"a": 5},
        {"a": {"bytes": 1}},
        {"a": {"sha256": "0"}},
        {"a": {"bytes": "1", "sha256": "0"}},
    ],
)
def test_a_manifest_of_another_shape_is_refused(copied: Path, files: object) -> None:
    manifest = json.loads((copied / MANIFEST).read_text()) | {"files": files}
    (copied / MANIFEST).write_text(json.dumps(manifest))
    with pytest.raises(InputError, match="build it again"):
        open_bundle(copied)


@pytest.mark.parametrize("line", ["setting_to_come: 1", ": : ["])
def test_settings_that_this_version_cannot_read_are_refused_with_the_version(
    tmp_path: Path, line: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    portable = "heliograph.bundle._portable"
    monkeypatch.setattr(portable, lambda config: f"name: shop\n{line}\n")  # as another version may
    folder = write_bundle(write_parts(tmp_path), config("shop"), tmp_path / "bundles")
    with pytest.raises(InputError, match=r"was written by heliograph \d.*cannot read its settings"):
        open_bundle(folder)
