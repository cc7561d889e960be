"""The immutable folder that serving loads: what it needs and nothing else.

A bundle is named by its content. Every file stands in the manifest with size and hash; a file
that is missing, altered, truncated or not in the manifest is an error that names it. Nothing in
it is a pickle: safetensors, Parquet, JSON, YAML and FAISS.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from heliograph import __version__
from heliograph.blend import Blend
from heliograph.catalog import ITEMS_FILE, Catalogue, read_items
from heliograph.cleaning import Cleaning
from heliograph.config import SOURCE_NAMES, HeliographConfig, IndexConfig
from heliograph.config_file import parse_config
from heliograph.history import HISTORIES_FILE, Histories, read_histories
from heliograph.index import VectorIndex
from heliograph.models import MODEL_FILE
from heliograph.models.als import Als
from heliograph.models.item_tokens import HF_FOLDER, TEXT_FILE
from heliograph.models.popularity import Popularity
from heliograph.models.text import Text
from heliograph.models.transitions import Transitions
from heliograph.sources import Sources
from heliograph.workspace import (
    InputError,
    digest_of,
    hash_file,
    hash_files,
    write_json,
    write_text,
)

MANIFEST = "manifest.json"
CONFIG_FILE = "config.yaml"
RANKING_FILE = "ranking.json"
METRICS_FILE = "metrics.json"
EPOCHS_FILE = "epochs.json"
DATA_FILE = "data.json"
LATEST = "latest"
INDEXED_SOURCES = ("als", "text")


@dataclass(frozen=True)
class Bundle:
    """An opened bundle; each part is checked against the manifest when it is first read."""

    folder: Path
    id: str
    version: str
    """Of the heliograph that wrote it."""

    files: dict[str, dict[str, Any]]
    config: HeliographConfig

    def path(self, name: str) -> Path:
        """Return the path of a file after checking its content.

        Raises:
            InputError: The file is missing or is not what the manifest says.
        """
        entry = self.files.get(name)
        path = self.folder / name
        if entry is None or not path.is_file():
            raise InputError(f"bundle {self.folder}: {name} is missing; build the bundle again")
        if path.stat().st_size != entry["bytes"] or hash_file(path) != entry["sha256"]:
            raise InputError(
                f"bundle {self.folder}: {name} is not the file that was bundled "
                f"(expected {entry['bytes']} bytes with sha256 {entry['sha256'][:12]}..., found "
                f"{path.stat().st_size} bytes); copy the bundle again or build it again"
            )
        return path

    def check(self) -> None:
        """Check every file; raises `InputError` that names the first one that is wrong."""
        for name in self.files:
            self.path(name)

    def catalogue(self) -> Catalogue:
        """Read the items."""
        return read_items(self.path(ITEMS_FILE).parent)

    def histories(self) -> Histories:
        """Read what each user has consumed."""
        return read_histories(self.path(HISTORIES_FILE))

    def sources(self) -> Sources:
        """Read the models that propose candidates, with their indexes."""
        return read_sources(self.folder, self.config.index, check=self.path)

    def popularity(self) -> Popularity:
        """Read the popularity model alone."""
        return Popularity.load(self.path(f"models/popularity/{MODEL_FILE}").parent)

    def text(self) -> Text:
        """Read the text model alone, its vectors mapped into memory."""
        return Text.mapped(self.path(f"models/text/{MODEL_FILE}").parent)

    def item_lm(self) -> Path:
        """Return the Hugging Face folder of the item LM."""
        prefix = f"models/item_lm/{HF_FOLDER}/"
        for name in self.files:
            if name.startswith(prefix):
                self.path(name)
        return self.folder / prefix

    def text_projection(self) -> Path:
        """Return the file by which the item LM makes embeddings of text vectors."""
        return self.path(f"models/item_lm/{TEXT_FILE}")

    def blend(self) -> Blend:
        """Return the weights of the evidence in the final ranking."""
        return Blend.parse(json.loads(self.path(RANKING_FILE).read_text()))

    def metrics(self) -> dict[str, Any]:
        """Return the evaluation that the bundle was built with."""
        metrics: dict[str, Any] = json.loads(self.path(METRICS_FILE).read_text())
        return metrics

    def cleaning(self) -> Cleaning:
        """Return what became of the rows that the bundle was built from."""
        return Cleaning.parse(json.loads(self.path(DATA_FILE).read_text()))

    def epochs(self) -> list[dict[str, Any]]:
        """Return the learning curve by which the item LM's epochs were chosen, in order."""
        epochs: list[dict[str, Any]] = json.loads(self.path(EPOCHS_FILE).read_text())
        return epochs


def read_sources(
    folder: Path, index: IndexConfig, check: Callable[[str], object] = lambda name: None
) -> Sources:
    """Read candidate models and indexes below a workspace or bundle.

    Args:
        folder: Has `models/` and `index/`.
        index: How the indexes are searched.
        check: Called with each file's relative name before any is read; raises if it is wrong.
    """
    for source in SOURCE_NAMES:
        check(f"models/{source}/{MODEL_FILE}")
    for indexed in INDEXED_SOURCES:
        check(f"index/{indexed}.faiss")
    models = folder / "models"
    return Sources(
        popularity=Popularity.load(models / "popularity"),
        transitions=Transitions.load(models / "transitions"),
        als=Als.load(models / "als"),
        text=Text.load(models / "text"),
        indexes={
            name: VectorIndex.load(folder / "index" / f"{name}.faiss", index)
            for name in INDEXED_SOURCES
        },
    )


