#!/bin/sh
# HTTP from a shell.
#
#     bert-serving-start -http_port 8125
#     sh example/http_curl.sh                            or: sh example/http_curl.sh http://10.0.0.7:8125
set -eu
server="${1:-http://localhost:8125}"

echo "vectors of two sentences, the beginning of the answer:"
curl --silent --fail "$server/encode" -H 'Content-Type: application/json' \
    -d '{"id": 123, "texts": ["hello world", "good day"]}' | cut -c 1-100

echo "the tokens that the model sees:"
curl --silent --fail "$server/tokenize" -H 'Content-Type: application/json' -d '{"texts": ["hello world"]}'

echo
echo "is it ready?"
curl --silent --fail --write-out ' %{http_code}\n' "$server/readyz"
