// Raises the priority of incidents that have waited too long.

export function run({ incidents, limit_h }) {
  const raised = [];
  const refused = {};
  for (const { number, age_h } of incidents) {
    if (age_h < limit_h) continue;
    try {
      callTool("servicenow.update_incident", { number, priority: 1 });
      raised.push(number);
    } catch (error) {
      if (!(error instanceof ToolError)) throw error;
      refused[number] = error.code;
    }
  }
  return { raised, refused };
}
