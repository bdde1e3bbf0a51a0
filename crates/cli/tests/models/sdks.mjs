// The official SDKs of OpenAI and Anthropic against the simulator whose URL is the argument. What
// they read is one JSON document on standard output.
import { createRequire } from "node:module";
import { pathToFileURL } from "node:url";

const require = createRequire(pathToFileURL(`${process.env.TALLY_MODEL_NODE_MODULES}/x.js`));
const OpenAI = require("openai").default;
const Anthropic = require("@anthropic-ai/sdk").default;

const url = process.argv[2];
const key = "sim-key";
const model = "sim-small";
const ask = (content) => [{ role: "user", content }];
const schema = {
  type: "object",
  additionalProperties: false,
  required: ["n"],
  properties: { n: { type: "integer", minimum: 5 } },
};
const open = (apiKey, maxRetries = 2) => ({
  openai: new OpenAI({ apiKey, baseURL: `${url}/v1`, maxRetries }),
  anthropic: new Anthropic({ apiKey, baseURL: url, maxRetries }),
});
const { openai, anthropic } = open(key);
const once = open(key, 0);
const other = open("sim-wrong", 0);
const status = (promise) => promise.then(() => "no error", (error) => error.status);

async function chat() {
  const create = (client, content, more = {}) =>
    client.chat.completions.create({ model, messages: ask(content), ...more });
  const whole = await create(openai, "weather");
  const seen = { streamed: "", pieces: 0 };
  const stream = await create(openai, "weather", {
    stream: true,
    stream_options: { include_usage: true },
  });
  for await (const chunk of stream) {
    const choice = chunk.choices[0];
    if (choice?.delta.content) {
      seen.streamed += choice.delta.content;
      seen.pieces += 1;
    }
    if (choice?.finish_reason) seen.streamed_finish = choice.finish_reason;
    if (chunk.usage) seen.streamed_output_tokens = chunk.usage.completion_tokens;
  }
  const response_format = { type: "json_schema", json_schema: { name: "n", strict: true, schema } };
  const json = await openai.chat.completions.parse({
    model,
    messages: ask("a number"),
    response_format,
  });
  const short = await create(openai, "weather", { max_completion_tokens: 2 });
  return {
    ...seen,
    text: whole.choices[0].message.content,
    finish: whole.choices[0].finish_reason,
    input_tokens: whole.usage.prompt_tokens,
    output_tokens: whole.usage.completion_tokens,
    json: JSON.parse(json.choices[0].message.content),
    short_finish: short.choices[0].finish_reason,
    length: "length",
    after_429: (await create(openai, "limited chat")).choices[0].message.content,
    broken: await status(create(once.openai, "broken")),
    unauthorized: await status(create(other.openai, "weather")),
    unknown_model: await status(create(once.openai, "weather", { model: "real-one" })),
  };
}

async function responses() {
  const create = (client, input, more = {}) => client.responses.create({ model, input, ...more });
  const whole = await create(openai, "weather");
  const seen = { streamed: "", pieces: 0 };
  for await (const event of await create(openai, "weather", { stream: true })) {
    if (event.type === "response.output_text.delta") {
      seen.streamed += event.delta;
      seen.pieces += 1;
    }
    if (event.type === "response.completed") {
      seen.streamed_finish = event.response.status;
      seen.streamed_output_tokens = event.response.usage.output_tokens;
    }
  }
  const text = { format: { type: "json_schema", name: "n", strict: true, schema } };
  const short = await create(openai, "weather", { max_output_tokens: 2 });
  return {
    ...seen,
    text: whole.output_text,
    finish: whole.status,
    input_tokens: whole.usage.input_tokens,
    output_tokens: whole.usage.output_tokens,
    json: JSON.parse((await create(openai, "a number", { text })).output_text),
    short_finish: short.incomplete_details.reason,
    length: "max_output_tokens",
    after_429: (await create(openai, "limited responses")).output_text,
    broken: await status(create(once.openai, "broken")),
    unauthorized: await status(create(other.openai, "weather")),
    unknown_model: await status(create(once.openai, "weather", { model: "real-one" })),
  };
}

async function messages() {
  const create = (client, content, more = {}) =>
    client.messages.create({ model, max_tokens: 100, messages: ask(content), ...more });
  const whole = await create(anthropic, "weather");
  const seen = { streamed: "", pieces: 0 };
  const stream = anthropic.messages.stream({ model, max_tokens: 100, messages: ask("weather") });
  stream.on("text", (text) => {
    seen.streamed += text;
    seen.pieces += 1;
  });
  const last = await stream.finalMessage();
  const json = await create(anthropic, "a number", {
    output_config: { format: { type: "json_schema", schema } },
  });
  const short = await create(anthropic, "weather", { max_tokens: 2 });
  return {
    ...seen,
    streamed_finish: last.stop_reason,
    streamed_output_tokens: last.usage.output_tokens,
    text: whole.content[0].text,
    finish: whole.stop_reason,
    input_tokens: whole.usage.input_tokens,
    output_tokens: whole.usage.output_tokens,
    json: JSON.parse(json.content[0].text),
    short_finish: short.stop_reason,
    length: "max_tokens",
    after_429: (await create(anthropic, "limited messages")).content[0].text,
    broken: await status(create(once.anthropic, "broken")),
    unauthorized: await status(create(other.anthropic, "weather")),
    unknown_model: await status(create(once.anthropic, "weather", { model: "real-one" })),
  };
}

async function names(client) {
  const found = [];
  for await (const one of client.models.list()) found.push(one.id);
  return found;
}

const counted = await anthropic.messages.countTokens({ model, messages: ask("weather") });
const seen = {
  chat: await chat(),
  responses: await responses(),
  messages: await messages(),
  models: { openai: await names(openai), anthropic: await names(anthropic) },
  counted: counted.input_tokens,
};
process.stdout.write(JSON.stringify(seen));
