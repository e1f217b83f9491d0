"""What was measured of a merge, as Parquet. Rows pass through Arrow's JSON reader: from lists it would load pandas."""

import hashlib
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow.json import ParseOptions, read_json

from bm.merge import folder

MERGED = pa.schema({
    "step": pa.int32(), "base": pa.string(), "other": pa.string(), "tensor": pa.string(), "layer": pa.int32(),
    "module": pa.string(), "elements": pa.int64(), "kept_share": pa.float64(), "update_norm": pa.float64(),
})  # fmt: skip


def write_rows(path: Path, rows: Sequence[dict[str, Any]]) -> dict[str, str]:
    """`tensors.parquet`: one row for each tensor and merge step; the file's SHA-256 by its name."""
    return write_table(path, rows, MERGED)


def write_table(path: Path, rows: Sequence[dict[str, Any]], schema: pa.Schema) -> dict[str, str]:
    """A Parquet file, whole or not at all; its SHA-256 by its name."""
    lines = "".join(json.dumps(row) + "\n" for row in rows).encode()
    table = (
        read_json(io.BytesIO(lines), parse_options=ParseOptions(explicit_schema=schema))
        if rows
        else schema.empty_table()
    )
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink)
    data = sink.getvalue().to_pybytes()
    folder.write(path, data)
    return {path.name: hashlib.sha256(data).hexdigest()}
