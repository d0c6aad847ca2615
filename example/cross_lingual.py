"""Chinese, and search across languages: does a sentence find its translation?

It takes a multilingual model; the default one knows English only, and this shows that too.

    bert-serving-start -model_dir /models/multi_cased_L-12_H-768_A-12 -cased_tokenization
    python example/cross_lingual.py

Nothing has to be cut into words: every Chinese character is a token of its own.
"""
import argparse

import numpy as np
from bert_serving.client import BertClient

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("-ip", default="localhost")
parser.add_argument("-port", type=int, default=5555)
parser.add_argument("-port_out", type=int, default=5556)
args = parser.parse_args()

sentences = {
    "English": [
        "The train to the airport leaves at noon.", "My sister plays the piano every evening.",
        "Please close the window, it is cold.", "The doctor says that I should sleep more.",
        "They bought a small house near the sea.", "The cat is hiding under the table.",
        "How much does this book cost?", "It will rain tomorrow.",
        "He lost his keys on the way to work.", "The new bridge will be opened next year."],
    "German": [
        "Der Zug zum Flughafen fährt um zwölf Uhr ab.", "Meine Schwester spielt jeden Abend Klavier.",
        "Bitte mach das Fenster zu, es ist kalt.", "Der Arzt sagt, dass ich mehr schlafen soll.",
        "Sie haben ein kleines Haus am Meer gekauft.", "Die Katze versteckt sich unter dem Tisch.",
        "Wie viel kostet dieses Buch?", "Morgen wird es regnen.",
        "Er hat auf dem Weg zur Arbeit seine Schlüssel verloren.", "Die neue Brücke wird nächstes Jahr eröffnet."],
    "French": [
        "Le train pour l'aéroport part à midi.", "Ma sœur joue du piano tous les soirs.",
        "Ferme la fenêtre, s'il te plaît, il fait froid.", "Le médecin dit que je devrais dormir plus.",
        "Ils ont acheté une petite maison près de la mer.", "Le chat se cache sous la table.",
        "Combien coûte ce livre ?", "Il va pleuvoir demain.",
        "Il a perdu ses clés en allant au travail.", "Le nouveau pont sera ouvert l'année prochaine."],
    "Chinese": [
        "去机场的火车中午出发。", "我妹妹每天晚上弹钢琴。", "请把窗户关上，天气很冷。", "医生说我应该多睡觉。",
        "他们在海边买了一座小房子。", "猫躲在桌子下面。", "这本书多少钱？", "明天会下雨。",
        "他在上班的路上丢了钥匙。", "新桥明年通车。"],
}

vectors, tokens = {}, {}
with BertClient(ip=args.ip, port=args.port, port_out=args.port_out, timeout=60_000) as bc:
    for language, texts in sentences.items():
        rows, tokens[language] = bc.encode(texts, show_tokens=True)
        if rows.ndim != 2:
            parser.error("the server gives a vector for each token, and this needs one for each text: start it without "
                         "-pooling_strategy NONE")
        rows = rows - rows.mean(axis=0)                     # what all sentences of a language have in common
        vectors[language] = rows / np.linalg.norm(rows, axis=1, keepdims=True)

print(f"{sentences['Chinese'][0]} -> {' '.join(tokens['Chinese'][0])}")
english = vectors.pop("English")
for language, rows in vectors.items():
    unknown = np.mean([token == "[UNK]" for pieces in tokens[language] for token in pieces])
    found = (english @ rows.T).argmax(axis=1)
    right = np.mean(found == np.arange(len(found)))
    print(f"English to {language}: {right:.0%} find their translation; {unknown:.0%} of its tokens are unknown")
    print(f"  {sentences['English'][0]} -> {sentences[language][found[0]]}")
