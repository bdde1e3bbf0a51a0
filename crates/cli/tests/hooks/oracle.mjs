// Says of each delivery whether its sender's own library believes it.
import { createRequire } from "node:module";
import { join } from "node:path";
import { pathToFileURL } from "node:url";

const modules = process.env.TALLY_HOOK_NODE_MODULES;
const require = createRequire(join(modules, "of-a-test.js"));
const { verifySlackRequest } = require(join(modules, "@slack/bolt/dist/receivers/verify-request.js"));
const octokit = join(modules, "@octokit/webhooks-methods/dist-node/index.js");
const { verify } = await import(pathToFileURL(octokit));

const silent = { debug() {}, info() {}, warn() {}, error() {}, setLevel() {}, getLevel() {}, setName() {} };

async function believes({ of, secret, signature, time, body }) {
  if (of === "github") {
    return verify(secret, body, signature);
  }
  try {
    verifySlackRequest({
      signingSecret: secret,
      body,
      headers: { "x-slack-signature": signature, "x-slack-request-timestamp": Number(time) },
      logger: silent,
    });
    return true;
  } catch {
    return false;
  }
}

const cases = JSON.parse(process.argv[2]);
console.log(JSON.stringify(await Promise.all(cases.map(believes))));
