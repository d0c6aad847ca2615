import json

import numpy as np
import pytest

from bert_serving.server.bulk import outputs
from bert_serving.server.bulk.vectors import VectorFile

COUNT, WIDTH = 10, 3
REJECTS = [(0, 1, "blank"), (4, 5, "é"), (9, 10, "refused")]


@pytest.fixture(params=["<f4", "<f2"])
def vectors(request, tmp_path, monkeypatch):
    for name in ("GROUP_BYTES", "TEXT_BYTES"):
        monkeypatch.setattr(outputs, name, 4 * WIDTH * int(request.param[-1]))
    file = VectorFile(tmp_path / "vectors", COUNT, WIDTH, np.dtype(request.param))
    rows = np.random.default_rng(0).standard_normal((COUNT, WIDTH)).astype(request.param)
    rows[[row for row, _, _ in REJECTS]] = np.nan
    file.write(0, rows)
    yield file
    file.close()


def rejects(first, end):
    return [reject for reject in REJECTS if first <= reject[0] < end]


def test_json_lines_give_back_the_same_bits(vectors, tmp_path):
    outputs.write_json_lines(tmp_path / "out", vectors, rejects)
    lines = list(map(json.loads, (tmp_path / "out").read_text(encoding="utf-8").splitlines()))
    assert [line["row"] for line in lines] == list(range(COUNT))
    reasons = {row: why for row, _, why in REJECTS}
    for row, line in enumerate(lines):
        if row in reasons:
            assert line == {"row": row, "vector": None, "reason": reasons[row]}
        else:
            np.testing.assert_array_equal(np.asarray(line["vector"], vectors.dtype), vectors.read([row])[0])


def test_parquet_has_every_row_and_null_for_rejects(vectors, tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet", reason="pyarrow is not installed")
    outputs.write_parquet(tmp_path / "out", vectors, rejects)
    table = parquet.read_table(tmp_path / "out")
    assert parquet.ParquetFile(tmp_path / "out").num_row_groups == 3
    assert table.column("row").to_pylist() == list(range(COUNT))
    for row, found in enumerate(table.column("vector").to_pylist()):
        if row in {0, 4, 9}:
            assert found is None
        else:
            np.testing.assert_array_equal(np.asarray(found, np.float32), vectors.read([row])[0].astype(np.float32))
    outputs.write_parquet(tmp_path / "again", vectors, rejects)
    assert (tmp_path / "again").read_bytes() == (tmp_path / "out").read_bytes()


@pytest.mark.parametrize("suffix", outputs.FORMATS)
def test_no_rows_are_a_file_all_the_same(tmp_path, suffix):
    pytest.importorskip("pyarrow.parquet", reason="pyarrow is not installed")
    file = VectorFile(tmp_path / "vectors", 0, WIDTH, np.dtype(np.float32))
    outputs.FORMATS[suffix](tmp_path / "out", file, rejects)
    file.close()
    assert (tmp_path / "out").exists()
