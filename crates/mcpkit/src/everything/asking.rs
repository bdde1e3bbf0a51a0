//! How a step's questions reach the client on either revision.

use rmcp::model::{
    GetPromptRequestParams, GetPromptResponse, GetPromptResult, InputRequest, InputRequiredResult,
    InputResponses, PromptMessage, ResourceContents,
};
use rmcp::service::{Peer, RequestContext, ServiceError};
use rmcp::{ErrorData, RoleServer};
use serde_json::{Value, json};

use super::catalog::catalog;
use super::script::{Seen, Step, ask, field, step};
use super::{Everything, new_revision};

/// What the client answered so far.
#[derive(Default)]
pub(super) struct Answers {
    pub(super) responses: Option<InputResponses>,
    pub(super) state: Option<String>,
}

impl Everything {
    /// Runs the steps of `tool`, where it has any.
    pub(super) async fn steps(
        &self,
        tool: &str,
        arguments: &Value,
        mut answers: Answers,
        cx: &RequestContext<RoleServer>,
    ) -> Option<Result<Step, ErrorData>> {
        loop {
            let seen = Seen {
                arguments,
                responses: answers.responses.as_ref(),
                state: answers.state.as_deref(),
                capabilities: cx.client_capabilities().unwrap_or_default(),
                states: &self.states,
            };
            match step(tool, &seen)? {
                Ok(Step::Ask(asked)) if !new_revision(cx) => {
                    match request_all(&cx.peer, asked).await {
                        Ok(answered) => answers = answered,
                        Err(error) => return Some(Err(error)),
                    }
                }
                ended => return Some(ended),
            }
        }
    }

    pub(super) async fn prompt(
        &self,
        request: GetPromptRequestParams,
        cx: &RequestContext<RoleServer>,
    ) -> Result<GetPromptResponse, ErrorData> {
        if request.name == "test_input_required_result_prompt" {
            return asking_prompt(request.input_responses, cx).await;
        }
        let arguments = Value::Object(request.arguments.unwrap_or_default());
        let messages = match request.name.as_str() {
            "test_prompt_with_arguments" => {
                let text = |name: &str| arguments[name].as_str().unwrap_or("").to_owned();
                let (first, second) = (text("arg1"), text("arg2"));
                vec![user(&format!("Prompt with arguments: arg1='{first}', arg2='{second}'"))]
            }
            "test_prompt_with_embedded_resource" => embedded(&arguments),
            name => catalog().messages(name).ok_or_else(|| {
                ErrorData::invalid_params(format!("there is no prompt `{name}`"), None)
            })?,
        };
        Ok(GetPromptResult::new(messages).into())
    }
}

fn user(text: &str) -> PromptMessage {
    PromptMessage::new_text(rmcp::model::Role::User, text)
}

fn embedded(arguments: &Value) -> Vec<PromptMessage> {
    let uri = arguments["resourceUri"].as_str().unwrap_or("test://static-text");
    let text = "Embedded resource content for testing.";
    let resource: ResourceContents =
        serde_json::from_value(json!({"uri": uri, "mimeType": "text/plain", "text": text}))
            .unwrap();
    let content = json!({"type": "resource", "resource": resource});
    let message = serde_json::from_value(json!({"role": "user", "content": content})).unwrap();
    vec![message, user("Please process the embedded resource above.")]
}

async fn asking_prompt(
    responses: Option<InputResponses>,
    cx: &RequestContext<RoleServer>,
) -> Result<GetPromptResponse, ErrorData> {
    let usable =
        |responses: &InputResponses| responses.get("user_context").is_some_and(Value::is_object);
    let responses = match responses.filter(usable) {
        Some(responses) => responses,
        None => {
            let question = field("What context should the prompt use?", "context", "string");
            let asked = ask(&[("user_context", question)], None);
            if new_revision(cx) {
                return Ok(asked.into());
            }
            request_all(&cx.peer, asked).await?.responses.unwrap_or_default()
        }
    };
    let context = responses["user_context"]["content"]["context"].as_str().unwrap_or("none");
    Ok(GetPromptResult::new(vec![user(&format!("Prompt with context: {context}"))]).into())
}

/// Asks a client of the older revisions, one after the other.
async fn request_all(
    peer: &Peer<RoleServer>,
    asked: InputRequiredResult,
) -> Result<Answers, ErrorData> {
    let mut responses = InputResponses::new();
    for (key, request) in asked.input_requests.unwrap_or_default() {
        responses.insert(key, request_one(peer, request).await.map_err(refused)?);
    }
    Ok(Answers { responses: Some(responses), state: asked.request_state })
}

async fn request_one(
    peer: &Peer<RoleServer>,
    request: InputRequest,
) -> Result<Value, ServiceError> {
    Ok(match request {
        InputRequest::Elicitation(request) => {
            serde_json::to_value(peer.create_elicitation(request.params).await?).unwrap()
        }
        InputRequest::CreateMessage(request) => {
            serde_json::to_value(peer.create_message(request.params).await?).unwrap()
        }
        InputRequest::ListRoots(_) => serde_json::to_value(peer.list_roots().await?).unwrap(),
        other => panic!("we ask no such thing: {other:?}"),
    })
}

/// What the client refused is passed on as it is.
fn refused(error: ServiceError) -> ErrorData {
    match error {
        ServiceError::McpError(error) => error,
        other => ErrorData::internal_error(format!("the client does not answer: {other}"), None),
    }
}
