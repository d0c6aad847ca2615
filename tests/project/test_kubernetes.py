"""The manifests fit Kubernetes' schemas, each other, and the commands and metrics that they name."""
from __future__ import annotations

import contextlib
import io
import re
from pathlib import Path

import kubernetes_validate
import pytest
import yaml
from bert_serving.server.config import ServerConfig, get_args_parser
from bert_serving.server.join import get_worker_parser
from bert_serving.server.proxy.metrics import PREFIX, QUEUE

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "docker/kubernetes"
PAGE = (ROOT / "docs/kubernetes.md").read_text(encoding="utf-8")
VERSIONS = ("1.27", "1.37")

MANIFESTS = [manifest for path in sorted(FOLDER.glob("*.yaml"))
             for manifest in yaml.safe_load_all(path.read_text(encoding="utf-8"))]
BY_NAME = {(manifest["kind"], manifest["metadata"]["name"]): manifest for manifest in MANIFESTS}
SERVER = BY_NAME["StatefulSet", "bert-serving"]
WORKERS = BY_NAME["Deployment", "bert-serving-0-workers"]
SCALER = BY_NAME["HorizontalPodAutoscaler", "bert-serving-0-workers"]
# What the image's entry point puts before the arguments; test_docker.py has the entry point.
ALWAYS = ["-host", "0.0.0.0", "-http_port", "8125"]
LAST_SECONDS = 10  # what stopping takes beyond -drain_timeout and preStop, at most


def pod(workload):
    return workload["spec"]["template"]["spec"]


def container(workload):
    (only,) = pod(workload)["containers"]
    return only


def server_options():
    return ServerConfig.from_args(get_args_parser({}).parse_args(ALWAYS + container(SERVER)["args"]))


def worker_options():
    return get_worker_parser().parse_args(container(WORKERS)["args"])


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("name", BY_NAME, ids="-".join)
def test_schema(name, version):
    kubernetes_validate.validate(BY_NAME[name], version, strict=True)


def test_the_schema_bites():
    wrong = yaml.safe_load(yaml.safe_dump(SERVER))
    wrong["spec"]["template"]["spec"]["terminationGracePeriod"] = 5
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(wrong, VERSIONS[-1], strict=True)


def test_arguments():
    server, worker = server_options(), worker_options()
    assert container(WORKERS)["command"] == ["bert-serving-worker"]
    assert server.num_worker == 0 and worker.num_worker >= 1
    for variable in container(WORKERS)["env"]:
        option = variable["name"].removeprefix("BERT_SERVING_").lower()
        assert hasattr(server, option) and hasattr(worker, option)


def test_a_wrong_argument_is_noticed():
    with pytest.raises(SystemExit), contextlib.redirect_stderr(io.StringIO()):
        get_worker_parser().parse_args([*container(WORKERS)["args"], "-no_such_option"])


def test_ports_agree():
    """Options, container, services, probes, policy, and what the workers connect to."""
    options, named = server_options(), {port["name"]: port["containerPort"] for port in container(SERVER)["ports"]}
    assert named == {"requests": options.port, "results": options.port_out, "workers": options.worker_port,
                     "http": options.http_port}
    for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
        assert container(SERVER)[probe]["httpGet"]["port"] == "http"
    seen = set()
    for (kind, name), manifest in BY_NAME.items():
        if kind == "Service":
            for port in manifest["spec"]["ports"]:
                seen.add(port["targetPort"])
                # Clients have these numbers, unless told otherwise; HTTP has a name, and the number that goes with it.
                assert port["port"] == (80 if port["targetPort"] == "http" else named[port["targetPort"]]), name
        elif kind == "NetworkPolicy":
            allowed = {port["port"] for rule in manifest["spec"]["ingress"] for port in rule["ports"]}
            assert allowed == set(named)
    assert seen == set(named)
    host, port = worker_options().connect
    service = BY_NAME["Service", host]
    assert port == service["spec"]["ports"][0]["port"] == options.worker_port
    assert service["spec"]["publishNotReadyAddresses"], "a server is not ready before it has workers"


def test_selectors_find_pods():
    pods = [{**workload["spec"]["template"]["metadata"]["labels"], "statefulset.kubernetes.io/pod-name": name}
            for workload, name in ((SERVER, "bert-serving-0"), (WORKERS, None))]
    for workload, labels in zip((SERVER, WORKERS), pods):
        assert workload["spec"]["selector"]["matchLabels"].items() <= labels.items()
    for (kind, name), manifest in BY_NAME.items():
        if kind == "Service":
            assert [manifest["spec"]["selector"].items() <= labels.items() for labels in pods] == [True, False], name
        elif kind == "NetworkPolicy":
            assert manifest["spec"]["podSelector"]["matchLabels"].items() <= pods[0].items()
            (source,) = [rule["from"][0]["podSelector"] for rule in manifest["spec"]["ingress"] if "from" in rule]
            assert source["matchLabels"].items() <= pods[1].items()
    assert SERVER["spec"]["serviceName"] == "bert-serving"
    assert BY_NAME["Service", "bert-serving"]["spec"]["clusterIP"] == "None"


