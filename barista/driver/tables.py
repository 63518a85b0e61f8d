"""The metrics of a run as two Parquet tables, for Spark and whatever else reads data frames.

`metrics.parquet` has a row for each round, `workers.parquet` one for each worker in each round;
`round` joins them.  Each is a folder of files, one more with every round, written by pyarrow:
Spark's own first write takes half a minute.  A file appears whole and is named by its first round,
so that a round that is written again takes its own place.

The columns are the keys of metrics.jsonl, each of one type; where a key is missing there, the
column is null.  So every file of every run has the same schema.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, get_type_hints

import pyarrow as pa
import pyarrow.parquet as pq

from barista.rounds import RoundMetrics

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

ROUNDS, WORKERS = "metrics.parquet", "workers.parquet"

_OF: dict[Any, pa.DataType] = {
    int: pa.int64(),
    float: pa.float64(),
    float | None: pa.float64(),
    str: pa.string(),
}
_TEXTS = pa.list_(pa.string())
_SCORE = {"version": int, "steps": int, "episodes": int, "return_mean": float, "return_se": float}
SCHEMAS = {
    ROUNDS: pa.schema(
        {
            "round": pa.int64(),
            "time": pa.float64(),  # Unix time of its end, s
            "seconds": pa.float64(),
            "epsilon": pa.float64(),
            "push_period": pa.int64(),
            "version": pa.int64(),
            "steps": pa.int64(),  # of all workers since the beginning, as are the episodes
            "episodes": pa.int64(),
            "loss": pa.float64(),
            "return_mean": pa.float64(),
            "updates_per_s": pa.float64(),
            "staleness_mean": pa.float64(),
            "alarms": _TEXTS,
            "evaluation": pa.struct([(name, _OF[kind]) for name, kind in _SCORE.items()]),
        }
    ),
    WORKERS: pa.schema(
        [
            *((name, _OF[kind]) for name, kind in get_type_hints(RoundMetrics).items()),
            ("replay_size", pa.int64()),
            ("restarts", _TEXTS),  # why, each
        ]
    ),
}


def write(folder: Path, rows: Sequence[dict[str, Any]]) -> None:
    """Add rounds to both tables, in a file each.

    Args:
        folder: of the run.
        rows: as in metrics.jsonl, at least one; the first one's "round" names the file.

    Raises:
        OSError: If a file cannot be written; an earlier one of that name is as it was.
    """
    of_workers = [
        {**worker, "round": row["round"]} for row in rows for worker in row.get("workers", ())
    ]
    for table, content in ((ROUNDS, list(rows)), (WORKERS, of_workers)):
        place = folder / table
        place.mkdir(exist_ok=True)
        file = place / f"round-{rows[0]['round']:06d}.parquet"
        unfinished = file.with_name(f"_{file.name}")  # Spark passes over such names
        pq.write_table(pa.Table.from_pylist(content, SCHEMAS[table]), unfinished)
        unfinished.replace(file)
