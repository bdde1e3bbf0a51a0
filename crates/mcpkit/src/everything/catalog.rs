//! What the server offers, and what needs no program to answer: `catalog.json`.

use std::collections::BTreeMap;
use std::sync::OnceLock;

use rmcp::ErrorData;
use rmcp::model::{
    CallToolResult, CompleteRequestParams, CompleteResult, CompletionInfo, Prompt, PromptMessage,
    Reference, Resource, ResourceContents, ResourceTemplate, Tool,
};
use serde::Deserialize;
use serde_json::{Value, json};

/// The file.
#[derive(Deserialize)]
pub(super) struct Catalog {
    pub(super) tools: Vec<Tool>,
    /// By tool: the same answer always.
    answers: BTreeMap<String, Value>,
    pub(super) resources: Vec<Resource>,
    /// By URI, without it.
    contents: BTreeMap<String, Value>,
    pub(super) templates: Vec<ResourceTemplate>,
    pub(super) prompts: Vec<Prompt>,
    /// By prompt: the same messages always.
    messages: BTreeMap<String, Vec<PromptMessage>>,
    /// By tool: the schema of what it asks the user.
    pub(super) forms: BTreeMap<String, Value>,
}

pub(super) fn catalog() -> &'static Catalog {
    static CATALOG: OnceLock<Catalog> = OnceLock::new();
    CATALOG.get_or_init(|| serde_json::from_str(include_str!("catalog.json")).unwrap())
}

impl Catalog {
    pub(super) fn answer(&self, tool: &str) -> Option<CallToolResult> {
        let mut answer = self.answers.get(tool)?.clone();
        answer["resultType"] = json!("complete");
        Some(serde_json::from_value(answer).unwrap())
    }

    pub(super) fn messages(&self, prompt: &str) -> Option<Vec<PromptMessage>> {
        self.messages.get(prompt).cloned()
    }

    pub(super) fn contents(&self, uri: &str) -> Option<ResourceContents> {
        let mut contents = match self.contents.get(uri) {
            Some(contents) => contents.clone(),
            None => {
                let id = uri.strip_prefix("test://template/")?.strip_suffix("/data")?;
                let data = json!({"id": id, "templateTest": true, "data": format!("Data of {id}")});
                json!({"mimeType": "application/json", "text": data.to_string()})
            }
        };
        contents["uri"] = json!(uri);
        Some(serde_json::from_value(contents).unwrap())
    }
}

/// Values for the arguments `arg1` and `id`: those that begin with what is there already.
pub(super) fn complete(request: &CompleteRequestParams) -> Result<CompleteResult, ErrorData> {
    let values: &[&str] = match (&request.r#ref, request.argument.name.as_str()) {
        (Reference::Prompt(_), "arg1") => &["paris", "park", "party", "test"],
        (Reference::Resource(_), "id") => &["1", "12", "123"],
        _ => &[],
    };
    let begins = |value: &&&str| value.starts_with(&request.argument.value);
    let values = values.iter().filter(begins).map(|value| (*value).to_owned()).collect();
    let info =
        CompletionInfo::new(values).map_err(|error| ErrorData::internal_error(error, None))?;
    Ok(CompleteResult::new(info))
}
