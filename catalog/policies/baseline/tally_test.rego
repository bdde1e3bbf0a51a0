package tally_test

import data.tally

base := {
	"phase": "submit",
	"environment": "dev",
	"principal": {"id": "p_7", "kind": "agent", "roles": ["agent"]},
	"tool": {"id": "core.example", "labels": ["read"]},
	"claims": {},
	"risk": {"score": 10, "tier": "low", "signals": []},
}

effects(part) := {rule.effect | some rule in found} if {
	found := tally.decisions with input as object.union(base, part)
}

labelled(labels) := {"tool": {"id": "core.example", "labels": labels}}

test_reads_run_in_dev if {
	effects({}) == {"ALLOW"}
}

test_unknown_labels_match_nothing if {
	effects(labelled(["unheard"])) == set()
}

test_a_write_is_held_also_beside_a_read if {
	effects(labelled(["read", "write"])) == {"REQUIRE_APPROVAL"}
}

test_destructive_is_denied if {
	"DENY" in effects(labelled(["destructive"]))
}

test_no_labels_is_denied if {
	effects(labelled([])) == {"DENY"}
}

test_critical_needs_step_up if {
	critical := {"risk": {"score": 95, "tier": "critical", "signals": []}}
	"REQUIRE_STEP_UP" in effects(critical)
}

test_separation_is_strict_in_prod if {
	prod := object.union(labelled(["write"]), {"environment": "prod"})
	found := tally.decisions with input as object.union(base, prod)
	{rule.obligations.sod | some rule in found} == {"strict"}
}

test_whatever_is_decided_is_listed if {
	listed := tally.listing with input as base
	decided := tally.decisions with input as base
	listed == decided
}