def test_probes(echo_server):
    """Their paths are the real ones, and answer."""
    from urllib.request import urlopen
    paths = {container(SERVER)[probe]["httpGet"]["path"]
             for probe in ("startupProbe", "livenessProbe", "readinessProbe")}
    assert paths == {"/livez", "/readyz"}
    for path in paths:
        assert urlopen(f"http://127.0.0.1:{echo_server.http_port}{path}", timeout=20).status == 200


@pytest.mark.parametrize("workload, options", [(SERVER, server_options), (WORKERS, worker_options)],
                         ids=["server", "workers"])
def test_there_is_time_to_drain(workload, options):
    hooks = container(workload).get("lifecycle", {}).get("preStop", {}).get("exec", {}).get("command", ["sleep", "0"])
    assert hooks[0] == "sleep"
    least = float(hooks[1]) + options().drain_timeout + LAST_SECONDS
    assert pod(workload)["terminationGracePeriodSeconds"] >= least


@pytest.mark.parametrize("workload", [SERVER, WORKERS], ids=["server", "workers"])
def test_as_little_as_possible_is_allowed(workload):
    image = (ROOT / "docker/Dockerfile").read_text(encoding="utf-8")
    assert pod(workload)["securityContext"]["runAsNonRoot"]
    assert f"USER {pod(workload)['securityContext']['runAsUser']}\n" in image
    inside = container(workload)["securityContext"]
    assert inside["readOnlyRootFilesystem"] and not inside["allowPrivilegeEscalation"]
    assert inside["capabilities"] == {"drop": ["ALL"]}
    assert container(workload)["resources"].keys() == {"requests", "limits"}
    mounted = {mount["name"]: mount["mountPath"] for mount in container(workload)["volumeMounts"]}
    assert mounted.keys() == {volume["name"] for volume in pod(workload)["volumes"]}
    assert mounted["tmp"] == "/tmp" and f'VOLUME ["{mounted["cache"]}"]' in image, "the rest cannot be written to"
    options = server_options() if workload is SERVER else worker_options()
    assert options.curve_dir == mounted["keys"]


def secrets():
    """Name of each secret in the manifests -> the files that are taken from it; None: all."""
    found = {}
    for workload in (SERVER, WORKERS):
        for volume in pod(workload)["volumes"]:
            if "secret" in volume:
                found[volume["secret"]["secretName"]] = None
            for source in volume.get("projected", {}).get("sources", []):
                found[source["secret"]["name"]] = {item["key"] for item in source["secret"]["items"]}
    return found


def test_secrets_are_made_by_the_commands_of_the_page():
    made = {name: set(re.findall(r"--from-file=(?:\S+/)?([^/\s=]+)", files))
            for name, files in re.findall(r"kubectl create secret generic (\S+)(.*)", PAGE)}
    assert made.keys() == secrets().keys()
    for name, files in secrets().items():
        assert files is None or files == made[name]
    assert made["bert-serving-worker-keys"] == {"client.key_secret", "server.key"}
    assert server_options().api_key_file == "/api-keys/" + "keys" and made["bert-serving-api-keys"] == {"keys"}


def test_the_metric_is_a_real_one(echo_server):
    """The autoscaler's, the adapter's rule, and what /metrics says."""
    from urllib.request import urlopen
    (metric,) = SCALER["spec"]["metrics"]
    name = metric["external"]["metric"]["name"]
    assert name == PREFIX + QUEUE["seconds"][0]
    page = urlopen(f"http://127.0.0.1:{echo_server.http_port}/metrics", timeout=20).read().decode()
    assert re.search(rf"^{name} [0-9.]+$", page, re.MULTILINE)
    scrape, adapter = map(yaml.safe_load, re.findall(r"^```yaml\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL))
    (rule,) = adapter["externalRules"]
    assert rule["name"] == {"matches": name, "as": name} and rule["seriesQuery"].startswith(name + "{")
    (job,) = scrape["scrape_configs"]
    labels = {rule.get("target_label") for rule in job["relabel_configs"]}
    assert metric["external"]["metric"]["selector"]["matchLabels"].keys() <= labels
    keep = job["relabel_configs"][0]
    assert keep["regex"].split(";") == [*(SERVER["spec"]["template"]["metadata"]["labels"][f"app.kubernetes.io/{key}"]
                                          for key in ("name", "component")), "http"]


def test_the_autoscaler_scales_the_workers():
    assert SCALER["spec"]["scaleTargetRef"] == {"apiVersion": WORKERS["apiVersion"], "kind": WORKERS["kind"],
                                                "name": WORKERS["metadata"]["name"]}
    assert "replicas" not in WORKERS["spec"], "it would undo what was scaled"


def test_the_image_is_built_by_the_command_of_the_page():
    images = {container(workload)["image"] for workload in (SERVER, WORKERS)}
    assert images == set(re.findall(r"docker build .* -t (\S+) \.", PAGE))
