"""What is wrong with a body, in words that say what came and what was expected."""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, get_args

from pydantic import BaseModel

JSON_TYPES = {
    list: "an array",
    str: "a string",
    int: "a number",
    float: "a number",
    bool: "a boolean",
}


def why_unreadable(error: BaseException | None) -> str:
    """Return why bytes could not be read as JSON, by what reading them ended with."""
    if isinstance(error, UnicodeDecodeError):
        return "it is not UTF-8; what is compressed is not unpacked here"
    if isinstance(error, RecursionError):
        return "it is nested too deeply"
    if isinstance(error, json.JSONDecodeError):
        return error.msg
    return "it holds a number with too many digits" if isinstance(error, ValueError) else "unknown"


def is_json(content_type: str) -> bool:
    """Tell whether FastAPI reads a body of this type as JSON."""
    kind = content_type.partition(";")[0].strip().lower()
    return kind == "application/json" or (
        kind.startswith("application/") and kind.endswith("+json")
    )


def told(problem: Mapping[str, Any], annotation: object) -> str:
    """Return what pydantic found wrong.

    Args:
        problem: One of the errors of a `RequestValidationError`.
        annotation: Type of the body; None where there is none.
    """
    if problem["type"] == "extra_forbidden":
        return f"there is no such field{_nearest(problem['loc'], annotation)}"
    if problem["type"] == "missing" and problem["loc"] == ("body",):
        return "the body is missing; it has to be an object"
    came = JSON_TYPES.get(type(problem.get("input")))
    if problem["loc"] == ("body",) and came is not None:
        return f"the body is {came}, but has to be an object"
    return str(problem["msg"]).removeprefix("Value error, ")


def _nearest(place: Sequence[str | int], annotation: object) -> str:
    """Return which field of the same object may have been meant."""
    models = list(_models(annotation))
    for part in place[1:-1]:
        fields = [model.model_fields[part] for model in models if part in model.model_fields]
        if fields:
            models = [model for field in fields for model in _models(field.annotation)]
    names = [name for model in models for name in model.model_fields]
    near = difflib.get_close_matches(str(place[-1]), names, n=1, cutoff=0.6)
    if near:
        return f"; did you mean {near[0]}?"
    return f"; there are {', '.join(dict.fromkeys(names))}" if names else ""


def _models(annotation: object) -> Iterator[type[BaseModel]]:
    """Yield the models that a type is made of."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for part in get_args(annotation):
        yield from _models(part)
