// Verifies a Sigstore bundle with @sigstore/verify, by the trusted root and one key, with its own defaults: a log entry
// and a timestamp, both trusted. Exit: 0 verified, 1 not verified.
//
//   NODE_PATH=.../node_modules node sigstore_verify.cjs bundle.json trusted_root.json key.pem
"use strict";
const { createHash, createPublicKey } = require("node:crypto");
const { readFileSync } = require("node:fs");
const { bundleFromJSON } = require("@sigstore/bundle");
const { TrustedRoot } = require("@sigstore/protobuf-specs");
const { Verifier, toSignedEntity, toTrustMaterial } = require("@sigstore/verify");

const [bundleFile, rootFile, keyFile] = process.argv.slice(2);
const json = (file) => JSON.parse(readFileSync(file, "utf8"));
const spki = createPublicKey(readFileSync(keyFile)).export({ type: "spki", format: "der" });
const hint = createHash("sha256").update(spki).digest("base64");
const trust = toTrustMaterial(TrustedRoot.fromJSON(json(rootFile)), { [hint]: { rawBytes: spki } });

// What is no bundle, or no timestamp, it answers with errors of any kind: it has refused it all the same.
try {
  new Verifier(trust).verify(toSignedEntity(bundleFromJSON(json(bundleFile))));
} catch (error) {
  console.error(`not verified: ${error.name}: ${error.message}`);
  process.exit(1);
}
