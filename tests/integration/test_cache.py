"""The cache of frozen graphs beside servers: what one uses stays, however much is made and pruned beside it."""
import os
import signal

from bert_serving.server.engine.command import main as model_command
from bert_serving.server.engine.eviction import entries

from ..server.engine.conftest import TinyBert
from .conftest import eventually


def test_what_a_server_uses_stays_until_it_ends(serve, tmp_path, capsys):
    graphs = tmp_path / "graphs"
    model = TinyBert().write_hugging_face(tmp_path / "model")
    options = ["-model_dir", str(model), "-graph_tmp_dir", str(graphs), "-cpu", "-num_worker", "1", "-cache_mb", "1",
               "-engine", "lite"]
    prune = ["cache", "prune", "-graph_tmp_dir", str(graphs)]
    server = serve(*options).ready(120)
    used, = entries(graphs)
    assert used.in_use
    assert model_command(prune) == 0 and used.path.is_dir()
    assert "in use" in capsys.readouterr().out.splitlines()[0]

    worker, = server.workers()
    os.kill(worker, signal.SIGKILL)
    with server.client() as client:
        assert client.encode(["the fox"]).shape == (1, 32), "the worker that was killed is back, with the same files"

    again = serve(*options).ready(60)
    assert server.stop() == 0 and model_command(prune) == 0
    assert used.path.is_dir(), "the other server has it"
    again.process.send_signal(signal.SIGKILL)
    again.process.wait(20)
    assert eventually(lambda: not entries(graphs)[0].in_use), "a lock goes with its process"
    assert model_command(prune) == 0
    assert os.listdir(graphs) == []


def test_a_new_graph_takes_the_place_of_one_that_nobody_uses(serve, tmp_path):
    graphs = tmp_path / "graphs"
    # 1.6 MB each, so that the limit of 2 MB holds one.
    model = TinyBert(hidden_size=64, intermediate_size=1600).write_hugging_face(tmp_path / "model")
    paths = []
    for layer in ("-1", "-2"):
        server = serve("-model_dir", str(model), "-graph_tmp_dir", str(graphs), "-cpu", "-num_worker", "1", "-cache_mb",
                       "2", "-engine", "lite", "-pooling_layer", layer).ready(120)
        entry, = entries(graphs)
        paths.append(entry.path)
        line = "removed the 1 least recently used converted model to keep to -cache_mb"
        assert (line in server.log) == (layer == "-2")
        assert server.stop() == 0
    assert paths[0] != paths[1]
