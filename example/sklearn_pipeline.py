"""scikit-learn: a transformer that asks the server, as the first step of a pipeline.

    bert-serving-start
    pip install scikit-learn
    python example/sklearn_pipeline.py
"""
import argparse
from pathlib import Path

from bert_serving.client import BertClient

try:
    from sklearn.base import BaseEstimator, TransformerMixin
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import classification_report
    from sklearn.model_selection import train_test_split
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler
except ImportError as error:
    raise SystemExit(f"This example needs scikit-learn ({error}): pip install scikit-learn") from error

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("-ip", default="localhost")
parser.add_argument("-port", type=int, default=5555)
parser.add_argument("-port_out", type=int, default=5556)
parser.add_argument("-num_title", type=int, default=1584, help="use so many of the news titles")
args = parser.parse_args()


class BertVectors(TransformerMixin, BaseEstimator):
    """Sentences to vectors. There is nothing to fit: the server's model stays as it is."""

    def __init__(self, ip="localhost", port=5555, port_out=5556):
        self.ip = ip
        self.port = port
        self.port_out = port_out

    def fit(self, texts, labels=None):
        return self

    def transform(self, texts):
        # A connection costs milliseconds, and an estimator without one can be copied and pickled.
        with BertClient(ip=self.ip, port=self.port, port_out=self.port_out, timeout=600_000) as bc:
            vectors = bc.encode(list(texts))
        if vectors.ndim != 2:
            parser.error("the server gives a vector for each token, and this needs one for each text: start it without "
                         "-pooling_strategy NONE")
        return vectors

    def __sklearn_is_fitted__(self):
        return True


news = Path(__file__).parent / "data" / "news_titles.tsv"
rows = [line.split("\t") for line in news.read_text(encoding="utf-8").splitlines()]
labels, titles = zip(*rows[::len(rows) // args.num_title])
train_titles, test_titles, train_labels, test_labels = train_test_split(titles, labels, test_size=0.25, random_state=0,
                                                                        stratify=labels)
model = make_pipeline(BertVectors(args.ip, args.port, args.port_out), StandardScaler(),
                      LogisticRegression(C=0.01, max_iter=1000))
model.fit(train_titles, train_labels)
print(classification_report(test_labels, model.predict(test_titles), zero_division=0))
for title in ("Shares rise as the central bank keeps rates low", "A new phone with a curved screen"):
    print(f"{title} -> {model.predict([title])[0]}")
