// The official SDK of Slack against the simulator whose URL is the argument. What it reads is one
// JSON document on standard output.
import { createRequire } from "node:module";
import { pathToFileURL } from "node:url";

const require = createRequire(pathToFileURL(`${process.env.TALLY_SLACK_NODE_MODULES}/x.js`));
const { LogLevel, WebClient } = require("@slack/web-api");

const slackApiUrl = `${process.argv[2]}/api/`;
const open = (token) =>
  new WebClient(token, { slackApiUrl, logLevel: LogLevel.ERROR, retryConfig: { retries: 2 } });
const slack = open("sim-slack-token");
const code = (promise) => promise.then(() => "no error", (error) => error.data.error);
const channel = "C0SIM";
const section = { type: "section", text: { type: "mrkdwn", text: "*a card*" } };

const auth = await slack.auth.test();
const posted = await slack.chat.postMessage({ channel, text: "a card", blocks: [section] });
const updated = await slack.chat.update({ channel, ts: posted.ts, text: "changed" });
const history = await slack.conversations.history({ channel, limit: 5 });
// Told to come back, it does.
const user = await slack.users.info({ user: "U0ADA" });

process.stdout.write(JSON.stringify({
  team: auth.team_id,
  posted: posted.channel,
  updated: updated.ok,
  history: history.messages.map((message) => message.text),
  user: user.user.name,
  wrong_token: await code(open("xoxb-wrong").auth.test()),
  unknown_channel: await code(slack.chat.postMessage({ channel: "C0NONE", text: "x" })),
  too_long: await code(slack.chat.postMessage({ channel, text: "x".repeat(40_001) })),
  too_many_blocks: await code(
    slack.chat.postMessage({ channel, text: "x", blocks: Array(51).fill(section) }),
  ),
}));
