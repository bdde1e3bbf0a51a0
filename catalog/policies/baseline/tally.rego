# The baseline: deny by default, agents read where mistakes are cheap, changes wait for a person.
#
# No rule matched is a DENY (policy_no_match), so only what is named here can run. The labels of a
# tool decide: `pure` computes and touches nothing, `read` observes, `write` and `execute` change,
# `destructive` destroys. A tool without labels says nothing of itself and is denied.
package tally

# Labels of tools that change something.
changing := {"write", "execute", "destructive", "financial", "privileged", "irreversible"}

# Environments where an agent's mistake is cheap.
workshop := {"dev", "test"}

has(label) if label in input.tool.labels

changes if count(changing & {label | some label in input.tool.labels}) > 0

# Observes or computes, and changes nothing.
observes if {
	has("read")
	not changes
}

computes if {
	has("pure")
	not changes
	not has("external")
}

is_agent if input.principal.kind == "agent"

serious if input.risk.tier in {"high", "critical"}

# Outside the workshop, and at high risk anywhere, whoever delegated may not approve.
sod := "normal" if {
	input.environment in workshop
	not serious
} else := "strict"

# --- Allowed

decisions contains {"effect": "ALLOW", "rule": "R-PURE", "reason": "pure_computation"} if computes

decisions contains {"effect": "ALLOW", "rule": "R-READ-WORKSHOP", "reason": "read_in_workshop"} if {
	observes
	input.environment in workshop
}

# In prod (and wherever this policy knows no better) an agent's reads run while risk is low.
decisions contains {"effect": "ALLOW", "rule": "R-READ-LOW-RISK", "reason": "read_at_low_risk"} if {
	observes
	not input.environment in workshop
	input.risk.tier == "low"
}

# People and services read at any risk; what they do is on record either way.
decisions contains {"effect": "ALLOW", "rule": "R-READ-NO-AGENT", "reason": "read_by_no_agent"} if {
	observes
	not is_agent
}

# --- Held for a person

decisions contains {
	"effect": "REQUIRE_APPROVAL",
	"rule": "R-READ-SENSITIVE",
	"reason": "sensitive_read",
	"obligations": {"approval": {"quorum": 1, "roles": ["approver"], "expires_s": 86400}, "sod": sod},
} if {
	observes
	is_agent
	not input.environment in workshop
	input.risk.tier != "low"
}

decisions contains {
	"effect": "REQUIRE_APPROVAL",
	"rule": "R-WRITE",
	"reason": "write_needs_approval",
	"obligations": {"approval": {"quorum": 1, "roles": ["approver"], "expires_s": 86400}, "sod": sod},
} if changes

decisions contains {
	"effect": "REQUIRE_STEP_UP",
	"rule": "R-CRITICAL",
	"reason": "critical_risk",
	"obligations": {"approval": {"quorum": 1, "roles": ["approver"], "expires_s": 3600}, "sod": "strict"},
} if input.risk.tier == "critical"

# --- Denied

decisions contains {"effect": "DENY", "rule": "R-DESTRUCTIVE", "reason": "destructive"} if {
	has("destructive")
}

decisions contains {"effect": "DENY", "rule": "R-NO-LABELS", "reason": "tool_without_labels"} if {
	count(input.tool.labels) == 0
}

# Without parameters the same rules apply: what would be denied outright is not listed.
listing contains decision if some decision in decisions
