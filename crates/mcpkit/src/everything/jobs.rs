//! The tools of the tasks extension.

use std::time::Duration;

use rmcp::model::{
    CallToolRequestParams, CallToolResponse, CallToolResult, ClientCapabilities, ContentBlock,
    CreateTaskResult, InputRequest,
};
use rmcp::service::RequestContext;
use rmcp::task_manager::{TaskContext, TaskExit, TaskOptions};
use rmcp::{ErrorData, RoleServer};
use serde_json::Value;
use tokio::time::sleep;

use super::Everything;
use super::script::{ask, field, say};

/// How long the short jobs take.
const SHORT: Duration = Duration::from_millis(200);
const LONG: Duration = Duration::from_secs(1);

impl Everything {
    /// Runs `tool` where it is a job: as a task for a client that declares tasks.
    pub(super) async fn job(
        &self,
        tool: &str,
        arguments: &Value,
        request: &CallToolRequestParams,
        cx: &RequestContext<RoleServer>,
    ) -> Option<Result<CallToolResponse, ErrorData>> {
        let job = Job::of(tool, arguments)?;
        let tasks = cx.client_capabilities().is_some_and(|can| can.supports_tasks());
        Some(match (job, tasks) {
            (Job::Greet(name), _) => Ok(say(format!("Hello, {name}!")).into()),
            (Job::AskThenRun, true) => Ok(self.ask_then_run(request)),
            (job, true) => Ok(self.spawn(job)),
            (job, false) if job.needs_task() => {
                let needed = ClientCapabilities::builder().enable_tasks().build();
                Err(ErrorData::missing_required_client_capability(needed))
            }
            (job, false) => job.run(None).await.map(Into::into).map_err(|exit| match exit {
                TaskExit::Error(error) => error,
                TaskExit::Cancelled => ErrorData::internal_error("cancelled", None),
            }),
        })
    }

    fn spawn(&self, job: Job) -> CallToolResponse {
        let task = self.tasks.spawn(TaskOptions::default(), |context| {
            Box::pin(async move { job.run(Some(context)).await })
        });
        CreateTaskResult::new(task).into()
    }

    fn ask_then_run(&self, request: &CallToolRequestParams) -> CallToolResponse {
        let answered = request.input_responses.as_ref().and_then(|all| all.get("user_name"));
        match answered.and_then(|answer| answer["content"]["name"].as_str()) {
            Some(name) => self.spawn(Job::GreetLater(name.to_owned())),
            None => {
                ask(&[("user_name", field("What is your name?", "name", "string"))], None).into()
            }
        }
    }
}

enum Job {
    Greet(String),
    GreetLater(String),
    Compute { seconds: f64, label: String },
    Fail,
    Break,
    Delete(String),
    Two,
    AskThenRun,
}

impl Job {
    fn of(tool: &str, arguments: &Value) -> Option<Self> {
        let text = |name: &str| arguments[name].as_str().unwrap_or(name).to_owned();
        Some(match tool {
            "greet" => Self::Greet(text("name")),
            "slow_compute" => {
                let seconds = arguments["seconds"].as_f64().unwrap_or(1.0);
                Self::Compute { seconds, label: text("label") }
            }
            "failing_job" => Self::Fail,
            "protocol_error_job" => Self::Break,
            "confirm_delete" => Self::Delete(text("filename")),
            "multi_input" => Self::Two,
            "test_tool_with_task" => Self::AskThenRun,
            _ => return None,
        })
    }

    /// Whether there is no answering without a task.
    fn needs_task(&self) -> bool {
        matches!(self, Self::Fail | Self::Delete(_) | Self::Two | Self::AskThenRun)
    }

    async fn run(self, task: Option<TaskContext>) -> Result<CallToolResult, TaskExit> {
        match (self, task) {
            (Self::Compute { seconds, label }, task) => {
                let done = sleep(Duration::from_secs_f64(seconds));
                let cancelled = async {
                    match &task {
                        Some(task) => task.cancelled().await,
                        None => std::future::pending().await,
                    }
                };
                tokio::select! {
                    () = cancelled => Err(TaskExit::Cancelled),
                    () = done => Ok(say(format!("{label} took {seconds} s"))),
                }
            }
            (Self::Greet(name) | Self::GreetLater(name), _) => {
                sleep(SHORT).await;
                Ok(say(format!("Hello, {name}!")))
            }
            (Self::Fail, _) => {
                sleep(LONG).await;
                let text = "This job always fails";
                Ok(CallToolResult::error(vec![ContentBlock::text(text)]))
            }
            (Self::Delete(file), Some(task)) => {
                let question = input(&format!("Delete {file}?"), "confirm", "boolean");
                let answer = task.request_input("confirm", question).await?;
                let confirmed = answer["content"]["confirm"].as_bool().unwrap_or(false);
                Ok(say(format!("{file}: confirmed = {confirmed}")))
            }
            (Self::Two, Some(task)) => {
                let first = task.request_input("first", input("The first?", "value", "string"));
                let second = task.request_input("second", input("The second?", "value", "string"));
                let (first, second) = tokio::try_join!(first, second)?;
                Ok(say(format!("{} {}", first["content"], second["content"])))
            }
            (Self::Break | Self::Delete(_) | Self::Two | Self::AskThenRun, _) => {
                sleep(SHORT).await;
                Err(ErrorData::internal_error("This job always breaks", None).into())
            }
        }
    }
}

fn input(message: &str, name: &str, kind: &str) -> InputRequest {
    serde_json::from_value(field(message, name, kind)).unwrap()
}
