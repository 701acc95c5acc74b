#!/usr/bin/env bash
# Installs Headrace into a virtual environment of an image that is being built, and leaves the image's torch as it is.
#
#   install.sh SOURCE EXTRAS
#
# SOURCE is the checkout, EXTRAS are those of pyproject.toml, separated by commas. The environment is VIRTUAL_ENV.
set -euo pipefail
source=$1 extras=$2
python=$VIRTUAL_ENV/bin/python
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# Version and place of torch, for a Python that has it.
describe_torch() {
    "$1" -c 'import torch; print(torch.__version__, torch.__file__)'
}

if torch=$(describe_torch python3 2>/dev/null); then
    echo "keeping torch $torch"
    # The base's own pip serves, where it has one: ensurepip is not in all of them.
    own_pip=$(python3 -c 'import pip; print("--without-pip")' 2>/dev/null || true)
    python3 -m venv --system-site-packages ${own_pip:+"$own_pip"} "$VIRTUAL_ENV"
    # Another torch than this one is refused before it is downloaded.
    echo "torch==${torch%% *}" >"$work/constraints.txt"
    cat ${PIP_CONSTRAINT:+"$PIP_CONSTRAINT"} </dev/null >>"$work/constraints.txt"
else
    torch=
    python3 -m venv "$VIRTUAL_ENV"
    cp "$source/constraints.txt" "$work/constraints.txt"
    extras+=,torchaudio
fi
unset PIP_CONSTRAINT

# pip builds in the source's folder, which is read-only here.
mkdir "$work/headrace"
cp -r "$source"/{pyproject.toml,README.md,LICENSE,store,featurize,train,cli} "$work/headrace"
"$python" -m pip install --constraint "$work/constraints.txt" "$work/headrace[$extras]"

if [[ -n $torch && $(describe_torch "$python") != "$torch" ]]; then
    echo "install.sh: torch was $torch and is $(describe_torch "$python") now: choose EXTRAS that keep it" >&2
    exit 1
fi
install -m 755 "$source/deploy/container/headrace-health" "$VIRTUAL_ENV/bin/"
install -d -m 775 -o 10001 -g 0 "$HOME"
