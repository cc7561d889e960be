"""Files of any supported format -> one table of cleaned rows, none of them dropped.

Knows formats, not what items or events are. Ray Data spreads the files over the cluster and
cleans each where it is read; the order of files and rows is kept, because it decides between
events of the same second. A file that cannot be used comes back as a row that says why: an
exception inside a Ray task would reach the user as two pages of traceback.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from heliograph.config import TableConfig
from heliograph.formats import BrokenLine, read_file
from heliograph.identifiers import bad_id
from heliograph.workspace import InputError, source_files

REASON = "_reason"
"""Column of a cleaned table: why the row is refused, or null."""

ROW = "_row"
"""Column of a cleaned table: a refused row as it came, as JSON, or null."""

_PROBLEM = "_problem"
_BROKEN_CHARACTERS = 1000  # of a line that is kept to show what came
_MAX_TASKS = 256  # of one job: a task costs some 20 ms, so many small files share one

Clean = Callable[[pa.Table], pa.Table]


def read_cleaned(
    table: TableConfig,
    required: Mapping[str, str],
    optional: Mapping[str, str],
    clean: Clean,
    keeps_lines: bool = True,
) -> pa.Table:
    """Read every file of a table and clean the rows where they are read.

    Args:
        table: Location and format.
        required: Column that every file must have -> the setting that names it.
        optional: Column that one file at least must have -> the setting that names it.
        clean: Rows as they are in a file -> rows of one schema with the columns REASON and ROW.
        keeps_lines: Whether of a line that is no row its text is kept, or only where it stands.

    Raises:
        InputError: Nothing is at the location, a file is not in the format or lacks a column,
            or there are no rows.
    """
    files = [str(file) for file in source_files(table.path)]
    found = [
        row
        for block in _over_files(files, _list_columns, {"table": table})
        for row in block.to_pylist()
    ]
    broken = [f"{row['path']}, {row['broken']}" for row in found if row["broken"]]
    names = {row["path"]: row["columns"] for row in found if row["columns"]}
    _require_rows(names, broken, table)
    _require_columns(names, required, optional, table)
    settings = {"table": table, "clean": clean, "keeps_lines": keeps_lines}
    rows = _concatenate(_over_files(files, _clean_files, settings))
    return rows.select([*(n for n in rows.column_names if n not in (REASON, ROW)), REASON, ROW])


def column(rows: pa.Table, name: str | None) -> pa.ChunkedArray:
    """Return a column, or nulls where the rows have none of that name."""
    if name in rows.column_names:
        return rows[name]
    return pa.chunked_array([pa.nulls(rows.num_rows)])


def strings(values: pa.ChunkedArray) -> pa.ChunkedArray:
    """Return values as strings without space around them; what is empty becomes null.

    Raises:
        InputError: The values are lists, structures or bytes that are not text.
    """
    if pa.types.is_dictionary(values.type):
        values = values.cast(values.type.value_type)
    if pa.types.is_floating(values.type):  # whole numbers among nulls are floats in pandas
        values = pc.if_else(pc.is_finite(values), values, None)  # and 7.0 becomes "7" below
    try:
        text = pc.utf8_trim_whitespace(values.cast(pa.string()))
    except pa.ArrowException as error:
        raise InputError(f"values of type {values.type} cannot be read as text: {error}") from error
    return pc.if_else(pc.equal(text, ""), None, text)


def is_list(kind: pa.DataType) -> bool:
    """Tell whether values of a type are lists."""
    return bool(
        pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
    )


def refuse_ids(ids: pa.ChunkedArray, name: str) -> pa.ChunkedArray:
    """Return, for each row, why its value cannot be an identifier, or null if it can."""
    distinct = ids.unique()  # far fewer than rows
    reasons = [
        None if problem is None else f"{name} {problem}"
        for problem in map(bad_id, distinct.to_pylist())
    ]
    return pa.array(reasons, pa.string()).take(pc.index_in(ids, value_set=distinct))


def with_refusals(
    cleaned: pa.Table, reasons: Sequence[pa.ChunkedArray], came: pa.Table
) -> pa.Table:
    """Add to cleaned rows the first reason that applies and, where one does, the row as it came."""
    reason = pc.coalesce(*reasons)
    refused = np.flatnonzero(reason.is_valid())
    rows = np.full(cleaned.num_rows, None, dtype=object)
    rows[refused] = _as_json(came.take(refused))
    return cleaned.append_column(REASON, reason).append_column(ROW, pa.array(rows, pa.string()))


def refuse(rows: pa.Table, where: NDArray[np.bool_], reason: str) -> pa.Table:
    """Give a reason to the rows of a mask; a row that has one keeps it."""
    reasons = pc.coalesce(rows[REASON], reason_where(where, reason))
    return rows.set_column(rows.column_names.index(REASON), REASON, reasons)


def reason_where(mask: NDArray[np.bool_], reason: str) -> pa.Array:
    """Return the reason where the mask is true, null elsewhere."""
    return pc.if_else(pa.array(mask), reason, pa.scalar(None, pa.string()))


def split_refused(rows: pa.Table, ids: Sequence[str]) -> tuple[pa.Table, pa.Table]:
    """Split cleaned rows into those to keep and those refused.

    Returns:
        The rows without a reason, and the rejected: their `ids`, `reason` and `row` (JSON).
    """
    kept = rows.filter(rows[REASON].is_null()).drop_columns([REASON, ROW])
    refused = rows.filter(rows[REASON].is_valid())
    cleaned = pa.array(_as_json(refused.drop_columns([REASON, ROW])), pa.string())
    rejected = refused.select(ids).append_column("reason", refused[REASON])
    return kept, rejected.append_column("row", pc.coalesce(refused[ROW], cleaned))


def describe_refusals(rejected: pa.Table) -> str:
    """Name the most frequent reasons and an example, for a message."""
    counts = Counter(rejected["reason"].to_pylist()).most_common(3)
    reasons = "; ".join(f"{count} x {reason}" for reason, count in counts)
    return f"{reasons}; the first such row is {rejected['row'][0].as_py()[:200]}"


def _over_files(
    files: list[str], work: Callable[..., Iterator[pa.Table]], settings: dict[str, Any]
) -> list[pa.Table]:
    """Run work(paths, **settings) on all files, spread over Ray tasks, in order."""
    import ray.data  # half a second that only who reads files needs

    dataset = ray.data.from_items(files, override_num_blocks=min(len(files), _MAX_TASKS))
    dataset.context.execution_options.preserve_order = True
    done = dataset.map_batches(work, batch_format="pyarrow", batch_size=None, fn_kwargs=settings)
    results: Iterable[pa.Table] = done.iter_batches(batch_format="pyarrow", batch_size=None)
    blocks = []
    for block in results:
        for problem in column(block, _PROBLEM).drop_null().to_pylist():
            raise InputError(problem)
        if block.num_rows:
            blocks.append(block)
    return blocks


def _list_columns(paths: pa.Table, table: TableConfig) -> Iterator[pa.Table]:
    """Yield the columns of each file, or the first line that is no row if none is one."""
    for path in paths["item"].to_pylist():
        broken: list[BrokenLine] = []
        try:
            first = next(read_file(path, table, broken.append), None)
        except InputError as error:
            yield pa.table({_PROBLEM: [str(error)]})
            continue
        names = None if first is None else first.column_names
        told = str(broken[0]) if broken and first is None else None
        yield pa.Table.from_pylist(
            [{"path": path, "columns": names, "broken": told}],
            pa.schema(
                [("path", pa.string()), ("columns", pa.list_(pa.string())), ("broken", pa.string())]
            ),
        )


def _clean_files(
    paths: pa.Table, table: TableConfig, clean: Clean, keeps_lines: bool
) -> Iterator[pa.Table]:
    try:
        blocks = [
            block
            for path in paths["item"].to_pylist()
            for block in clean_file(path, table, clean, keeps_lines)
        ]
        if blocks:
            yield _concatenate(blocks)
    except InputError as error:
        yield pa.table({_PROBLEM: [str(error)]})


def clean_file(
    path: str, table: TableConfig, clean: Clean, keeps_lines: bool
) -> Iterator[pa.Table]:
    """Yield the cleaned rows of a file, and last a row for each line that is none.

    Raises:
        InputError: The file is not in the format, or its rows cannot be cleaned; names it.
    """
    broken: list[BrokenLine] = []
    for block in read_file(path, table, broken.append):
        try:
            yield clean(block)
        except (InputError, pa.ArrowException) as error:
            raise InputError(f"{path}: {error}") from error
    if broken:
        yield _refused_lines(Path(path).name, broken, keeps_lines)


def _refused_lines(file: str, broken: Sequence[BrokenLine], keeps_lines: bool) -> pa.Table:
    """Return lines that are no rows as rows of nothing but REASON and ROW."""
    rows = [
        {"file": file, "place": line.place}
        | ({"text": line.text[:_BROKEN_CHARACTERS]} if keeps_lines else {})
        for line in broken
    ]
    reasons = pa.array([line.reason for line in broken], pa.string())
    return pa.table({REASON: reasons, ROW: pa.array(map(json.dumps, rows), pa.string())})


def _require_rows(
    names: Mapping[str, Sequence[str]], broken: Sequence[str], table: TableConfig
) -> None:
    if not names:
        told = f" ({broken[0]})" if broken else ""
        raise InputError(
            f"{table.path} holds no rows that can be read as {table.format}{told}; check that it "
            "is the right file, and its format"
        )


def _require_columns(
    names: Mapping[str, Sequence[str]],
    required: Mapping[str, str],
    optional: Mapping[str, str],
    table: TableConfig,
) -> None:
    for path, present in names.items():
        for name, setting in required.items():
            if name not in present:
                raise lacking(path, name, setting, present)
    present = list(dict.fromkeys(name for columns in names.values() for name in columns))
    for name, setting in optional.items():
        if name not in present:
            raise lacking(table.path, name, setting, present)


def lacking(path: str, name: str, setting: str, present: Sequence[str]) -> InputError:
    """Return the error of a file without a column that a setting names."""
    return InputError(
        f"{path} has no column {name!r}, which {setting} names; its columns are "
        f"{', '.join(present)}. Set {setting} to the one that is meant"
    )


def _concatenate(blocks: Sequence[pa.Table]) -> pa.Table:
    """Join blocks; a column whose type differs between files becomes text."""
    for name in dict.fromkeys(name for block in blocks for name in block.column_names):
        schemas = [block.schema.field(name) for block in blocks if name in block.column_names]
        try:
            pa.unify_schemas([pa.schema([f]) for f in schemas], promote_options="permissive")
        except pa.ArrowException:
            blocks = [_as_text(block, name) for block in blocks]
    return pa.concat_tables(blocks, promote_options="permissive")


def _as_text(block: pa.Table, name: str) -> pa.Table:
    if name not in block.column_names:
        return block
    try:
        text = strings(block[name])
    except InputError as error:
        raise InputError(
            f"column {name!r} differs in type between files: {error}; "
            "write it with one type, or leave it out"
        ) from error
    return block.set_column(block.column_names.index(name), name, text)


def _as_json(rows: pa.Table) -> list[str]:
    for place, field in enumerate(rows.schema):
        if pa.types.is_temporal(field.type):  # Python has no year 10000, Arrow has
            rows = rows.set_column(place, field.name, rows[place].cast(pa.string()))
    return [
        json.dumps({name: _finite(value) for name, value in row.items()}, default=str)
        for row in rows.to_pylist()
    ]


def _finite(value: object) -> object:
    """Return a value that JSON has: it lacks NaN and infinity."""
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value
