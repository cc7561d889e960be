"""Files of every format, through Ray Data, to the catalogue and the events."""

import gzip
import json
import logging
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from heliograph.catalog import Catalogue, ingest_items, read_items
from heliograph.config import EventsConfig, ItemsConfig
from heliograph.events import EVENTS, REJECTED_EVENTS_FILE, ingest_events, read_events
from heliograph.splits import leave_one_out
from heliograph.workspace import InputError

pytestmark = [pytest.mark.cluster, pytest.mark.usefixtures("ray_cluster")]

ABC = Catalogue(pa.table({"item_id": ["a", "b", "c"]}))


def items_of(path: Path, output: Path, **settings: Any) -> pa.Table:
    """Ingest items and return the catalogue's table."""
    ingest_items(ItemsConfig(path=str(path), **settings), output)
    return read_items(output).table


def histories_of(path: Path, output: Path, **settings: Any) -> dict[str, str]:
    """Ingest events of the items a, b and c and return each user's history such as `abc`."""
    ingest_events(EventsConfig(path=str(path), **settings), ABC, output)
    numbered = read_events(output, ABC)
    texts = ["".join(ABC.ids[item] for item in history) for history in numbered.histories()]
    return dict(zip(numbered.user_ids, texts, strict=True))


@pytest.fixture
def output(tmp_path: Path) -> Path:
    folder = tmp_path / "output"
    folder.mkdir()
    return folder


@pytest.fixture
def source(tmp_path: Path) -> Path:
    folder = tmp_path / "source"
    folder.mkdir()
    return folder


ITEM_ROWS = [
    {"item_id": "007", "title": "Élan", "year": 1999},
    {"item_id": "42", "title": "B", "year": None},
]


def write_items(path: Path, format_: str) -> dict[str, str]:
    """Write ITEM_ROWS in a format and return the settings to read them with."""
    if format_ == "parquet":
        pq.write_table(pa.Table.from_pylist(ITEM_ROWS), path)
    elif format_ == "jsonl":
        path.write_text("\n\n".join(map(json.dumps, ITEM_ROWS)), encoding="utf-8-sig")
    elif format_ == "recbole":
        path.write_text("item_id:token\ttitle:token_seq\tyear:float\n007\tÉlan\t1999\n42\tB\t\n")
    elif format_ == "csv.gz":
        path = path.with_name("items.csv.gz")
        path.write_bytes(gzip.compress("item_id,title,year\n007,Élan,1999\n42,B,\n".encode()))
        return {"format": "csv", "path": str(path)}
    else:
        mark = {"csv": ",", "tab": "\t"}[format_]
        text = "item_id,title,year\n007,Élan,1999\n42,B,\n".replace(",", mark)
        path.write_text(text, encoding="utf-8-sig")  # as Excel does
        return {"format": "csv", "delimiter": mark}
    return {"format": format_}


@pytest.mark.parametrize("format_", ["recbole", "csv", "tab", "csv.gz", "parquet", "jsonl"])
def test_items_are_the_same_from_every_format(format_: str, source: Path, output: Path) -> None:
    settings = {"path": str(source / "items"), "text": "{title} ({year})"}
    settings |= write_items(source / "items", format_)
    counts = ingest_items(ItemsConfig.model_validate(settings), output)
    rows = read_items(output).table.to_pylist()
    assert [(row["item_id"], row["text"]) for row in rows] == [
        ("007", "Élan (1999)"),
        ("42", "B ()"),
    ]
    assert counts == {"items": 2, "rejected": 0}
    assert read_items(output).matching({"year": "1999"}).tolist() == [True, False]


def test_where_quotes_mean_nothing_they_are_characters(source: Path, output: Path) -> None:
    (source / "items").write_text('item_id\ttitle\n1\t5" pan\n2\t"Best" knife\n3\tspoon\n')
    settings = {"path": str(source / "items"), "format": "csv", "delimiter": "\t", "quote": None}
    counts = ingest_items(ItemsConfig.model_validate(settings), output)
    assert read_items(output).titles == ['5" pan', '"Best" knife', "spoon"]
    assert counts == {"items": 3, "rejected": 0}


