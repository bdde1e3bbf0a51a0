//! The tools that do something.

use std::sync::atomic::Ordering;
use std::time::Duration;

use rmcp::model::{
    CallToolRequestParams, CallToolResponse, CallToolResult, ClientCapabilities, ContentBlock,
    LoggingLevel, LoggingMessageNotificationParam, ProgressNotificationParam,
    ResourceUpdatedNotificationParam,
};
use rmcp::service::{RequestContext, SubscriptionSink};
use rmcp::{ErrorData, RoleServer};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use super::asking::Answers;
use super::catalog::catalog;
use super::script::{Step, say};
use super::{Everything, new_revision};

/// Between two messages of a tool that sends several.
const PAUSE: Duration = Duration::from_millis(50);
/// Where notes are read as a resource.
const WATCHED: &str = "test://watched-resource";

impl Everything {
    pub(super) async fn tool(
        &self,
        request: CallToolRequestParams,
        cx: &RequestContext<RoleServer>,
    ) -> Result<CallToolResponse, ErrorData> {
        let tool = request.name.as_ref();
        if let Some(answer) = catalog().answer(tool) {
            return Ok(answer.into());
        }
        let arguments = Value::Object(request.arguments.clone().unwrap_or_default());
        if let Some(answered) = self.job(tool, &arguments, &request, cx).await {
            return answered;
        }
        let answers = Answers {
            responses: request.input_responses.clone(),
            state: request.request_state.clone(),
        };
        match self.steps(tool, &arguments, answers, cx).await {
            Some(Ok(Step::Done(result))) => Ok(result.into()),
            Some(Ok(Step::Ask(asked))) => Ok(asked.into()),
            Some(Err(error)) => Err(error),
            None => self.act(tool, &arguments, cx).await.map(Into::into),
        }
    }

    async fn act(
        &self,
        tool: &str,
        arguments: &Value,
        cx: &RequestContext<RoleServer>,
    ) -> Result<CallToolResult, ErrorData> {
        match tool {
            "echo" => {
                let meta = serde_json::to_value(&cx.meta).unwrap();
                Ok(structured(json!({"arguments": arguments, "meta": meta})))
            }
            "add" => add(arguments),
            "write_note" => Ok(self.write_note(arguments).await),
            "notes" => Ok(structured(json!({"notes": self.notes()}))),
            "wait" => self.wait(arguments, cx).await,
            "cancelled" => Ok(structured(json!({"cancelled": self.cancelled()}))),
            "test_custom_header" => Ok(say(arguments["value"].as_str().unwrap_or_default())),
            "json_schema_2020_12_tool" => Ok(say(arguments.to_string())),
            "test_tool_with_logging" => self.log_thrice(cx).await,
            "test_logging_tool" => log_as_asked(cx).await,
            "test_tool_with_progress" => progress_thrice(cx).await,
            "test_reconnection" => reconnect(cx).await,
            "test_trigger_tool_change" => Ok(self.tools_changed(cx).await),
            "test_trigger_prompt_change" => Ok(self.prompts_changed(cx).await),
            "test_missing_capability" => sampling_needed(cx),
            _ => Err(ErrorData::invalid_params(format!("there is no tool `{tool}`"), None)),
        }
    }

    async fn write_note(&self, arguments: &Value) -> CallToolResult {
        let text = arguments["text"].as_str().unwrap_or_default().to_owned();
        let count = {
            let mut notes = self.kept.notes.lock().unwrap();
            notes.push(text);
            notes.len()
        };
        self.note_written().await;
        structured(json!({"notes": count}))
    }

    /// Tells those who watch.
    async fn note_written(&self) {
        let subscribers = self.kept.subscribers.lock().unwrap().clone();
        for (uri, peer) in subscribers {
            if uri == WATCHED {
                // Who is gone needs no telling.
                let _gone =
                    peer.notify_resource_updated(ResourceUpdatedNotificationParam::new(uri)).await;
            }
        }
        for listener in self.listeners() {
            let _not_asked_for = listener.notify_resource_updated(WATCHED).await;
        }
    }

    fn listeners(&self) -> Vec<SubscriptionSink> {
        self.kept.listeners.lock().unwrap().values().cloned().collect()
    }

