"""A bundle -> one HTML page: how good it is, for whom, why, and what it recommends.

The page needs nothing beside itself: no script, no network. Titles and identifiers are user data
and are escaped.
"""

from __future__ import annotations

import platform
from importlib.metadata import version
from pathlib import Path

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from heliograph import __version__
from heliograph.bundle import CONFIG_FILE, Bundle
from heliograph.report import layout
from heliograph.report.charts import score_bar
from heliograph.report.evidence import main_cutoff, read_evidence
from heliograph.report.samples import draw_samples
from heliograph.report.wording import KINDS, lead_sentence, name_of, verdict_sentences
from heliograph.workspace import InputError

TEMPLATE = "page.html.j2"
PACKAGES = ("numpy", "torch")
"""Whose versions stand at the end: they ranked the sample users."""


def write_report(bundle: Bundle, path: Path) -> None:
    """Write the report of a bundle.

    Args:
        bundle: Is all that is read.
        path: File to write; one that is there is replaced.

    Raises:
        InputError: The bundle lacks a file or was written in another format, or nothing can be
            written at the path.
    """
    if path.is_dir() or not path.parent.is_dir():
        found = "is a folder" if path.is_dir() else f"lies in {path.parent}, which does not exist"
        raise InputError(f"{path} {found}; name a file in a folder that is there")
    path.write_text(render(bundle), encoding="utf-8")


def render(bundle: Bundle) -> str:
    """Return the report of a bundle as HTML."""
    evidence = read_evidence(bundle)
    verdict = evidence.served
    interactions = bundle.histories().interactions
    templates = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return templates.get_template(TEMPLATE).render(
        bundle=bundle,
        evidence=evidence,
        verdict=verdict,
        sentences=verdict_sentences(evidence),
        retrieval=verdict.lead.get("retrieval"),
        lead_sentence=lead_sentence,
        name_of=name_of,
        kinds=KINDS,
        layout=layout,
        k=main_cutoff(verdict) if verdict.models else 0,
        epochs=bundle.epochs(),
        cleaning=bundle.cleaning(),
        median_history=int(np.median(np.diff(interactions.offsets))) if len(interactions) else 0,
        samples=draw_samples(bundle),
        score_bar=score_bar,
        config=bundle.path(CONFIG_FILE).read_text(),
        versions={"heliograph": __version__, "Python": platform.python_version()}
        | {package: version(package) for package in PACKAGES},
    )