EVENT_ROWS = [("v", "b", 9), ("u", "a", 2), ("u", "c", 1), ("u", "a", 3)]


def write_events(path: Path, format_: str) -> None:
    """Write EVENT_ROWS in a format."""
    names = ["user_id", "item_id", "timestamp"]
    if format_ == "parquet":
        pq.write_table(
            pa.Table.from_pylist([dict(zip(names, r, strict=True)) for r in EVENT_ROWS]), path
        )
    elif format_ == "jsonl":
        rows = [json.dumps(dict(zip(names, row, strict=True))) for row in EVENT_ROWS]
        path.write_text("\n".join(rows))
    elif format_ == "sequences":
        path.write_text("v b\nu c a a\nw\n\n")
    else:
        header = ["user_id:token", "item_id:token", "timestamp:float"]
        mark, first = ("\t", header) if format_ == "recbole" else (",", names)
        lines = [first, *([str(value) for value in row] for row in EVENT_ROWS)]
        path.write_text("".join(mark.join(line) + "\n" for line in lines))


@pytest.mark.parametrize("format_", ["recbole", "csv", "parquet", "jsonl", "sequences"])
def test_events_are_the_same_from_every_format(format_: str, source: Path, output: Path) -> None:
    write_events(source / "events", format_)
    assert histories_of(source, output, format=format_) == {"u": "caa", "v": "b"}
    assert pq.read_table(output / "events.parquet").schema.equals(EVENTS)


def test_a_sequence_of_repeated_items_and_a_user_on_two_lines_keep_their_order(
    source: Path, output: Path
) -> None:
    (source / "x.txt").write_text("u a a b\nv c\nu c a\n")
    assert histories_of(source, output, format="sequences") == {"u": "aabca", "v": "c"}


def test_refused_events_are_kept_with_reason_and_row(source: Path, output: Path) -> None:
    (source / "e.csv").write_text(
        "user_id,item_id,timestamp\nu,a,1\nu,a,1\n,a,1\nu,zzz,1\nu,b,never\nNULL,b,1\nu,b,9e12\n"
    )
    config = EventsConfig(path=str(source), format="csv")
    assert ingest_events(config, ABC, output) == {"events": 1, "users": 1, "rejected": 6}
    rejected = pq.read_table(output / REJECTED_EVENTS_FILE)
    assert rejected["reason"].to_pylist() == [
        "the same event stands earlier in the data",
        "user_id is missing",
        "item_id is not in the catalogue",
        "timestamp is missing or cannot be read",
        "user_id is missing",
        "timestamp is in the future",
    ]
    assert json.loads(rejected["row"][3].as_py()) == {
        "user_id": "u",
        "item_id": "b",
        "timestamp": "never",
    }


def test_ingesting_again_writes_the_same_bytes(source: Path, output: Path) -> None:
    for part in range(5):
        write_events(source / f"{part}.csv", "csv")
    first = histories_of(source, output, format="csv")
    written = [(output / name).read_bytes() for name in ("events.parquet", REJECTED_EVENTS_FILE)]
    assert histories_of(source, output, format="csv") == first == {"u": "caa", "v": "b"}
    again = [(output / name).read_bytes() for name in ("events.parquet", REJECTED_EVENTS_FILE)]
    assert again == written


def test_a_folder_of_many_files_is_read_in_order(source: Path, output: Path) -> None:
    for part in range(40):
        (source / f"part-{part:02}.csv").write_text(f"item_id,title\na,{part}\nb{part},x\n")
    (source / "_SUCCESS").touch()
    table = items_of(source, output, format="csv")
    assert table.num_rows == 41
    assert table.to_pylist()[0]["title"] == "39"  # the last file wins
    assert pq.read_table(output / "rejected_items.parquet").num_rows == 39


