"""The same for Ray Data: a dataset with texts in, the dataset with a column of vectors out.

Ray's actors are clients of a server that runs; what Ray moves are texts and vectors, what computes is the server.
"""
from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from bert_serving.client import BertClient
from bert_serving.client.hosts import check_host

from .asking import TICK_MS, Asker, Client
from .job import probe
from .records import CHUNK_RECORDS, text_record
from .tables import need_arrow


def encode_dataset(ds: Any, column: str, output: str = "vector", *, ip: str = "localhost", port: int = 5555,
                   port_out: int = 5556, curve_dir: str | None = None, concurrency: int = 2, patience: float = 60.0,
                   **options: Any) -> Any:
    """Add the vectors of a column of texts to a Ray dataset.

    As any transformation of a dataset, it is done when something asks for its rows; Ray does again what it loses, and
    writes the result (``write_parquet``) in as many files as it likes.

    Args:
        ds: a ``ray.data.Dataset``.
        column: where the texts are.
        output: name of the column that is added: a list of float32 each, null where a text is none or is refused.
        ip, port, port_out, curve_dir: of the server, as seen from Ray's nodes.
        concurrency: clients at a time, each with its requests.
        patience: seconds without a server until a client gives up.
        **options: more for ``map_batches``, for instance ``num_cpus``.
    Returns:
        A dataset, with the rows of ``ds`` in their order within each block.
    """
    import ray.data

    check_host("ip", ip)
    address = {"ip": ip, "port": port, "port_out": port_out, "curve_dir": curve_dir}
    return ds.map_batches(
        DatasetEncoder, fn_constructor_kwargs={
            "address": address, "column": column, "output": output, "patience": patience},
        batch_format="pyarrow", batch_size=CHUNK_RECORDS, compute=ray.data.ActorPoolStrategy(size=concurrency),
        **options)


class DatasetEncoder:
    """Adds a column of vectors to tables, one after the other; Ray makes some of them, each in a process."""

    def __init__(self, address: dict[str, Any], column: str, output: str, patience: float,
                 connect: Callable[..., Client] = BertClient) -> None:
        """
        Raises:
            BertServingError: no server answers, or it gives a vector for each token.
        """
        self.column, self.output = column, output
        client = connect(**address, timeout=int(patience * 1000), check_length=False, check_token_info=False)
        server = probe(client)
        client.timeout = TICK_MS
        self._asker = Asker(client, server.canaries, server.precision, server.num_chunks, patience)

    def __call__(self, table: Any) -> Any:
        """A pyarrow table with one column more."""
        arrow, _ = need_arrow()
        rows: dict[str, list[int]] = {}
        for row, value in enumerate(table.column(self.column).to_pylist()):
            text = text_record(row, value).text if isinstance(value, str) else None
            if text is not None:
                rows.setdefault(text, []).append(row)
        answer = self._asker.ask(list(rows))
        while answer.missing:
            self._asker.step()
        vectors: list[np.ndarray | None] = [None] * len(table)
        for index, places in enumerate(rows.values()):
            if index not in answer.refused:
                for row in places:
                    vectors[row] = answer.vectors[index].astype(np.float32, copy=False)
        return table.append_column(self.output, arrow.array(vectors, arrow.list_(arrow.float32())))
