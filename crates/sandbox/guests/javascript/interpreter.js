// The JavaScript interpreter: takes the text of a module with each run, evaluates it and calls the
// function `run` that it exports.
import callToolOfHost from "call-tool";
import { getEnvironment } from "wasi:cli/environment@0.2.12";
import { bodyOf } from "./module.js";

const AsyncFunction = (async () => {}).constructor;
const FILE = "agent.js";
// Lines that come before the text in the function that it becomes.
const LINES_BEFORE = 3;
// Of a stack, the innermost places in the module itself.
const PLACES_MAX = 8;

/** Why a tool gave no result: `code` is stable and lower-case. */
class ToolError extends Error {
  constructor(code, message) {
    super(message);
    this.name = "ToolError";
    this.code = code;
  }
}

/** Calls a tool of the host and gives its result. */
function callTool(name, args = {}) {
  if (typeof name !== "string") {
    throw new TypeError("callTool(name, args): the name must be a string");
  }
  const text = JSON.stringify(args);
  if (text === undefined) {
    throw new TypeError("callTool(name, args): the arguments must be a value that JSON has");
  }
  let answer;
  try {
    answer = callToolOfHost(name, text);
  } catch (error) {
    const { code, message } = JSON.parse(error.payload);
    throw new ToolError(code, message);
  }
  return JSON.parse(answer);
}

// An error in a timer or a microtask would end the interpreter without a word; it ends the run.
let fail = () => {};

function guarded(schedule) {
  return (task, ...rest) => {
    if (typeof task !== "function") throw new TypeError("a timer needs a function");
    const careful = (...args) => {
      try {
        return task(...args);
      } catch (error) {
        fail(error);
      }
    };
    return schedule(careful, ...rest);
  };
}

function define(values) {
  for (const [name, value] of Object.entries(values)) {
    Object.defineProperty(globalThis, name, { value, writable: true, configurable: true });
  }
}

define({
  callTool,
  ToolError,
  setTimeout: guarded(setTimeout),
  setInterval: guarded(setInterval),
  queueMicrotask: guarded(queueMicrotask),
});

/** The lines of a stack that are in the module, with its own line numbers. */
function placesOf(stack) {
  const places = [];
  for (const frame of stack.split("\n")) {
    const found = /^(.*)@agent\.js:(\d+):(\d+)$/.exec(frame);
    if (found && places.length < PLACES_MAX) {
      const [, name, line, column] = found;
      const within = name && name !== "anonymous" ? ` in ${name}` : "";
      places.push(`\n  at ${FILE}:${line - LINES_BEFORE}:${column}${within}`);
    }
  }
  return places.join("");
}

/** Type and message, then where in the module it was. */
function describe(error) {
  if (!(error instanceof Error)) {
    let shown;
    try {
      shown = JSON.stringify(error) ?? String(error);
    } catch {
      shown = typeof error;
    }
    return `threw what is no Error: ${shown}`;
  }
  const code = error instanceof ToolError ? ` [${error.code}]` : "";
  return `${error.name}${code}: ${error.message}${placesOf(String(error.stack ?? ""))}`;
}

/** The function that the text becomes. */
function compiled(code) {
  const { body, result } = bodyOf(code);
  const text = `"use strict";\n${body}\n;return ${result};\n//# sourceURL=${FILE}`;
  try {
    return new AsyncFunction(text);
  } catch (error) {
    if (error instanceof SyntaxError) {
      error.message += ` (${FILE}, line ${error.lineNumber - LINES_BEFORE})`;
    }
    throw error;
  }
}

async function answer(code, input) {
  const run = await compiled(code)();
  if (typeof run !== "function") {
    throw new TypeError("the module must export a function `run(input)`");
  }
  const value = await run(JSON.parse(input));
  const output = JSON.stringify(value === undefined ? null : value);
  if (output === undefined) {
    throw new TypeError(`run returned a ${typeof value}, which JSON does not have`);
  }
  return output;
}

export async function run(code, input) {
  define({ env: Object.freeze(Object.fromEntries(getEnvironment())) });
  const failed = new Promise((_, reject) => {
    fail = reject;
  });
  try {
    return await Promise.race([answer(code, input), failed]);
  } catch (error) {
    throw describe(error);
  }
}
