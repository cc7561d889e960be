"""One file of any supported format -> blocks of its rows, as they stand in it.

Knows formats and nothing else. What a file says decides the types: text formats give text, so that
an identifier `007` stays `007` whatever else is in its column; Parquet and JSON keep theirs.
"""

from __future__ import annotations

import csv
import io
import json
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pacsv
import pyarrow.parquet as pq

from heliograph.config import TableConfig
from heliograph.workspace import InputError

_NULLS = ["", "NULL", "null", "\\N"]  # how databases export null; quoted, they stay text
_OPEN_QUOTE = (
    "a quote opens there that does not close, or is no quote: correct the row, or set `quote` to "
    "null where quotes are characters"
)
_CSV_BLOCK_BYTES = 16 << 20  # a row must fit; Arrow's default of 1 MB is less than some texts


@dataclass(frozen=True)
class BrokenLine:
    """A line of text that is no row."""

    place: str
    """In the file: `line 3`, or of a format whose values may go over lines `row 3`."""

    reason: str
    text: str

    def __str__(self) -> str:
        return f"{self.place}: {self.reason}: {' '.join(self.text[:80].split())}"


Refuse = Callable[[BrokenLine], None]
"""Is told of a line that is no row, so that the others can be read."""


def refuse_none(line: BrokenLine) -> None:
    """Stop at the first line that is no row; see `Refuse`."""
    raise InputError(f"{line}; correct the line, or take it out")


def read_file(path: str, table: TableConfig, refuse: Refuse = refuse_none) -> Iterator[pa.Table]:
    """Read the blocks of rows of one file; a file without rows has none.

    Raises:
        InputError: The file is not in the format; the message names it.
    """
    try:
        for block in _READERS[table.format](path, table, refuse):
            if block.num_rows:
                yield _without_repeated_names(block)
    except InputError as error:
        raise InputError(f"{path} cannot be read as {table.format}: {error}") from error
    except (pa.ArrowException, ValueError, OSError) as error:
        told = None if table.format == "parquet" else _undecodable(path)
        raise InputError(f"{path} cannot be read as {table.format}: {told or error}") from error


def _without_repeated_names(block: pa.Table) -> pa.Table:
    repeated = [name for name, count in Counter(block.column_names).items() if count > 1]
    if repeated:
        raise InputError(f"column {repeated[0]!r} stands there twice; rename one of them")
    return block


def _open_text(path: str) -> io.TextIOWrapper:
    """Open a text file, unpacked if its name ends in .gz, .bz2 or .zst."""
    return io.TextIOWrapper(pa.input_stream(path), encoding="utf-8-sig")


def _undecodable(path: str) -> str | None:
    """Name the first line that is not UTF-8: most often the whole file is in another encoding."""
    number = 0
    try:
        with io.BufferedReader(pa.input_stream(path)) as file:
            for line in file:
                number += 1
                line.decode()
    except UnicodeDecodeError as error:
        byte = f"byte {error.object[error.start]:#x}"
        return f"line {number} is not UTF-8 ({byte}); save the file as UTF-8"
    except (pa.ArrowException, OSError):
        pass  # the trouble is another one, which is known already
    return None


def _read_csv(path: str, table: TableConfig, refuse: Refuse) -> Iterator[pa.Table]:
    parsing = pacsv.ParseOptions(
        delimiter=table.delimiter,
        quote_char=table.quote or False,
        newlines_in_values=table.quote is not None,
    )
    goes_over_lines = False
    for block in _read_delimited(path, parsing, refuse):
        goes_over_lines |= any(
            pc.any(pc.match_substring(column, "\n")).as_py() for column in block.columns
        )
        yield block
    if goes_over_lines:
        _require_closed_quotes(path, table)


def _require_closed_quotes(path: str, table: TableConfig) -> None:
    """Refuse a value over several lines whose quote does not close, or not where a value ends.

    Arrow takes all that follows for one value, up to the next quote or the end of the file.

    Raises:
        InputError: There is one; the message names its line.
    """
    csv.field_size_limit(_CSV_BLOCK_BYTES)
    with _open_text(path) as file:
        rows = csv.reader(file, delimiter=table.delimiter, quotechar=table.quote, strict=True)
        first = 1
        while True:
            try:
                next(rows)
            except StopIteration:
                return
            except csv.Error as error:
                if rows.line_num > first:
                    raise InputError(
                        f"line {first}: a value goes on for {rows.line_num - first + 1} lines "
                        f"({error}); {_OPEN_QUOTE}"
                    ) from error
            first = rows.line_num + 1


def _read_delimited(path: str, parsing: pacsv.ParseOptions, refuse: Refuse) -> Iterator[pa.Table]:
    """Every value is read as the text that it is: an identifier 007 stays 007."""
    reading = pacsv.ReadOptions(use_threads=False, block_size=_CSV_BLOCK_BYTES)
    ragged: list[pacsv.InvalidRow] = []

    def note(row: pacsv.InvalidRow) -> str:
        ragged.append(row)
        return "skip"

    parsing.invalid_row_handler = lambda row: "skip"
    with pacsv.open_csv(path, read_options=reading, parse_options=parsing) as file:
        names = file.schema.names
    parsing.invalid_row_handler = note
    converting = pacsv.ConvertOptions(
        column_types={name: pa.string() for name in names},
        null_values=_NULLS,
        strings_can_be_null=True,
        quoted_strings_can_be_null=False,
    )
    with pacsv.open_csv(
        path, read_options=reading, parse_options=parsing, convert_options=converting
    ) as file:
        for batch in file:
            yield pa.Table.from_batches([batch])
            _refuse_ragged(ragged, refuse)
        _refuse_ragged(ragged, refuse)


