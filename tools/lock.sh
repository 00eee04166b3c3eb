#!/bin/sh
# Writes requirements/*.txt anew from pyproject.toml: exact versions with hashes, for every platform, naming no registry.
#
# dev.txt is resolved first and binds the others, so that each image runs the versions that were tested. Versions that
# are locked already stay where they still fit; `tools/lock.sh --upgrade` takes the newest instead.
set -eu
cd "$(dirname "$0")/.."
uv=.venv/bin/uv
out=requirements

compile() {
  target=$1
  shift
  "$uv" pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-emit-find-links \
    --no-header --output-file "$out/$target" "$@"
}

compile dev.txt pyproject.toml --extra dev --extra hsm --extra mirror --extra redis --extra secrets --extra vault --group build --group supply --group test "$@"
compile run.txt pyproject.toml --extra dev --group build --constraint "$out/dev.txt" "$@"
compile signer.txt pyproject.toml --extra signer --extra hsm --constraint "$out/dev.txt" "$@"
compile transparency.txt pyproject.toml --extra transparency --extra mirror --extra secrets --constraint "$out/dev.txt" "$@"
compile notary.txt pyproject.toml --extra notary --extra redis --extra secrets --constraint "$out/dev.txt" "$@"
compile metadata.txt pyproject.toml --extra metadata --extra redis --extra secrets --constraint "$out/dev.txt" "$@"
for service in gateway; do
  compile "$service.txt" pyproject.toml --extra "$service" --constraint "$out/dev.txt" "$@"
done
compile build.txt --group build --constraint "$out/dev.txt" "$@"
compile supply.txt --group build --group supply --constraint "$out/dev.txt" "$@"
compile uv.txt "$out/uv.in" "$@"

if grep -nE 'https?://|--(extra-)?index-url|--find-links' "$out"/*.txt; then
  echo "the lines above name a registry" >&2
  exit 1
fi
