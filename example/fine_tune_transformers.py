"""Fine-tune a classifier of news titles with Hugging Face's transformers, and save it for the server.

    pip install 'transformers[torch]'          # in an environment of its own: the server needs none of that
    python example/fine_tune_transformers.py -directory /tmp/news-classifier
    bert-serving-start -model_dir /tmp/news-classifier
    python example/classify.py -directory /tmp/news-classifier

Left alone it trains a tiny DistilBERT from scratch, tokenizer included, and needs no network.
With -base distilbert-base-uncased, or another model of the Hub, it tunes that one.
"""
import argparse
from pathlib import Path

import numpy as np
from tokenizers import BertWordPieceTokenizer
from transformers import (AutoModelForSequenceClassification, AutoTokenizer, BertTokenizerFast, DistilBertConfig,
                          DistilBertForSequenceClassification, Trainer, TrainingArguments)

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("-directory", type=Path, required=True, help="write the model here")
parser.add_argument("-base", help="name or directory of the model to tune; default: a tiny one, from scratch")
parser.add_argument("-num_epoch", type=int, default=10)
args = parser.parse_args()

# ---- titles, every fifth of them kept for the test -------------------------------------------------------------------

news = Path(__file__).parent / "data" / "news_titles.tsv"
classes, titles = zip(*(line.split("\t") for line in news.read_text(encoding="utf-8").splitlines()))
labels = sorted(set(classes))
names = dict(enumerate(labels))
order = np.random.default_rng(0).permutation(len(titles))
test, train = np.split(order, [len(titles) // 5])

# ---- model and tokenizer ---------------------------------------------------------------------------------------------

if args.base:
    tokenizer = AutoTokenizer.from_pretrained(args.base)
    model = AutoModelForSequenceClassification.from_pretrained(
        args.base, num_labels=len(labels), id2label=names, label2id={name: number for number, name in names.items()})
else:
    learned = BertWordPieceTokenizer()
    learned.train_from_iterator([titles[i] for i in train], 2000, show_progress=False)
    tokenizer = BertTokenizerFast(tokenizer_object=learned._tokenizer, model_max_length=32)
    model = DistilBertForSequenceClassification(DistilBertConfig(
        vocab_size=len(tokenizer), dim=64, n_layers=2, n_heads=2, hidden_dim=256, max_position_embeddings=32,
        id2label=names, label2id={name: number for number, name in names.items()}))


def examples(indices):
    pieces = tokenizer([titles[i] for i in indices], truncation=True)["input_ids"]
    return [{"input_ids": ids, "labels": labels.index(classes[i])} for ids, i in zip(pieces, indices)]


# ---- fine-tuning -----------------------------------------------------------------------------------------------------

trainer = Trainer(
    model=model, processing_class=tokenizer, train_dataset=examples(train), args=TrainingArguments(
        output_dir=str(args.directory / "training"), num_train_epochs=args.num_epoch, per_device_train_batch_size=32,
        learning_rate=2e-5 if args.base else 1e-3, save_strategy="no", report_to=[], logging_steps=100,
        disable_tqdm=True, seed=0))
trainer.train()
odds = trainer.predict(examples(test)).predictions
targets = [labels.index(classes[i]) for i in test]
print(f"accuracy on {len(test)} titles that it was not tuned on: {np.mean(odds.argmax(1) == targets):.2f}")

model.save_pretrained(args.directory)                                            # config.json, model.safetensors
tokenizer.save_pretrained(args.directory)                                        # tokenizer.json, tokenizer_config.json
print(f"wrote {args.directory}: {', '.join(sorted(path.name for path in args.directory.glob('*.*')))}")