def _refuse_ragged(ragged: list[pacsv.InvalidRow], refuse: Refuse) -> None:
    """Refuse rows with more or fewer values than the header, and forget them.

    Raises:
        InputError: One goes over several lines, so that what is refused may be many rows.
    """
    for row in ragged:
        reason = f"{row.actual_columns} values, where the header has {row.expected_columns}"
        line = BrokenLine(f"row {row.number}", reason, row.text)
        lines = row.text.count("\n") + 1
        if lines > 1:
            raise InputError(f"{line}... goes over {lines} lines; {_OPEN_QUOTE}")
        refuse(line)
    ragged.clear()


def _read_recbole(path: str, table: TableConfig, refuse: Refuse) -> Iterator[pa.Table]:
    """Atomic files: tab-separated, the type of a column behind a colon in its name."""
    with _open_text(path) as file:
        header = file.readline().rstrip("\r\n").split("\t")
    names, colons, types = zip(*(column.rpartition(":") for column in header), strict=True)
    if not {"token", "token_seq", "float", "float_seq"}.issuperset(types):
        raise InputError(
            "every column of the first line of an atomic file ends in a type such as :token, "
            f"but it reads {header}; set format to csv if it is plain text with a delimiter"
        )
    parsing = pacsv.ParseOptions(delimiter="\t", quote_char=False)
    for block in _read_delimited(path, parsing, refuse):
        yield block.rename_columns(names)


def _read_parquet(path: str, table: TableConfig, refuse: Refuse) -> Iterator[pa.Table]:
    with pq.ParquetFile(path) as file:
        for batch in file.iter_batches():
            yield pa.Table.from_batches([batch])


def _read_jsonl(path: str, table: TableConfig, refuse: Refuse) -> Iterator[pa.Table]:
    """One object a line. The file is one block: what its columns are shows at its end."""
    rows: list[dict[str, object]] = []
    with _open_text(path) as file:
        for number, line in enumerate(file, start=1):
            if line.strip():
                row = _parse_object(line)
                if isinstance(row, str):
                    refuse(BrokenLine(f"line {number}", row, line.strip()))
                else:
                    rows.append(row)
    if rows:
        names = dict.fromkeys(name for row in rows for name in row)
        yield pa.table({name: _column([row.get(name) for row in rows]) for name in names})


def _parse_object(line: str) -> dict[str, object] | str:
    """Return the values of a line, or why it has none."""
    try:
        row = json.loads(line)
        if "\\u" in line:  # half of a character can be written so, and stored nowhere
            json.dumps(row, ensure_ascii=False).encode()
    except json.JSONDecodeError as error:
        return f"not JSON ({error.msg})"
    except (ValueError, RecursionError) as error:
        return f"not JSON that can be stored ({type(error).__name__})"
    if not isinstance(row, dict):
        return "not a JSON object"
    return {name: _plain(value) for name, value in row.items()}


def _plain(value: object) -> object:
    """Keep JSON's scalars and lists; an object inside a row becomes its text."""
    if isinstance(value, dict):
        return json.dumps(value)
    return [_plain(entry) for entry in value] if isinstance(value, list) else value


def _column(values: list[object]) -> pa.Array:
    try:
        return pa.array(values)
    except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError):  # 1 in one row, "1" in another
        if any(isinstance(value, list) for value in values):
            return pa.array([None if value is None else _texts(value) for value in values])
        return pa.array([None if value is None else str(value) for value in values])


def _texts(value: object) -> list[str]:
    return [str(entry) for entry in (value if isinstance(value, list) else [value])]


def _read_sequences(path: str, table: TableConfig, refuse: Refuse) -> Iterator[pa.Table]:
    """One user a line; the place of an item in all lines of its user serves as its time."""
    length: Counter[str] = Counter()
    with _open_text(path) as file:
        while lines := [line.split() for line in islice(file, 10_000)]:
            users: list[str] = []
            items: list[str] = []
            positions: list[int] = []
            for user, *sequence in filter(None, lines):
                users += [user] * len(sequence)
                items += sequence
                positions += range(length[user], length[user] + len(sequence))
                length[user] += len(sequence)
            yield pa.table(
                {
                    "user_id": pa.array(users, pa.string()),
                    "item_id": pa.array(items, pa.string()),
                    "timestamp": pa.array(positions, pa.int64()),
                }
            )


_READERS: dict[str, Callable[[str, TableConfig, Refuse], Iterator[pa.Table]]] = {
    "csv": _read_csv,
    "recbole": _read_recbole,
    "parquet": _read_parquet,
    "jsonl": _read_jsonl,
    "sequences": _read_sequences,
}
