// Builds the interpreter: node build.mjs WIT_FOLDER OUTPUT, in a folder that has the sources beside
// acorn.mjs, and whose node_modules has componentize-js.
import { writeFile } from "node:fs/promises";
import { resolve } from "node:path";
import { componentize } from "@bytecodealliance/componentize-js";

const [wit, output] = process.argv.slice(2);
const { component } = await componentize({
  sourcePath: resolve("interpreter.js"),
  witPath: resolve(wit),
  worldName: "javascript",
  disableFeatures: ["fetch-event"],
  env: false,
});
await writeFile(output, component);
