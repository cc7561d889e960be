"""What every part of the configuration is made of."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict


class Config(BaseModel):
    """Base of every config: unknown keys are errors, values never change."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, use_attribute_docstrings=True, allow_inf_nan=False
    )


_MOUNT_IT = "only local and mounted folders are read and written: mount it, and give its path"


def _require_path(location: str) -> str:
    scheme, separator, _ = location.partition("://")
    if separator and scheme != "package":
        raise ValueError(f"{scheme}:// is no path; {_MOUNT_IT}")
    return location


def _require_folder(folder: object) -> object:
    if isinstance(folder, str) and "://" in folder:
        raise ValueError(f"{folder.partition('://')[0]}:// is no folder; {_MOUNT_IT}")
    return folder


Location = Annotated[str, AfterValidator(_require_path)]
"""A path, or `package://name/path` for what is inside an installed package."""

Folder = Annotated[Path, BeforeValidator(_require_folder)]
"""A folder that is written to."""
