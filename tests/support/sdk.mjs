// Uses every call of the official Node SDK that concerns Workers KV; finds the server by its environment alone.
import assert from "node:assert/strict";
import Cloudflare, { toFile } from "cloudflare";

const account_id = process.env.CLOUDFLARE_ACCOUNT_ID;
const client = new Cloudflare({ maxRetries: 0 });
const { namespaces } = client.kv;

const made = await namespaces.create({ account_id, title: "sdk" });
const at = { account_id };
const titles = [];
for await (const one of namespaces.list(at)) titles.push(one.title);
assert.ok(titles.includes("sdk"));
assert.equal((await namespaces.get(made.id, at)).title, "sdk");
await namespaces.update(made.id, { account_id, title: "renamed" });
assert.equal((await namespaces.get(made.id, at)).title, "renamed");

const inside = { account_id, namespace_id: made.id };
await namespaces.values.update("a/b c", { ...inside, value: await toFile(Buffer.from([0, 255, 254]), "value") });
const raw = await namespaces.values.get("a/b c", inside);
assert.deepEqual([...new Uint8Array(await raw.arrayBuffer())], [0, 255, 254]);

await namespaces.bulkUpdate(made.id, {
  account_id,
  body: [
    { key: "k1", value: "1", metadata: { n: 1 } },
    { key: "k2", value: "AP8=", base64: true, expiration_ttl: 600 },
  ],
});
const keys = {};
for await (const key of namespaces.keys.list(made.id, at)) keys[key.name] = key;
assert.deepEqual(Object.keys(keys).sort(), ["a/b c", "k1", "k2"]);
assert.deepEqual(keys.k1.metadata, { n: 1 });
assert.ok(keys.k2.expiration > Date.now() / 1000);
assert.deepEqual(await namespaces.metadata.get("k1", inside), { n: 1 });
const read = await namespaces.bulkGet(made.id, { account_id, keys: ["k1", "none"] });
assert.equal(read.values.k1, "1");
assert.equal(read.values.none, null);
await namespaces.values.delete("k1", inside);
await namespaces.bulkDelete(made.id, { account_id, body: ["k2", "a/b c"] });
const left = [];
for await (const key of namespaces.keys.list(made.id, at)) left.push(key.name);
assert.deepEqual(left, []);
await namespaces.delete(made.id, at);
console.log("done");
