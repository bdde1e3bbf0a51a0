// Makes the body of a function of the text of a module, since text that comes at run time cannot be
// loaded as a module here.
import { parse } from "./acorn.mjs";

// An export of `run` that begins a line. Where it is the only `export` of a text, it is one, or the
// text has none and does not work: then it lies in a comment or in a literal.
const SIMPLE = /^export(?=[ \t]+(?:async[ \t]+)?function\b[ \t]*\*?[ \t]*run\b)/m;
const MODULE_WORDS = /\b(?:export|import)\b/g;
const BLANK = "      ";

/** The text as the body of a function, of the same lines, and an expression for its `run`. */
export function bodyOf(code) {
  if ((code.match(MODULE_WORDS) ?? []).length === 1 && SIMPLE.test(code)) {
    const result = 'typeof run === "undefined" ? undefined : run';
    return { body: code.replace(SIMPLE, BLANK), result };
  }
  return transformed(code);
}

function transformed(code) {
  const program = parse(code, { ecmaVersion: "latest", sourceType: "module" });
  refuseImports(code, program);
  const edits = [];
  let result = "undefined";
  for (const node of program.body) {
    if (node.type === "ExportDefaultDeclaration") {
      // What has no name would be no declaration.
      edits.push([node.start, node.declaration.start, node.declaration.id ? "" : "void "]);
    } else if (node.type === "ExportNamedDeclaration" && node.declaration) {
      edits.push([node.start, node.declaration.start, ""]);
      result = declares(node.declaration, "run") ? "run" : result;
    } else if (node.type === "ExportNamedDeclaration") {
      const exported = node.specifiers.find((one) => nameOf(one.exported) === "run");
      result = exported ? exported.local.name : result;
      edits.push([node.start, node.end, ";"]);
    }
  }
  return { body: edited(code, edits), result };
}

/** An agent is one text: there is nothing that it could import. */
function refuseImports(code, node) {
  const imports = /^Import(Declaration|Expression)$|^ExportAll/.test(node.type);
  if (imports || (node.type === "ExportNamedDeclaration" && node.source)) {
    const line = code.slice(0, node.start).split("\n").length;
    throw new SyntaxError(`an agent is one text and can import nothing (agent.js, line ${line})`);
  }
  for (const child of Object.values(node).flat()) {
    if (typeof child?.type === "string") refuseImports(code, child);
  }
}

function declares(declaration, name) {
  const named = declaration.declarations ?? [declaration];
  return named.some((one) => one.id.name === name);
}

function nameOf(exported) {
  return exported.type === "Identifier" ? exported.name : exported.value;
}

/** The text with `[start, end, instead]` applied, which come in order; line breaks are kept. */
function edited(code, edits) {
  let body = "";
  let at = 0;
  for (const [start, end, instead] of edits) {
    const breaks = code.slice(start, end).replace(/[^\n]/g, "");
    body += code.slice(at, start) + breaks + instead;
    at = end;
  }
  return body + code.slice(at);
}
