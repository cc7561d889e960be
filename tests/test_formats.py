"""Files as they are read: broken lines are told one by one, and the others are read."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from heliograph.catalog import clean_items
from heliograph.config import EventsConfig, ItemsConfig, TableConfig
from heliograph.formats import BrokenLine, read_file
from heliograph.tables import REASON, ROW, clean_file
from heliograph.workspace import InputError

LONE_SURROGATE = r'{"a": "\ud800"}'


def read(path: Path, format_: str, **settings: Any) -> tuple[list[dict[str, Any]], list[str]]:
    """Read a file; returns its rows, and what was told of broken lines."""
    broken: list[BrokenLine] = []
    table = TableConfig.model_validate({"path": str(path), "format": format_, **settings})
    rows = [
        row for block in read_file(str(path), table, broken.append) for row in block.to_pylist()
    ]
    return rows, [str(line) for line in broken]


@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_rows_of_csv_with_more_or_fewer_values_are_told_and_the_others_read(
    tmp_path: Path, pack: Callable[[bytes], bytes]
) -> None:
    path = tmp_path / ("x.csv.gz" if pack is gzip.compress else "x.csv")
    path.write_bytes(pack(b"a,b\n1,2\n3,4,5\n6\n7,8\n9,9,9"))
    rows, broken = read(path, "csv")
    assert rows == [{"a": "1", "b": "2"}, {"a": "7", "b": "8"}]
    assert broken == [
        "row 3: 3 values, where the header has 2: 3,4,5",
        "row 4: 1 values, where the header has 2: 6",
        "row 6: 3 values, where the header has 2: 9,9,9",
    ]


@pytest.mark.parametrize(
    "text",
    [
        'a,b\n1,x\n2,"27 inch\n3,y\n4,z\n',
        'a,b\n1,x\n2,"27 inch\n3,y\n4,"z"\n5,w\n',
        'a,b\n1,x\n2,"27 inch\n3,y\n4,z ""quoted""',
    ],
    ids=["to the end", "to the next quote", "to the end, which is a quote"],
)
@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_a_quote_that_does_not_close_swallows_no_rows(
    tmp_path: Path, text: str, pack: Callable[[bytes], bytes]
) -> None:
    path = tmp_path / ("x.csv.gz" if pack is gzip.compress else "x.csv")
    path.write_bytes(pack(text.encode()))
    with pytest.raises(InputError, match=r"line 3: .* a quote opens there that does not close"):
        read(path, "csv")
    rows, _ = read(path, "csv", quote=None)
    assert [row["a"] for row in rows][:3] == ["1", "2", "3"]


def test_values_may_go_over_lines(tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text('a,b\n1,"one\n\n""two"", three"\n2,"plain"\n')
    rows, broken = read(tmp_path / "x.csv", "csv")
    assert [row["b"] for row in rows] == ['one\n\n"two", three', "plain"] and not broken


def test_a_broken_first_row_does_not_hide_the_header(tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text("a,b\n1\n2,3\n")
    assert read(tmp_path / "x.csv", "csv")[0] == [{"a": "2", "b": "3"}]


def test_rows_of_atomic_files_are_told_too(tmp_path: Path) -> None:
    (tmp_path / "x.inter").write_text("a:token\tb:float\n1\t2\n3\n")
    rows, broken = read(tmp_path / "x.inter", "recbole")
    assert rows == [{"a": "1", "b": "2"}]
    assert broken == ["row 3: 1 values, where the header has 2: 3"]


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ('{"a": 1', "not JSON (Expecting ',' delimiter)"),
        ("[1, 2]", "not a JSON object"),
        ("7", "not a JSON object"),
        ("a,b", "not JSON (Expecting value)"),
        (LONE_SURROGATE, "not JSON that can be stored (UnicodeEncodeError)"),
        ("[" * 100_000, "not JSON that can be stored (RecursionError)"),
    ],
    ids=lambda text: text[:20],
)
def test_lines_that_hold_no_object_are_told_and_the_others_read(
    tmp_path: Path, line: str, told: str
) -> None:
    (tmp_path / "x.jsonl").write_text(f'{{"a": "\\u00e9"}}\n\n{line}\n{{"a": "2"}}\n')
    rows, broken = read(tmp_path / "x.jsonl", "jsonl")
    assert rows == [{"a": "\u00e9"}, {"a": "2"}]
    assert broken == [f"line 3: {told}: {line[:80]}"]


def test_without_anyone_to_tell_the_first_broken_line_is_an_error_with_its_cure(
    tmp_path: Path,
) -> None:
    path = tmp_path / "x.csv"
    path.write_text("a,b\n1,2\n3,4,5\n")
    table = TableConfig(path=str(path), format="csv")
    told = r"x\.csv cannot be read as csv: row 3: 3 values, .* has 2: 3,4,5; correct the line"
    with pytest.raises(InputError, match=told):
        list(read_file(str(path), table))


def test_a_broken_row_that_swallows_others_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    path.write_text('a,b\n1,2\n3,"4\n5,6\n7,8",9\n1,2\n')
    with pytest.raises(
        InputError, match=r"row 3: 3 values.* 3 lines; a quote .* set `quote` to null"
    ):
        read(path, "csv")
    rows, broken = read(path, "csv", quote=None)
    assert (len(rows), len(broken)) == (4, 1)


@pytest.mark.parametrize(
    "content", [b"a,b\n1,\xff\n", b"a,b\n1,2,\xff\n", b"\xff\xfea\0,\0b\0\n\0"]
)
def test_a_file_in_another_encoding_names_the_line_and_the_cure(
    tmp_path: Path, content: bytes
) -> None:
    (tmp_path / "x.csv").write_bytes(content)
    with pytest.raises(
        InputError, match=r"line [12] is not UTF-8 \(byte 0xff\); save the file as UTF"
    ):
        read(tmp_path / "x.csv", "csv")


def test_broken_lines_become_rows_with_a_reason_behind_those_of_their_file(tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    path.write_text("item_id,title\na,A\nb\nc,C\n")
    config = ItemsConfig(path=str(path), format="csv")
    clean = partial(clean_items, config=config)
    good, refused = clean_file(str(path), config, clean, keeps_lines=True)
    assert good["item_id"].to_pylist() == ["a", "c"]
    assert refused[REASON].to_pylist() == ["1 values, where the header has 2"]
    row = {"file": "x.csv", "place": "row 3", "text": "b"}
    assert [json.loads(row) for row in refused[ROW].to_pylist()] == [row]


def test_of_lines_that_may_name_a_user_only_the_place_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    path.write_text("user-7\n")
    config = EventsConfig(path=str(path), format="jsonl")

    def clean(block: pa.Table) -> pa.Table:
        return block

    (refused,) = clean_file(str(path), config, clean, keeps_lines=False)
    assert json.loads(refused[ROW][0].as_py()) == {"file": "x.jsonl", "place": "line 1"}
