#!/bin/sh
# Starts the server with what the container was given: options of bert-serving-start; a number alone, in front of them,
# is the number of workers, as is $NUM_WORKER. A model that is mounted at /model is served.
set -eu

case "${1:-}" in
    [1-9]*) NUM_WORKER=$1; shift ;;
esac
if [ -n "$(ls -A "${MODEL_DIR:=/model}" 2>/dev/null)" ]; then
    set -- -model_dir "$MODEL_DIR" "$@"
fi
if [ -n "${NUM_WORKER:-}" ]; then
    set -- -num_worker "$NUM_WORKER" "$@"
fi
# exec: signals must reach the server. 0.0.0.0: which ports the outside sees is decided by docker run -p.
exec bert-serving-start -host 0.0.0.0 -http_port 8125 "$@"
