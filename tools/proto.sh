#!/bin/sh
# Regenerates everything that is made from the .proto files, into the folder named (default proto/afdp/pb).
# Needs buf, the betterproto2 plugin and ruff on the path: `make proto` sets it.
set -eu
out=${1:-proto/afdp/pb}
site=$(python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
ln -sfn "$site" proto-deps
rm -rf "$out"
buf build proto --as-file-descriptor-set --path proto/afdp --output "/tmp/afdp-descriptors.$$.binpb"
buf generate proto --path proto/afdp --template "{\"version\":\"v2\",\"plugins\":[{\"local\":\"protoc-gen-python_betterproto2\",\"out\":\"$out\",\"strategy\":\"all\",\"opt\":[\"client_generation=none\",\"server_generation=none\"]}]}" 2>/dev/null
mv "/tmp/afdp-descriptors.$$.binpb" "$out/descriptors.binpb"
python tools/generate_stubs.py "$out/descriptors.binpb" "$out/stubs"
ruff format --quiet --isolated --line-length 120 "$out/stubs"
