//! Files of expected values in `spec/vectors`.

use serde_json::Value;

/// Compares `vectors` with the file `name`, or writes it where `TALLY_WRITE_VECTORS` is 1.
#[expect(clippy::disallowed_methods, reason = "the vectors are files")]
pub(crate) fn golden(name: &str, vectors: &Value) {
    let path = format!("{}/../../spec/vectors/{name}.json", env!("CARGO_MANIFEST_DIR"));
    let text = serde_json::to_string_pretty(vectors).unwrap() + "\n";
    if std::env::var("TALLY_WRITE_VECTORS").is_ok_and(|set| set == "1") {
        std::fs::write(&path, text).unwrap();
        return;
    }
    let stored = std::fs::read_to_string(&path).unwrap();
    for (number, (ours, theirs)) in text.lines().zip(stored.lines()).enumerate() {
        assert_eq!(ours, theirs, "{name}.json, line {}", number + 1);
    }
    assert_eq!(text, stored, "{name}.json");
}