def test_columns_may_differ_in_type_between_files(source: Path, output: Path) -> None:
    pq.write_table(
        pa.table({"item_id": [1, 2], "title": ["A", "B"], "size": [1, 2], "live": [True, None]}),
        source / "1.parquet",
    )
    pq.write_table(
        pa.table({"item_id": ["x1"], "title": ["X"], "size": ["XL"], "live": [0.5]}),
        source / "2.parquet",
    )
    table = items_of(source, output, format="parquet")
    assert table["item_id"].to_pylist() == ["1", "2", "x1"]
    assert table["size"].to_pylist() == ["1", "2", "XL"]
    assert table["live"].to_pylist() == ["true", None, "0.5"]


def test_json_columns_may_differ_in_type_between_rows(source: Path, output: Path) -> None:
    rows: list[dict[str, object]] = [
        {"item_id": 7, "title": "A", "tags": "x", "size": 1, "dims": {"h": 1}},
        {"item_id": "8", "title": "B", "tags": ["y", 2], "size": 10**30, "new": 1},
    ]
    (source / "x.jsonl").write_text("\n".join(map(json.dumps, rows)))
    table = items_of(source, output, format="jsonl")
    assert table.select(["item_id", "tags", "size", "dims", "new"]).to_pylist() == [
        {"item_id": "7", "tags": ["x"], "size": "1", "dims": '{"h": 1}', "new": None},
        {"item_id": "8", "tags": ["y", "2"], "size": str(10**30), "dims": None, "new": 1},
    ]


def test_a_list_in_one_file_and_a_text_in_another_is_an_error(source: Path, output: Path) -> None:
    (source / "1.jsonl").write_text('{"item_id": 1, "title": "A", "tags": ["x"]}')
    (source / "2.jsonl").write_text('{"item_id": 2, "title": "B", "tags": "x"}')
    with pytest.raises(InputError, match="column 'tags' differs in type between files"):
        items_of(source, output, format="jsonl")


def test_a_file_may_lack_an_optional_column(source: Path, output: Path) -> None:
    (source / "1.csv").write_text("user_id,item_id,timestamp\nu,a,1\n")
    (source / "2.csv").write_text("timestamp,user_id,item_id,kind,price\n2,u,b,buy,9.5\n")
    assert histories_of(source, output, format="csv", type="kind", value="price") == {"u": "ab"}
    kept = pq.read_table(output / "events.parquet")
    assert kept["type"].to_pylist() == ["view", "buy"]
    assert kept["value"].to_pylist() == [None, 9.5]


def test_a_file_may_lack_an_attribute_or_a_column_of_the_text(source: Path, output: Path) -> None:
    (source / "1.csv").write_text("item_id,title\na,A\n")
    (source / "2.csv").write_text("item_id,title,year,genre\nb,B,1999,x|y\n")
    table = items_of(source, output, format="csv", text="{title} {year}", categories="genre")
    assert table["text"].to_pylist() == ["A", "B 1999"]
    assert table["year"].to_pylist() == [None, "1999"]
    assert table["categories"].to_pylist() == [[], ["x", "y"]]


@pytest.mark.parametrize("name", ["item_id", "title"])
def test_a_file_that_lacks_a_required_column_is_named(
    name: str, source: Path, output: Path
) -> None:
    (source / "1.csv").write_text("item_id,title\na,A\n")
    (source / "2.csv").write_text("item_id,title\nb,B\n".replace(name, "other"))
    with pytest.raises(InputError, match=rf"2\.csv has no column '{name}', .*columns are .*other"):
        items_of(source, output, format="csv")


@pytest.mark.parametrize(
    ("settings", "setting"),
    [
        ({"item_id": "sku"}, "items.item_id"),
        ({"title": "sku"}, "items.title"),
        ({"categories": "sku"}, "items.categories"),
        ({"text": "{title} {sku}"}, "items.text"),
    ],
)
def test_a_setting_that_names_no_column_is_named(
    settings: dict[str, str], setting: str, source: Path, output: Path
) -> None:
    (source / "1.csv").write_text("item_id,title\na,A\n")
    message = f"has no column 'sku', which {setting} names; its columns are item_id, title. Set"
    with pytest.raises(InputError, match=message):
        items_of(source, output, format="csv", **settings)


