#!/usr/bin/env bash
# google-auth-library 10.9.1 (Node.js) refuses a valid token if its key was published after the last fetch.
# A client does not fetch the certificates again for a key id that it does not know. It keeps them for the max-age of
# the answer, and does not subtract the Age, which is the time that the answer has already spent in a cache, as
# RFC 9111, section 4.2, does. So one process can refuse, for up to max-age, what a newer process accepts.
# Seen: with "max-age=21155" and "age: 21150", the next fetch is in 21155 s, and the new key's token is refused with
# "No pem found for envelope". A new client accepts a token of the same key.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
npm install --silent --no-audit --no-fund --prefix "$folder" google-auth-library@10.9.1
cd "$folder"
cat > verify.js <<'JAVASCRIPT'
const assert = require("node:assert");
const crypto = require("node:crypto");
const http = require("node:http");
const { OAuth2Client } = require("google-auth-library");

const keys = Object.fromEntries(
  ["old", "new"].map((id) => [id, crypto.generateKeyPairSync("rsa", { modulusLength: 2048 })]),
);
let published = ["old"];
let fetches = 0;

const server = http.createServer((_, response) => {
  fetches += 1;
  response.writeHead(200, {
    "content-type": "application/json",
    "cache-control": "public, max-age=21155, must-revalidate",
    age: "21150",
  });
  const pems = published.map((id) => [id, keys[id].publicKey.export({ type: "spki", format: "pem" })]);
  response.end(JSON.stringify(Object.fromEntries(pems)));
});

function token(kid) {
  const now = Math.floor(Date.now() / 1000);
  const claims = { iss: "https://accounts.google.com", aud: "shop", sub: "1", iat: now, exp: now + 3600 };
  const parts = [{ alg: "RS256", typ: "JWT", kid }, claims];
  const signed = parts.map((part) => Buffer.from(JSON.stringify(part)).toString("base64url")).join(".");
  const signature = crypto.sign("RSA-SHA256", Buffer.from(signed), keys[kid].privateKey);
  return `${signed}.${signature.toString("base64url")}`;
}

async function answer(client, kid) {
  try {
    await client.verifyIdToken({ idToken: token(kid), audience: "shop" });
    return "accepted";
  } catch (error) {
    return error.message.split(":")[0];
  }
}

server.listen(0, "127.0.0.1", async () => {
  const url = `http://127.0.0.1:${server.address().port}/`;
  const options = { endpoints: { oauth2FederatedSignonPemCertsUrl: url } };
  const client = new OAuth2Client(options);
  const first = await answer(client, "old");
  const seconds = (client.certificateExpiry - Date.now()) / 1000;
  published = ["old", "new"];
  const second = await answer(client, "new");
  console.log(`old key: ${first}; the next fetch is in ${Math.round(seconds)} s`);
  console.log(`new key: ${second}, after ${fetches} fetch`);
  assert.deepStrictEqual([first, second, fetches], ["accepted", "No pem found for envelope", 1]);
  assert(seconds > 21000, "the behaviour has changed");
  const third = await answer(new OAuth2Client(options), "new");
  console.log(`new key, new client: ${third}`);
  assert.strictEqual(third, "accepted");
  server.close();
});
JAVASCRIPT
node verify.js
