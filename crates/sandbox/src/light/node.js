// Runs an agent in a process of its own. What the host and it say to each other are lines of JSON.
const fs = require("node:fs");

let rest = Buffer.alloc(0);
function hear() {
  for (;;) {
    const end = rest.indexOf(10);
    if (end >= 0) {
      const line = rest.subarray(0, end).toString("utf8");
      rest = rest.subarray(end + 1);
      return JSON.parse(line);
    }
    const chunk = Buffer.alloc(65536);
    const bytes = fs.readSync(0, chunk);
    if (bytes === 0) process.exit(0);
    rest = Buffer.concat([rest, chunk.subarray(0, bytes)]);
  }
}

function say(what) {
  const line = Buffer.from(JSON.stringify(what) + "\n");
  for (let at = 0; at < line.length; ) at += fs.writeSync(1, line, at);
}

class ToolError extends Error {
  constructor(code, message) {
    super(message);
    this.name = "ToolError";
    this.code = code;
  }
}

function callTool(tool, args = {}) {
  say({ call: { tool, args: JSON.stringify(args) } });
  const answer = hear();
  if ("failed" in answer) {
    const { code, message } = JSON.parse(answer.failed);
    throw new ToolError(code, message);
  }
  return JSON.parse(answer.given);
}

function fetch() {
  throw new Error("PermissionError: there is no network in a LIGHT sandbox");
}

function describe(error) {
  if (!(error instanceof Error)) return `threw what is no Error: ${String(error)}`;
  const code = error instanceof ToolError ? ` [${error.code}]` : "";
  return `${error.name}${code}: ${error.message}`;
}

// What agents print is no part of what is said to the host.
process.stdout.write = (chunk, ...more) => process.stderr.write(chunk, ...more);
Object.assign(globalThis, { callTool, ToolError, fetch, env: Object.freeze({ ...process.env }) });
process.on("uncaughtException", (error) => {
  say({ raised: describe(error) });
  hear();
});

(async () => {
  const order = hear();
  let answer;
  try {
    const text = Buffer.from(order.code, "utf8").toString("base64");
    const agent = await import(`data:text/javascript;base64,${text}`);
    if (typeof agent.run !== "function") {
      throw new TypeError("the module must export a function `run(input)`");
    }
    const value = await agent.run(JSON.parse(order.input));
    answer = { result: JSON.stringify(value === undefined ? null : value) };
  } catch (error) {
    answer = { raised: describe(error) };
  }
  say(answer);
  hear();
})();