@pytest.mark.parametrize("key", ["user_id", "item_id", "timestamp", "type", "value"])
@pytest.mark.parametrize("format_", ["csv", "jsonl", "sequences"])
def test_a_setting_of_events_that_names_no_column_is_named(
    key: str, format_: str, source: Path, output: Path
) -> None:
    write_events(source / "e", format_)
    with pytest.raises(InputError, match=rf"has no column 'sku', which events\.{key} names"):
        histories_of(source, output, format=format_, **{key: "sku"})


@pytest.mark.parametrize("template", ["{title", "{}", "{title:d}"])
def test_a_broken_template_is_an_error(template: str, source: Path, output: Path) -> None:
    write_items(source / "x", "csv")
    with pytest.raises(InputError, match="items.text is not a usable template"):
        items_of(source, output, format="csv", text=template)


BROKEN = [
    ("csv", b'item_id,title\na,"A\nb,B\nc",C,C\n', "row 2: 4 values, where the header has 2"),
    ("csv", b"", "Empty CSV file"),
    ("csv", b"item_id,title\na,\xff\n", "line 2 is not UTF-8 (byte 0xff); save the file as"),
    ("csv", b"item_id,item_id\na,b\n", "column 'item_id' stands there twice"),
    ("recbole", b"item_id,title\na,A\n", "ends in a type such as :token"),
    ("recbole", b"", "ends in a type such as :token"),
    ("jsonl", b'{"item_id": "\xff"}\n', "line 1 is not UTF-8 (byte 0xff); save the file as"),
    ("parquet", b"item_id,title\na,A\n", "Parquet magic bytes not found"),
    ("parquet", b"", "Parquet file size is 0 bytes"),
]


@pytest.mark.parametrize(("format_", "content", "reason"), BROKEN)
def test_a_file_that_cannot_be_read_is_one_error_with_file_and_reason(
    format_: str, content: bytes, reason: str, source: Path, output: Path, capfd: Any
) -> None:
    (source / "broken").write_bytes(content)
    with pytest.raises(InputError) as caught:
        items_of(source, output, format=format_)
    assert type(caught.value) is InputError  # not a RayTaskError that looks like one
    message = str(caught.value)
    assert message.startswith(f"{source / 'broken'} cannot be read as {format_}: ")
    assert reason in message
    assert "Traceback" not in capfd.readouterr().err
    assert list(output.iterdir()) == []


