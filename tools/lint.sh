#!/bin/sh
# Every check that needs no running server. All of them run, so that one failure does not hide another; `make lint` sets
# the path.
set -u
cd "$(dirname "$0")/.."
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
failed=""

check() {
  name=$1
  shift
  if "$@" >"$scratch/output" 2>&1; then
    printf '  ok    %s\n' "$name"
  else
    printf '  FAIL  %s\n' "$name"
    sed 's/^/        /' "$scratch/output"
    failed="$failed$name; "
  fi
}

released_protos() {
  if [ ! -f proto/released.binpb ]; then
    echo "proto/released.binpb is missing: make proto-release"
    return 1
  fi
  buf breaking proto --against proto/released.binpb
}

generated_code() {
  tools/proto.sh "$scratch/pb" || return 1
  diff -r --brief --exclude=__pycache__ proto/afdp/pb "$scratch/pb" || {
    echo "generated code is not what the .proto files give: make proto"
    return 1
  }
}

check "ruff: style" ruff check .
check "ruff: format" ruff format --check .
check "mypy: types" mypy
check "import-linter: import rules" lint-imports
check "generated code is current" generated_code
check "the table of docs/access.md is current" python tools/access.py --check
check "buf: style of the protos" buf lint proto
check "buf: no breaking change since the release" released_protos

if [ -n "$failed" ]; then
  echo "failed: ${failed%; }"
  exit 1
fi
