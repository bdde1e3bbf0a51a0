//! Files below granted folders, and everything that is not.

use std::fs;
use std::os::unix::fs::{FileTypeExt as _, PermissionsExt as _, symlink};
use std::path::Path;

use serde_json::json;
use tempfile::TempDir;

use super::{failed, result, run};
use crate::{Grants, Tools, ToolsConfig};

const READ: &str = "core.fs_read";
const WRITE: &str = "core.fs_write";

/// A granted folder `in` beside one that is not, `out`, which holds a file `secret`.
fn folders() -> (TempDir, Tools) {
    let base = tempfile::tempdir().unwrap();
    fs::create_dir(base.path().join("in")).unwrap();
    fs::create_dir(base.path().join("out")).unwrap();
    fs::write(base.path().join("out/secret"), "secret").unwrap();
    let granted = vec![base.path().join("in")];
    let grants = Grants { fs_read: granted.clone(), fs_write: granted, ..Grants::default() };
    let tools = Tools::new(ToolsConfig { grants, ..ToolsConfig::default() }).unwrap();
    (base, tools)
}

fn text(path: &Path) -> String {
    path.to_str().unwrap().to_owned()
}

#[tokio::test]
async fn reads() {
    let (base, tools) = folders();
    let file = base.path().join("in/a.txt");
    fs::write(&file, "grün").unwrap();
    let path = text(&file);
    let got = result(run(&tools, READ, json!({"path": path})).await);
    assert_eq!(got, json!({"content": "grün", "bytes": 5, "truncated": false}));
    let got = result(run(&tools, READ, json!({"path": path, "max_bytes": 3})).await);
    assert_eq!(got, json!({"content": "gr", "bytes": 3, "truncated": true}));
    fs::write(&file, [0xff, 0]).unwrap();
    assert_eq!(failed(run(&tools, READ, json!({"path": path})).await).code, "not_utf8");
    let got = result(run(&tools, READ, json!({"path": path, "encoding": "base64"})).await);
    assert_eq!(got["content"], "/wA=");
    // None, a few or many bytes are read in different ways, and read alike.
    for count in [0, 1, 64 << 10, (64 << 10) + 1, 200_000] {
        fs::write(&file, "x".repeat(count)).unwrap();
        let got = result(run(&tools, READ, json!({"path": path})).await);
        assert_eq!(got, json!({"content": "x".repeat(count), "bytes": count, "truncated": false}));
    }
    fs::write(&file, [0xff, 0]).unwrap();
    // Links inside the folder are links like any other.
    symlink("a.txt", base.path().join("in/link")).unwrap();
    let link = json!({"path": text(&base.path().join("in/link")), "encoding": "base64"});
    assert_eq!(result(run(&tools, READ, link).await)["content"], "/wA=");
}

#[tokio::test]
async fn nothing_outside_is_read_or_written() {
    let (base, tools) = folders();
    let inside = base.path().join("in");
    symlink(base.path().join("out/secret"), inside.join("absolute")).unwrap();
    symlink("../out/secret", inside.join("relative")).unwrap();
    symlink("../out", inside.join("folder")).unwrap();
    symlink("../out/new", inside.join("dangling")).unwrap();
    symlink("/proc/self/environ", inside.join("proc")).unwrap();
    symlink("loop", inside.join("loop")).unwrap();
    let beside = format!("{}side", text(&inside));
    fs::create_dir(&beside).unwrap();
    fs::write(Path::new(&beside).join("a"), "secret").unwrap();
    let refused = [
        text(&inside.join("absolute")),
        text(&inside.join("relative")),
        text(&inside.join("folder/secret")),
        text(&inside.join("folder/new")),
        text(&inside.join("dangling")),
        text(&inside.join("proc")),
        text(&inside.join("loop")),
        text(&inside.join("../out/secret")),
        text(&base.path().join("out/secret")),
        format!("{beside}/a"),
        "/etc/passwd".to_owned(),
        "/proc/self/environ".to_owned(),
        "/dev/null".to_owned(),
        "in/a".to_owned(),
        "~/a".to_owned(),
        text(&inside),
        "/".to_owned(),
        format!("{}/a\0b", text(&inside)),
    ];
    for path in refused {
        let code = failed(run(&tools, READ, json!({"path": path})).await).code;
        assert!(
            ["path_invalid", "path_not_granted", "io_error"].contains(&&*code),
            "{path}: {code}"
        );
        for mode in ["overwrite", "create_new", "append"] {
            let params = json!({"path": path, "content": "changed", "mode": mode});
            failed(run(&tools, WRITE, params).await);
        }
    }
    assert_eq!(fs::read_to_string(base.path().join("out/secret")).unwrap(), "secret");
    assert_eq!(fs::read_dir(base.path().join("out")).unwrap().count(), 1);
}

