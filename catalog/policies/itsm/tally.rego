# Triage of incidents (catalog/workflows/itsm-triage.yaml): deny by default. A service may run the
# workflow's own steps and nothing else; what it writes waits for people; what people approved
# carries the work note that follows it.
#
# No rule here believes the model or the incident. What a run is, and which of its steps people
# approved, are facts of the server (`input.run`).
package tally

# --- Adapt these to your instance, together with the workflow

triage := "itsm-triage"

categories := {"inquiry", "software", "hardware", "network", "database"}

# The sys_ids of the groups that incidents may go to.
groups := {
	"d625dccec0a8016700a222a0f7900d06",
	"287ebd7da9fe198100f92cc8d1d2154e",
	"8a4dde73c6112278017a6a4baf547aa7",
	"8a5055c9c61122780043563ef53438e3",
	"287ee6fea9fe198100ada7950d0b1b73",
}

level := {"1": 1, "2": 2, "3": 3, "4": 4, "5": 5}

# --- What is asked

tool := input.tool.id

in_triage if input.run.workflow == triage

workshop := {"dev", "test"}

is_person if input.principal.kind == "user"

# In prod, whoever delegated may not approve either.
sod := "normal" if {
	input.environment in workshop
} else := "strict"

# --- Reading

decisions contains {"effect": "ALLOW", "rule": "R-ITSM-READ", "reason": "triage_reads"} if {
	tool == "servicenow.get_incident"
	in_triage
}

decisions contains {"effect": "ALLOW", "rule": "R-ITSM-READ-PERSON", "reason": "person_reads"} if {
	tool == "servicenow.get_incident"
	is_person
}

# --- The model: only with a closed form for its answer

asks_model if {
	tool == "llm.invoke"
	in_triage
	input.params.output_schema.additionalProperties == false
}

decisions contains {"effect": "ALLOW", "rule": "R-ITSM-MODEL", "reason": "triage_asks"} if asks_model

# Words that an incident has little reason to have, and a text that wants to command a model has
# often. They stop nothing, since whoever wants can avoid them: they put on record that this
# incident is one to look at. What stops an injection is below.
suspicious := {
	"ignore all previous",
	"ignore previous",
	"ignore your instructions",
	"disregard",
	"system prompt",
	"api key",
	"close all tickets",
	"close all incidents",
	"raise inc0",
	"raise all",
	"raise every",
	"raise the other",
	"raise other",
	"priority of all",
	"priority of every",
	"priority of the other",
	"priority of other",
}

suspect if {
	some message in input.params.messages
	is_string(message.content)
	some words in suspicious
	contains(lower(message.content), words)
}

decisions contains {"effect": "ALLOW", "rule": "R-ITSM-SUSPECT", "reason": "text_gives_orders"} if {
	asks_model
	suspect
}

# --- Writing: people decide, and only about what triage is for

writes if tool == "servicenow.update_incident_reversible"

decisions contains {
	"effect": "REQUIRE_APPROVAL",
	"rule": "R-ITSM-WRITE",
	"reason": "write_needs_approval",
	"obligations": {"approval": {"quorum": 1, "roles": ["approver"], "expires_s": 86400}, "sod": sod},
} if writes

# To the top, or far up at once. Whoever wants attention wants this, so it takes two people.
leaps if input.params.fields.priority == "1"

leaps if level[input.params.expect.priority] - level[input.params.fields.priority] >= 3

decisions contains {
	"effect": "REQUIRE_APPROVAL",
	"rule": "R-ITSM-LEAP",
	"reason": "priority_leaps",
	"obligations": {"approval": {"quorum": 2, "roles": ["approver"], "expires_s": 86400}, "sod": sod},
} if {
	writes
	leaps
}

# What the workflow never writes. Outside of it (somebody takes a change back) a person decides.
stray contains name if {
	some name, _ in input.params.fields
	not name in {"category", "priority", "assignment_group"}
}

stray contains "category" if not input.params.fields.category in categories

stray contains "priority" if not input.params.fields.priority in object.keys(level)

stray contains "assignment_group" if not input.params.fields.assignment_group in groups

decisions contains {"effect": "DENY", "rule": "R-ITSM-VALUES", "reason": "not_for_triage"} if {
	writes
	in_triage
	input.phase != "list"
	count(stray) > 0
}

# --- The work note: free where it follows a change that people approved

notes if tool == "servicenow.add_work_note"

follows_approval if {
	in_triage
	"update" in input.run.approved_steps
}

decisions contains {"effect": "ALLOW", "rule": "R-ITSM-NOTE", "reason": "note_of_approved"} if {
	notes
	follows_approval
}

decisions contains {
	"effect": "REQUIRE_APPROVAL",
	"rule": "R-ITSM-NOTE-ALONE",
	"reason": "write_needs_approval",
	"obligations": {"approval": {"quorum": 1, "roles": ["approver"], "expires_s": 86400}, "sod": sod},
} if {
	notes
	not follows_approval
}

# --- Cards: a service tells people that something waits for them. A card that would itself wait for
# people could never be sent.

decisions contains {"effect": "ALLOW", "rule": "R-ITSM-CARD", "reason": "asks_people"} if {
	tool in {"slack.post_approval_request", "slack.update_message", "slack.post_ephemeral"}
	input.principal.kind == "service"
}

# --- Never

decisions contains {"effect": "DENY", "rule": "R-DESTRUCTIVE", "reason": "destructive"} if {
	"destructive" in input.tool.labels
}

decisions contains {"effect": "DENY", "rule": "R-NO-LABELS", "reason": "tool_without_labels"} if {
	count(input.tool.labels) == 0
}

# What could be called with some parameters is listed.
listing contains decision if some decision in decisions
