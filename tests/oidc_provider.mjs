// An OpenID provider on loopback: real discovery, keys and tokens. The form of a token request may have `claims`, JSON that
// goes into the token. Lines on standard input: "rotate" signs with a new key, which is published from then on beside the
// others; "withdraw" publishes no other key any more. Each is answered by a line; the first line is the issuer.
//
//   node oidc_provider.mjs .../node_modules/oauth2-mock-server/dist/index.mjs [PORT]
import { createInterface } from "node:readline";

const [library, port] = process.argv.slice(2);
const { Events, OAuth2Server } = await import(library);
const server = new OAuth2Server();
const keys = server.issuer.keys;

let current = (await keys.generate("RS256")).kid;
let withdrawn = new Set();
const all = keys.toJSON.bind(keys);
const named = keys.get.bind(keys);
keys.get = (kid) => named(kid ?? current);
keys.toJSON = () => all().filter(({ kid }) => !withdrawn.has(kid));

server.service.on(Events.BeforeTokenSigning, (token, request) => {
  Object.assign(token.payload, JSON.parse(request.body.claims ?? "{}"));
});

await server.start(Number(port ?? 0), "127.0.0.1");
server.issuer.url = `http://127.0.0.1:${server.address().port}`;
console.log(server.issuer.url);

const commands = {
  rotate: async () => (current = (await keys.generate("ES256")).kid),
  withdraw: () => (withdrawn = new Set(all().map(({ kid }) => kid).filter((kid) => kid !== current))),
};
for await (const line of createInterface({ input: process.stdin })) {
  await commands[line]();
  console.log("done");
}
await server.stop();