#[tokio::test]
async fn only_files_are_files() {
    let (base, tools) = folders();
    let pipe = base.path().join("in/pipe");
    let made = std::process::Command::new("mkfifo").arg(&pipe).status().unwrap();
    assert!(made.success() && fs::metadata(&pipe).unwrap().file_type().is_fifo());
    fs::create_dir(base.path().join("in/folder")).unwrap();
    for name in ["pipe", "folder"] {
        let path = text(&base.path().join("in").join(name));
        assert_eq!(failed(run(&tools, READ, json!({"path": path})).await).code, "not_a_file");
        for mode in ["overwrite", "create_new", "append"] {
            let params = json!({"path": path, "content": "a", "mode": mode});
            assert_eq!(failed(run(&tools, WRITE, params).await).code, "not_a_file", "{mode}");
        }
    }
}

#[tokio::test]
async fn writes() {
    let (base, tools) = folders();
    let file = base.path().join("in/a.txt");
    let write =
        |content: &str, mode: &str| json!({"path": text(&file), "content": content, "mode": mode});
    assert_eq!(result(run(&tools, WRITE, write("one", "create_new")).await), json!({"bytes": 3}));
    assert_eq!(failed(run(&tools, WRITE, write("x", "create_new")).await).code, "file_exists");
    fs::set_permissions(&file, fs::Permissions::from_mode(0o640)).unwrap();
    result(run(&tools, WRITE, write("two", "overwrite")).await);
    result(run(&tools, WRITE, write("+", "append")).await);
    assert_eq!(fs::read_to_string(&file).unwrap(), "two+");
    assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o640);

    // Through a link inside the folder, the file changes and the link stays.
    symlink("a.txt", base.path().join("in/link")).unwrap();
    let link = text(&base.path().join("in/link"));
    let params = json!({"path": link, "content": "/wA=", "encoding": "base64"});
    result(run(&tools, WRITE, params).await);
    assert_eq!(fs::read(&file).unwrap(), [0xff, 0]);
    assert!(fs::symlink_metadata(&link).unwrap().is_symlink());

    let bad = json!({"path": text(&file), "content": "?", "encoding": "base64"});
    assert_eq!(failed(run(&tools, WRITE, bad).await).code, "content_invalid");
    let lost = json!({"path": text(&base.path().join("in/no/a")), "content": ""});
    assert_eq!(failed(run(&tools, WRITE, lost).await).code, "path_not_found");
    // No temporary file stays behind.
    assert_eq!(fs::read_dir(base.path().join("in")).unwrap().count(), 2);
}

#[test]
fn folders_that_cannot_be_granted() {
    let base = tempfile::tempdir().unwrap();
    symlink("/proc/self", base.path().join("proc")).unwrap();
    let link = text(&base.path().join("proc"));
    for path in ["relative", "/", "/proc", "/sys/kernel", "/dev", "/tmp/..", "/no/such", &link] {
        let grants = Grants { fs_read: vec![path.into()], ..Grants::default() };
        let made = Tools::new(ToolsConfig { grants, ..ToolsConfig::default() });
        assert!(made.unwrap_err().to_string().contains("grants.fs_read"), "{path}");
    }
}