    async fn tools_changed(&self, cx: &RequestContext<RoleServer>) -> CallToolResult {
        self.kept.tool_gone.fetch_not(Ordering::SeqCst);
        for listener in self.listeners() {
            let _not_asked_for = listener.notify_tool_list_changed().await;
        }
        if !new_revision(cx) {
            let _gone = cx.peer.notify_tool_list_changed().await;
        }
        say("told")
    }

    async fn prompts_changed(&self, cx: &RequestContext<RoleServer>) -> CallToolResult {
        self.kept.prompt_gone.fetch_not(Ordering::SeqCst);
        for listener in self.listeners() {
            let _not_asked_for = listener.notify_prompt_list_changed().await;
        }
        if !new_revision(cx) {
            let _gone = cx.peer.notify_prompt_list_changed().await;
        }
        say("told")
    }

    async fn wait(
        &self,
        arguments: &Value,
        cx: &RequestContext<RoleServer>,
    ) -> Result<CallToolResult, ErrorData> {
        let until = Instant::now() + Duration::from_millis(arguments["ms"].as_u64().unwrap_or(0));
        let mut step = 0.0;
        while Instant::now() < until {
            progress(cx, step, None).await;
            step += 1.0;
            tokio::select! {
                () = cx.ct.cancelled() => {
                    self.kept.cancelled.fetch_add(1, Ordering::SeqCst);
                    return Err(ErrorData::internal_error("cancelled", None));
                }
                () = sleep(PAUSE) => {}
            }
        }
        Ok(say("waited"))
    }

    async fn log_thrice(
        &self,
        cx: &RequestContext<RoleServer>,
    ) -> Result<CallToolResult, ErrorData> {
        let level = self.kept.level.lock().unwrap().unwrap_or(LoggingLevel::Debug);
        for text in ["Tool execution started", "Tool processing data", "Tool execution completed"] {
            if LoggingLevel::Info as u8 >= level as u8 {
                log(cx, LoggingLevel::Info, text).await;
            }
            sleep(PAUSE).await;
        }
        Ok(say("logged"))
    }
}

/// A result as both text and data.
fn structured(value: Value) -> CallToolResult {
    CallToolResult::structured(value)
}

fn add(arguments: &Value) -> Result<CallToolResult, ErrorData> {
    let (Some(a), Some(b)) = (arguments["a"].as_f64(), arguments["b"].as_f64()) else {
        return Ok(CallToolResult::error(vec![ContentBlock::text("`a` and `b` must be numbers")]));
    };
    Ok(structured(json!({"sum": a + b})))
}

async fn log(cx: &RequestContext<RoleServer>, level: LoggingLevel, text: &str) {
    let message =
        LoggingMessageNotificationParam::new(level, json!(text)).with_logger("everything");
    // Who is gone needs no telling.
    let _gone = cx.peer.notify_logging_message(message).await;
}

async fn log_as_asked(cx: &RequestContext<RoleServer>) -> Result<CallToolResult, ErrorData> {
    if let Some(level) = cx.meta.log_level() {
        log(cx, level, "The request asked for this level").await;
    }
    Ok(say("logged"))
}

async fn progress(cx: &RequestContext<RoleServer>, done: f64, of: Option<f64>) {
    let Some(token) = cx.meta.get_progress_token() else { return };
    let mut progress = ProgressNotificationParam::new(token, done).with_message(format!("{done}"));
    if let Some(of) = of {
        progress = progress.with_total(of);
    }
    let _gone = cx.peer.notify_progress(progress).await;
}

async fn progress_thrice(cx: &RequestContext<RoleServer>) -> Result<CallToolResult, ErrorData> {
    for done in [0.0, 50.0, 100.0] {
        progress(cx, done, Some(100.0)).await;
        sleep(PAUSE).await;
    }
    Ok(say("progressed"))
}

/// A pause that a client bridges by polling where the transport cuts the stream.
async fn reconnect(_cx: &RequestContext<RoleServer>) -> Result<CallToolResult, ErrorData> {
    sleep(PAUSE).await;
    Ok(say("Reconnection test completed"))
}

fn sampling_needed(cx: &RequestContext<RoleServer>) -> Result<CallToolResult, ErrorData> {
    if cx.client_capabilities().unwrap_or_default().sampling.is_none() {
        let needed = ClientCapabilities::builder().enable_sampling().build();
        return Err(ErrorData::missing_required_client_capability(needed));
    }
    Ok(say("The client does sampling"))
}