def test_a_truncated_parquet_file_is_named(source: Path, output: Path) -> None:
    write_items(source / "1", "parquet")
    content = (source / "1").read_bytes()
    (source / "2").write_bytes(content[: len(content) // 2])
    with pytest.raises(InputError, match=f"{source / '2'} cannot be read as parquet"):
        items_of(source, output, format="parquet")


def test_a_parquet_file_that_is_damaged_inside_is_named(source: Path, output: Path) -> None:
    pq.write_table(
        pa.table({"item_id": list(map(str, range(999))), "title": ["x"] * 999}), source / "1"
    )
    content = bytearray((source / "1").read_bytes())
    content[10:500] = b"\xff" * 490
    (source / "1").write_bytes(content)
    with pytest.raises(InputError, match=f"{source / '1'} cannot be read as parquet"):
        items_of(source, output, format="parquet")


def test_a_broken_line_late_in_a_long_file_is_refused_and_all_others_are_kept(
    source: Path, output: Path
) -> None:
    rows = "".join(f"{row},Title {row} {'x' * 100}\n" for row in range(200_000))
    (source / "1.csv").write_text("item_id,title\n" + rows + "a,b,c\nlast,Last\n")
    assert items_of(source, output, format="csv").num_rows == 200_001
    rejected = pq.read_table(output / "rejected_items.parquet").to_pylist()
    assert [(row["item_id"], row["reason"]) for row in rejected] == [
        (None, "3 values, where the header has 2")
    ]
    assert json.loads(rejected[0]["row"]) == {
        "file": "1.csv",
        "place": "row 200002",
        "text": "a,b,c",
    }


def test_broken_lines_of_events_are_refused_by_their_place_alone(
    source: Path, output: Path
) -> None:
    (source / "1.jsonl").write_text("not a row of user-7\n")  # a file of nothing else
    good = '{"user_id": "u", "item_id": "a", "timestamp": 1}\n'
    (source / "2.jsonl").write_text(good + '{"user_id": "user-7", "item\n[1]\n')
    config = EventsConfig(path=str(source), format="jsonl")
    assert ingest_events(config, ABC, output) == {"events": 1, "users": 1, "rejected": 3}
    rejected = pq.read_table(output / REJECTED_EVENTS_FILE).to_pylist()
    assert [json.loads(row["row"]) for row in rejected] == [
        {"file": "1.jsonl", "place": "line 1"},
        {"file": "2.jsonl", "place": "line 2"},
        {"file": "2.jsonl", "place": "line 3"},
    ]
    assert "user-7" not in str(rejected)


def test_files_of_nothing_but_broken_lines_are_an_error_that_shows_one(
    source: Path, output: Path
) -> None:
    (source / "1.jsonl").write_text("item_id,title\na,A\n")
    with pytest.raises(InputError, match=r"holds no rows .* as jsonl .*1\.jsonl, line 1: not JSON"):
        items_of(source, output, format="jsonl")


def test_without_times_the_place_in_all_files_is_the_time(source: Path, output: Path) -> None:
    (source / "1.csv").write_text("user_id,item_id\nu,a\nu,b\nv,c\nu,a\n")
    (source / "2.csv").write_text("user_id,item_id\nu,b\nv,c\n")
    found = histories_of(source, output, format="csv", timestamp=None)
    assert found == {"u": "abab", "v": "cc"}


def test_a_column_of_lists_cannot_be_the_identifier(source: Path, output: Path) -> None:
    pq.write_table(pa.table({"item_id": [[1]], "title": ["A"]}), source / "1.parquet")
    with pytest.raises(
        InputError, match=r"1\.parquet: values of type list.* cannot be read as text"
    ):
        items_of(source, output, format="parquet")


@pytest.mark.parametrize("kind", [pa.list_(pa.int64()), pa.time64("ns")], ids=str)
def test_a_column_that_cannot_hold_times_refuses_or_names_the_file(
    kind: pa.DataType, source: Path, output: Path
) -> None:
    times = pa.array([[1]] if pa.types.is_list(kind) else pa.array([1]).cast(kind))
    rows = pa.table({"user_id": ["u"], "item_id": ["a"], "timestamp": times})
    pq.write_table(rows, source / "1.parquet")
    with pytest.raises(InputError, match=r"1\.parquet: values of type|no usable event"):
        histories_of(source, output, format="parquet")


@pytest.mark.parametrize(
    ("format_", "content"),
    [
        ("csv", b"item_id,title\n"),
        ("jsonl", b"\n\n"),
        ("jsonl", b""),
        ("sequences", b"u\n"),
        ("recbole", b"item_id:token\ttitle:token\n"),
    ],
)
def test_a_table_without_rows_is_an_error(
    format_: str, content: bytes, source: Path, output: Path
) -> None:
    (source / "1").write_bytes(content)
    with pytest.raises(InputError, match="holds no rows that can be read as .*; check that it is"):
        items_of(source, output, format=format_)


def test_a_file_without_rows_among_others_is_no_trouble(source: Path, output: Path) -> None:
    write_items(source / "1", "csv")
    (source / "2").write_text("item_id,title\n")
    assert items_of(source, output, format="csv").num_rows == 2


def test_a_parquet_file_without_rows_among_others_is_no_trouble(source: Path, output: Path) -> None:
    write_items(source / "1", "parquet")
    pq.write_table(pa.table({"item_id": [1]}).slice(0, 0), source / "2")
    assert items_of(source, output, format="parquet").num_rows == 2


def test_more_files_than_tasks_are_read_in_order(
    source: Path, output: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("heliograph.tables._MAX_TASKS", 3)
    for part in range(10):
        key, size = (f'"x{part}"', part) if part % 2 else (str(part), '"L"')
        rows = f'{{"item_id": {key}, "title": "T", "size": {size}}}\n'
        rows += f'{{"item_id": "same", "title": "{part}"}}'
        (source / f"{part}.jsonl").write_text(rows)
    table = items_of(source, output, format="jsonl")
    assert table.num_rows == 11
    assert table.to_pylist()[5] == {
        "item_id": "same",
        "title": "9",
        "text": "9",
        "categories": [],
        "size": None,
    }
    assert table["size"].to_pylist() == ["L"] * 5 + [None, "1", "3", "5", "7", "9"]


def test_a_catalogue_of_refused_rows_is_an_error_with_reasons(source: Path, output: Path) -> None:
    (source / "1.csv").write_text("item_id,title\n,A\n,B\n")
    with pytest.raises(InputError, match="no usable item: 2 x item_id is missing; the first such"):
        items_of(source, output, format="csv")
    assert list(output.iterdir()) == []


def test_events_of_another_catalogue_are_an_error_with_examples(source: Path, output: Path) -> None:
    (source / "1.csv").write_text("user_id,item_id,timestamp\nu,x,1\nu,y,2\n")
    message = '2 x item_id is not in the catalogue; .*"x".* called a, b, c'
    with pytest.raises(InputError, match=message):
        histories_of(source, output, format="csv")


@pytest.mark.parametrize("path", ["absent.csv", "package://absent/x"])
def test_a_missing_file_is_an_error(path: str, output: Path) -> None:
    with pytest.raises(InputError, match=path):
        items_of(Path(path), output, format="csv") if "://" not in path else ingest_items(
            ItemsConfig(path=path, format="csv"), output
        )


def test_values_that_span_lines_and_long_texts_are_read(source: Path, output: Path) -> None:
    text = "x" * 3_000_000
    (source / "1.csv").write_text(f'item_id,title,plot\na,"A, or\nB","say ""{text}"""\n')
    row = items_of(source, output, format="csv").to_pylist()[0]
    assert row["title"] == "A, or\nB"
    assert row["plot"] == f'say "{text}"'


def test_null_is_absent_unless_it_is_quoted(source: Path, output: Path) -> None:
    (source / "1.csv").write_text('item_id,title,country\na,NULL,NA\nb,"NULL",\n')
    table = items_of(source, output, format="csv")
    assert table["title"].to_pylist() == ["a", "NULL"]
    assert table["country"].to_pylist() == ["NA", None]  # Namibia


def test_times_of_parquet_columns_are_read_with_and_without_zone(
    source: Path, output: Path
) -> None:
    for part, kind in enumerate([pa.timestamp("us"), pa.timestamp("us", "UTC"), pa.date32()]):
        stamps = pa.array([86_400_000_000 * (3 - part)]).cast(pa.timestamp("us")).cast(kind)
        rows = {"user_id": [1], "item_id": ["abc"[part]], "timestamp": stamps}
        pq.write_table(pa.table(rows), source / f"{part}.parquet")
    assert histories_of(source, output, format="parquet") == {"1": "cba"}


def test_movielens_is_read_whole(output: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.ERROR)
    folder = "package://recbole/dataset_example/ml-100k/ml-100k"
    items = ItemsConfig(
        path=f"{folder}.item",
        format="recbole",
        title="movie_title",
        text="{movie_title} ({release_year}): {class}",
        categories="class",
        categories_separator=" ",
    )
    assert ingest_items(items, output) == {"items": 1682, "rejected": 0}
    events = EventsConfig(path=f"{folder}.inter", format="recbole", value="rating")
    catalogue = read_items(output)
    counts = ingest_events(events, catalogue, output)
    assert counts == {"events": 100_000, "users": 943, "rejected": 0}
    assert catalogue.texts[catalogue.row_of["1"]] == "Toy Story (1995): Animation Children's Comedy"
    assert len(leave_one_out(read_events(output, catalogue)).users) == 943
