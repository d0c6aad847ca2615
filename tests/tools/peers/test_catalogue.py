import re

from tools.peers import catalogue, engines
from tools.peers.catalogue import PEERS, SERVERS
from tools.peers.environments import ENVIRONMENTS
from tools.peers.models import STEPS
from bert_serving.server.precision import PRECISIONS


def test_each_refers_to_what_there_is():
    for name, peer in PEERS.items():
        assert peer.name == name
        assert peer.environment is None or peer.environment in ENVIRONMENTS
        assert peer.form == "" or peer.form.partition("/")[0] in STEPS
        assert peer.precision in PRECISIONS and peer.hint in (None, "bf16")
        assert peer.backend in ("auto", *engines.WEIGHT_TYPES) and (peer.backend == "auto" or not peer.environment)
    for name, server in SERVERS.items():
        assert server.name == name
        assert server.environment is None or server.environment in ENVIRONMENTS
        assert (server.engine in catalogue.OWN) is (server.environment is None)
    assert {*catalogue.OWN, catalogue.BASE, catalogue.EXACT} <= set(PEERS) and catalogue.ORIGINAL in SERVERS


def test_each_of_ours_has_somebody_to_be_compared_with():
    for own in catalogue.OWN:
        assert [peer for peer in PEERS.values() if peer.precision == PEERS[own].precision and peer.environment]


def test_what_is_not_ours_is_compared_with():
    assert catalogue.OTHERS and not {*catalogue.OWN} & {*catalogue.OTHERS}
    assert {PEERS[name].title.partition(",")[0] for name in {*PEERS} - {*catalogue.OTHERS}} == {"bert-as-service"}


def test_titles_are_different():
    assert len({(peer.title, peer.precision) for peer in PEERS.values()}) == len(PEERS)
    assert not re.search("fp32|bf16|int8", " ".join(peer.title for peer in PEERS.values()))
    assert len({server.title for server in SERVERS.values()}) == len(SERVERS)
