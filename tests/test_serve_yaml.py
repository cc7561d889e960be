"""What `serve deploy` reads: the file fits Ray's schema and names a builder whose arguments fit."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import get_type_hints

import yaml
from ray.serve.schema import ServeDeploySchema

from heliograph_serve.app import APP_NAME, GraphArgs

ROOT = Path(__file__).parent.parent


def test_the_deployed_application_is_the_builder_with_arguments_that_fit() -> None:
    content = yaml.safe_load((ROOT / "serve_apps" / "recommend.yaml").read_text())
    (application,) = ServeDeploySchema.model_validate(content).applications
    assert application.name == APP_NAME
    module, _, name = application.import_path.partition(":")
    builder = getattr(import_module(module), name)
    assert get_type_hints(builder)["args"] is GraphArgs
    GraphArgs.model_validate(application.args)


def test_nothing_listens_beyond_this_machine_unless_told() -> None:
    content = yaml.safe_load((ROOT / "serve_apps" / "recommend.yaml").read_text())
    assert content["http_options"]["host"] == "127.0.0.1"
