//! The second enforcement point: no effect without a valid permit for exactly this plan.

use kernel::ids::ToolId;
use kernel::json::RawJson;
use kernel::values::{Digest, Timestamp};
use serde_json::json;

use super::{Asked, anybody, failed};
use crate::kv::NoKeyValues;
use crate::mcp::NoSecrets;
use crate::{Call, Grants, Outcome, Tools, ToolsConfig};
use testkit::permit;

#[tokio::test]
async fn only_this_plan_and_only_in_time() {
    let folder = tempfile::tempdir().unwrap();
    let grants = Grants { fs_write: vec![folder.path().to_owned()], ..Grants::default() };
    let tools = Tools::new(ToolsConfig { grants, ..ToolsConfig::default() }).unwrap();
    let file = folder.path().join("a");
    let params = json!({"path": file.to_str().unwrap(), "content": "a"});
    let params = RawJson::parse(&params.to_string()).unwrap();
    let (plan, other) = (Digest::of(b"plan"), Digest::of(b"other"));
    let permit = permit(plan);
    let late = permit.not_after().plus_micros(1);
    let id = ToolId::new("core.fs_write").unwrap();
    let (asked, tenant) = (Asked::default(), anybody());
    let call = |plan_digest, now| Call {
        permit: &permit,
        tenant: &tenant,
        tool: &id,
        plan_digest,
        params: &params,
        now,
        redirect: &asked,
        secrets: &NoSecrets,
        store: &NoKeyValues,
        in_doubt: false,
    };
    for (plan_digest, now, code) in
        [(other, Timestamp(0), "permit_other_plan"), (plan, late, "permit_expired")]
    {
        assert_eq!(failed(tools.execute(call(plan_digest, now)).await).code, code);
        assert!(!file.exists());
    }
    let done = tools.execute(call(plan, permit.not_after())).await;
    assert!(matches!(done, Outcome::Executed(_)) && file.exists(), "{done:?}");
}
