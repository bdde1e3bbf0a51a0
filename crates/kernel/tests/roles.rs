//! `docs/guide/roles.md` shows the permission matrix as it is.
//! `TALLY_WRITE_VECTORS=1 cargo test -p kernel --test roles` writes it anew.
#![expect(clippy::unwrap_used, clippy::disallowed_methods, reason = "a test reads its document")]

use std::collections::BTreeSet;

use kernel::delegation::delegable;
use kernel::principal::Role;

const BEGIN: &str = "<!-- matrix -->\n";
const END: &str = "<!-- end of matrix -->";

fn name(role: Role) -> String {
    serde_json::to_value(role).unwrap().as_str().unwrap().to_owned()
}

/// A row for each permission, a column for each role, and whether it can be delegated.
fn matrix() -> String {
    let names: Vec<String> = Role::ALL.into_iter().map(name).collect();
    let mut text = format!("| permission | {} | delegated |\n", names.join(" | "));
    text += &format!("|---|{}---|\n", "---|".repeat(names.len()));
    let all: BTreeSet<&str> = Role::ALL.into_iter().flat_map(Role::permissions).copied().collect();
    for permission in all {
        let mark = |yes: bool| if yes { "x" } else { " " };
        let held = Role::ALL.map(|role| mark(role.permissions().contains(&permission)));
        let handed_on = mark(delegable(permission));
        text += &format!("| `{permission}` | {} | {handed_on} |\n", held.join(" | "));
    }
    text
}

#[test]
fn the_document_shows_the_matrix() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/guide/roles.md");
    let document = std::fs::read_to_string(path).unwrap();
    let (before, rest) = document.split_once(BEGIN).unwrap();
    let (shown, after) = rest.split_once(END).unwrap();
    if std::env::var_os("TALLY_WRITE_VECTORS").is_some() {
        std::fs::write(path, format!("{before}{BEGIN}{}{END}{after}", matrix())).unwrap();
        return;
    }
    assert_eq!(shown, matrix(), "write it anew, or mend the tables");
}