def write_bundle(parts: dict[str, Path], config: HeliographConfig, bundles: Path) -> Path:
    """Copy parts into a new bundle, or find that the same bundle is there already.

    Args:
        parts: Name in the bundle -> file or folder to copy.
        config: The full configuration, stored in the bundle without the paths of this machine.
        bundles: Folder of all bundles; `latest` in it names the newest.

    Returns:
        The bundle's folder, `bundles / <name>-<hash>`.
    """
    bundles.mkdir(parents=True, exist_ok=True)
    draft = Path(tempfile.mkdtemp(prefix=".draft-", dir=bundles))
    try:
        for name, source in parts.items():
            target = draft / name
            target.parent.mkdir(parents=True, exist_ok=True)
            if source.is_dir():
                shutil.copytree(source, target, ignore=shutil.ignore_patterns("stage.json"))
            else:
                shutil.copyfile(source, target)
        (draft / CONFIG_FILE).write_text(_portable(config))
        files = hash_files(draft)
        bundle_id = f"{config.name}-{_digest(files)[:12]}"
        write_json(draft / MANIFEST, {"id": bundle_id, "heliograph": __version__, "files": files})
        draft.chmod(0o755)
        target = bundles / bundle_id
        if target.exists():
            shutil.rmtree(draft)
        else:
            draft.rename(target)
    except BaseException:
        shutil.rmtree(draft, ignore_errors=True)
        raise
    write_text(bundles / LATEST, bundle_id + "\n")
    return target


def open_bundle(path: Path) -> Bundle:
    """Open a bundle: its folder, or a folder of bundles, of which the newest is taken.

    Raises:
        InputError: It is no bundle, or its files are not those of its manifest.
    """
    folder = path
    if (path / LATEST).is_file():
        newest = (path / LATEST).read_text().strip()
        if newest in ("", "..") or Path(newest).name != newest:
            raise InputError(
                f"{path / LATEST} names {newest!r}, which is not a folder beside it; "
                "write the name of a bundle there or build again"
            )
        folder = path / newest
    if not (folder / MANIFEST).is_file():
        raise InputError(
            f"{path} is not a bundle: it has no {MANIFEST}; pass a folder that "
            "`heliograph bundle` or `heliograph build` has written"
        )
    manifest = _read_manifest(folder)
    files = manifest["files"]
    for name in files:
        if Path(name).is_absolute() or ".." in Path(name).parts:
            raise InputError(
                f"bundle {folder}: {MANIFEST} names {name!r}, which lies outside; "
                "take the bundle from where it was built"
            )
    if not manifest["id"].endswith(_digest(files)[:12]):
        raise InputError(f"bundle {folder}: {MANIFEST} was altered; build the bundle again")
    present = {file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file()}
    if unknown := sorted(present - set(files) - {MANIFEST}):
        raise InputError(
            f"bundle {folder}: {unknown[0]} is not in the manifest; "
            "a bundle is never changed, so remove the file or build a new bundle"
        )
    for name, entry in files.items():
        found = (folder / name).stat().st_size if (folder / name).is_file() else None
        if found != entry["bytes"]:
            what = "is missing" if found is None else f"has {found} bytes"
            raise InputError(
                f"bundle {folder}: {name} {what}, where {entry['bytes']} were written; "
                "copy the bundle again or build it again"
            )
    config = _read_config(folder, manifest["heliograph"])
    return Bundle(folder.resolve(), manifest["id"], manifest["heliograph"], files, config)


def _read_manifest(folder: Path) -> dict[str, Any]:
    try:
        manifest = json.loads((folder / MANIFEST).read_text())
        texts = (manifest["id"], manifest["heliograph"])
        entries = manifest["files"].values()
        texts += tuple(entry["sha256"] for entry in entries)
        sizes = [entry["bytes"] for entry in entries]
        if all(isinstance(text, str) for text in texts) and all(type(n) is int for n in sizes):
            return dict(manifest)
    except (AttributeError, ValueError, KeyError, TypeError):
        pass  # said below: whatever is wrong with it, the cure is the same
    raise InputError(f"bundle {folder}: {MANIFEST} is truncated or not JSON; build it again")


def _read_config(folder: Path, version: str) -> HeliographConfig:
    try:
        return parse_config(yaml.safe_load((folder / CONFIG_FILE).read_text()), CONFIG_FILE)
    except (ValueError, yaml.YAMLError) as error:
        raise InputError(
            f"bundle {folder} was written by heliograph {version}, and {__version__} cannot read "
            f"its settings: {error}; build it again, or serve it with that version"
        ) from error


def _digest(files: dict[str, dict[str, Any]]) -> str:
    return digest_of(json.dumps({name: entry["sha256"] for name, entry in sorted(files.items())}))


def _portable(config: HeliographConfig) -> str:
    """Write the configuration without the paths of the machine that built the bundle.

    An encoder that is a folder keeps its path: a graph embeds new items with it.
    """
    plain = config.model_dump(mode="json")
    plain["workspace"] = "."
    for section, key in (("items", "path"), ("events", "path"), ("splits", "given")):
        path = plain[section][key]
        if path is not None and "://" not in path:
            plain[section][key] = Path(path).name
    return yaml.safe_dump(plain, sort_keys=False, allow_unicode=True)
