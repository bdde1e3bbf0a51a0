// The official TypeScript SDK as an agent: lists, reads, asks for a write, waits for a person,
// and repeats the write. Each step is a line of JSON; a line on standard input goes on.
//
//   node client.mjs old|new '{"command": …, "args": […], "path": …}'
//   node client.mjs old|new '{"url": …, "key": …, "path": …}'
import { createInterface } from "node:readline";
import { pathToFileURL } from "node:url";

const [generation, text] = process.argv.slice(2);
const { command, args, env, url, key, read, write } = JSON.parse(text);
const modules = process.env.TALLY_MCP_NODE_MODULES;
const load = (path) => import(pathToFileURL(`${modules}/@modelcontextprotocol/${path}`));

const paths =
  generation === "old"
    ? ["sdk/dist/esm/client/index.js", "sdk/dist/esm/client/stdio.js", "sdk/dist/esm/client/streamableHttp.js"]
    : ["client/dist/index.mjs", "client/dist/stdio.mjs", "client/dist/index.mjs"];
const [{ Client }, { StdioClientTransport }, { StreamableHTTPClientTransport }] = await Promise.all(
  paths.map(load),
);
const options =
  generation === "old" ? {} : { versionNegotiation: { mode: { pin: "2026-07-28" } } };
const client = new Client({ name: "an agent", version: "1" }, options);
const transport = url
  ? new StreamableHTTPClientTransport(new URL(url), {
      requestInit: { headers: { Authorization: `Bearer ${key}` } },
    })
  : new StdioClientTransport({ command, args, env, stderr: "inherit" });

const lines = createInterface({ input: process.stdin })[Symbol.asyncIterator]();
const say = (step) => process.stdout.write(`${JSON.stringify(step)}\n`);

await client.connect(transport);
const { tools } = await client.listTools();
say({ tools: tools.map((tool) => tool.name) });
say(await client.callTool({ name: "read_text_file", arguments: { path: read } }));
const change = { name: "write_file", arguments: { path: write, content: `by ${generation}` } };
say(await client.callTool(change));
await lines.next();
say(await client.callTool(change));
await lines.next();
await client.close();
process.exit(0);
