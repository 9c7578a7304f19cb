// A Worker that reads and writes its KV bindings as it is told, so that tests see what a Worker sees.
//   PUT /KEY?ns=BINDING[&meta=JSON][&ttl=SECONDS]   DELETE /KEY?ns=BINDING   GET /KEY?ns=BINDING   GET /?ns=BINDING&list
export default {
  async fetch(request, env) {
    const url = new URL(request.url);
    const query = url.searchParams;
    const namespace = env[query.get("ns")];
    const key = decodeURIComponent(url.pathname.slice(1));
    if (request.method === "PUT") {
      const options = {};
      if (query.has("meta")) options.metadata = JSON.parse(query.get("meta"));
      if (query.has("ttl")) options.expirationTtl = Number(query.get("ttl"));
      await namespace.put(key, await request.arrayBuffer(), options);
      return new Response("stored");
    }
    if (request.method === "DELETE") {
      await namespace.delete(key);
      return new Response("deleted");
    }
    if (query.has("list")) {
      const keys = [];
      let page = { cursor: undefined, list_complete: false };
      while (!page.list_complete) {
        page = await namespace.list({ cursor: page.cursor });
        keys.push(...page.keys);
      }
      return Response.json(keys);
    }
    const { value, metadata } = await namespace.getWithMetadata(key, "arrayBuffer");
    const headers = { "x-metadata": JSON.stringify(metadata) };
    return new Response(value, { status: value === null ? 404 : 200, headers });
  },
};
