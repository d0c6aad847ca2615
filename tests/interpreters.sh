#!/usr/bin/env bash
# Runs a package's tests on other Pythons, with the wheels as they would be published; docs/release.md says when.
#
#   tests/interpreters.sh client python3.8 python3.13
#   tests/interpreters.sh server python3.10
#
# The client's are installed alone, without the server. Tests with the default model are left out. What was installed goes
# again at the end. A line for each Python says how it did.
set -euo pipefail
cd "$(dirname "$0")/.."
package=$1
shift
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT

for name in client server; do  # from copies: building leaves traces
    cp -RL "$name" "$folder/$name"
    rm -rf "$folder/$name"/{build,*.egg-info}
    python3 -m pip --quiet wheel --no-deps --wheel-dir "$folder" "$folder/$name"
done
wheels=("$folder"/bert_serving_client-*.whl)
if [ "$package" = server ]; then
    wheels+=("$(echo "$folder"/bert_serving_server-*.whl)[cpu,http,plot]")
fi
mkdir "$folder/tests"
cp -R tests/conftest.py tests/data "tests/$package" "$folder/tests/"
cp -R setup.cfg docs docker plugin "$folder/"

for python in "$@"; do
    environment=$folder/$($python -c 'import sys; print("python%d.%d" % sys.version_info[:2])')
    $python -m venv "$environment"
    "$environment/bin/python" -m pip --quiet install --disable-pip-version-check "${wheels[@]}" pytest pytest-timeout hypothesis
    "$environment/bin/python" -m pip --quiet check
    result=$(cd "$folder" && "$environment/bin/python" -m pytest -q -p no:cacheprovider -m "not model" "tests/$package" 2>&1) \
        || echo "$result" | tail -n 60
    echo "$package on $("$environment/bin/python" -V): $(echo "$result" | tail -n 1)"
    rm -rf "$environment"
done
