"""Columns read as numbers or as times, whatever type they came in."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pyarrow as pa
from numpy.typing import NDArray

from heliograph.tables import strings

MICROSECONDS = {"s": 1_000_000, "ms": 1_000, "us": 1}


def is_numeric(kind: pa.DataType) -> bool:
    """Tell whether values of a type are numbers."""
    return bool(
        pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind)
    )


def is_instant(kind: pa.DataType) -> bool:
    """Tell whether values of a type are dates or timestamps."""
    return bool(pa.types.is_timestamp(kind) or pa.types.is_date(kind))


def floats(values: pa.ChunkedArray) -> NDArray[np.float64]:
    """Return numbers as 64-bit floats, NaN where there is none."""
    return np.asarray(values.cast(pa.float64(), safe=False), np.float64)


def numbers(values: pa.ChunkedArray) -> NDArray[np.float64]:
    """Read numbers, or text that is one; NaN if it is none."""
    if is_numeric(values.type):
        return floats(values)
    read = pd.to_numeric(strings(values).to_pandas(), errors="coerce")
    return np.asarray(read, np.float64)


def microseconds(values: pa.ChunkedArray) -> NDArray[np.float64]:
    """Return dates or timestamps as microseconds since 1970, NaN where there is none.

    Floats hold every microsecond until 2255.
    """
    if pa.types.is_date(values.type) or values.type.unit == "ns":
        values = values.cast(pa.timestamp("us"), safe=False)
    return floats(values.cast(pa.int64())) * MICROSECONDS[values.type.unit]


def iso_microseconds(values: pa.ChunkedArray) -> NDArray[np.float64]:
    """Read ISO 8601 as microseconds since 1970, without an offset in UTC; NaN if it is none."""
    texts = strings(values).to_pandas()
    dated = texts.where(texts.str.match(r"\d{4}-?\d\d", na=False))  # pandas also knows "today"
    moments = pd.to_datetime(dated, utc=True, errors="coerce", format="ISO8601")
    times = moments.dt.as_unit("us").astype("int64").to_numpy(np.float64)
    return np.where(moments.isna(), np.nan, times)
