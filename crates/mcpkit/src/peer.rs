//! The official SDK's client, of either revision, that says what it was asked and told.

use std::collections::BTreeMap;
use std::process::Stdio;
use std::sync::{Arc, Mutex};

use rmcp::model::{
    CallToolRequest, CallToolRequestParams, ClientCapabilities, ClientConfig, ClientRequest,
    CreateMessageRequestParams, CreateMessageResult, ElicitRequestParams, ElicitResult,
    ElicitationAction, GetPromptRequestParams, Implementation, ListRootsResult,
    LoggingMessageNotificationParam, ProgressNotificationParam, ProtocolVersion,
    ReadResourceRequestParams, ResourceUpdatedNotificationParam, Root, SamplingMessage,
    SubscribeRequestParams,
};
use rmcp::service::{
    NotificationContext, PeerRequestOptions, RequestContext, RequestHandle, RunningService,
    ServiceError,
};
use rmcp::transport::streamable_http_client::StreamableHttpClientTransportConfig;
use rmcp::transport::{StreamableHttpClientTransport, TokioChildProcess};
use rmcp::{ClientHandler, ClientLifecycleMode, ClientServiceExt as _, ErrorData, RoleClient};
use serde_json::{Value, json};

/// Which revision the client speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Speaks {
    /// 2025-11-25: it begins with `initialize`.
    Old,
    /// 2026-07-28.
    New,
}

/// What the client was asked and told, in the order of arrival.
#[derive(Clone, Debug, Default)]
pub struct Heard(Arc<Mutex<Vec<(String, Value)>>>);

impl Heard {
    fn push(&self, method: &str, params: impl serde::Serialize) {
        let params = serde_json::to_value(params).unwrap();
        self.0.lock().unwrap().push((method.to_owned(), params));
    }

    /// The parameters of what came under `method`.
    #[must_use]
    pub fn of(&self, method: &str) -> Vec<Value> {
        let heard = self.0.lock().unwrap();
        heard.iter().filter(|(name, _)| name == method).map(|(_, params)| params.clone()).collect()
    }
}

/// Answers whatever is asked: forms with these fields, a model that says "a model's answer", one
/// root.
#[derive(Clone, Debug)]
pub struct Handler {
    /// What it fills into forms.
    pub fields: BTreeMap<String, Value>,
    /// What came.
    pub heard: Heard,
    version: ProtocolVersion,
}

/// A connected client.
pub type Peer = RunningService<RoleClient, Handler>;

/// A connected client, and what it heard.
#[derive(Debug)]
pub struct Client {
    /// The SDK's client.
    pub peer: Peer,
    /// What came.
    pub heard: Heard,
    speaks: Speaks,
}

/// A call of `tool`.
#[must_use]
pub fn call(tool: &str, arguments: Value) -> CallToolRequestParams {
    let Value::Object(arguments) = arguments else { panic!("arguments are an object") };
    CallToolRequestParams::new(tool.to_owned()).with_arguments(arguments)
}

impl Client {
    /// Connects over streamable HTTP, with `credential` as a bearer token.
    ///
    /// # Errors
    /// Where the server does not want to.
    pub async fn http(
        url: &str,
        credential: Option<&str>,
        speaks: Speaks,
    ) -> Result<Self, Box<dyn std::error::Error + Send + Sync>> {
        let mut config = StreamableHttpClientTransportConfig::with_uri(url);
        config.auth_header = credential.map(str::to_owned);
        let transport = StreamableHttpClientTransport::from_config(config);
        let handler = Handler::new(speaks);
        let heard = handler.heard.clone();
        let peer = handler.serve_with_lifecycle(transport, lifecycle(speaks)).await?;
        Ok(Self { peer, heard, speaks })
    }

    /// Starts a program and connects over stdio.
    ///
    /// # Errors
    /// Where the server does not want to.
    pub async fn stdio(
        command: &[String],
        speaks: Speaks,
    ) -> Result<Self, Box<dyn std::error::Error + Send + Sync>> {
        let mut process = tokio::process::Command::new(&command[0]);
        process.args(&command[1..]);
        let (transport, _) =
            TokioChildProcess::builder(process).stderr(Stdio::inherit()).spawn()?;
        let handler = Handler::new(speaks);
        let heard = handler.heard.clone();
        let peer = handler.serve_with_lifecycle(transport, lifecycle(speaks)).await?;
        Ok(Self { peer, heard, speaks })
    }

    /// Calls a tool and gives its result as it is on the wire.
    ///
    /// # Errors
    /// What the server answered in place of a result.
    pub async fn call(&self, tool: &str, arguments: Value) -> Result<Value, ServiceError> {
        let result = self.peer.call_tool(call(tool, arguments)).await?;
        Ok(serde_json::to_value(result).unwrap())
    }

    /// The names of all tools, over all pages.
    ///
    /// # Errors
    /// What the server answered in place of a list.
    pub async fn tools(&self) -> Result<Vec<String>, ServiceError> {
        let tools = self.peer.list_all_tools().await?;
        Ok(tools.into_iter().map(|tool| tool.name.into_owned()).collect())
    }
}

/// A call that has not ended.
#[derive(Debug)]
pub struct Pending(RequestHandle<RoleClient>);

impl Pending {
    /// Tells the server that nobody waits any more.
    ///
    /// # Errors
    /// Where the connection is gone.
    pub async fn cancel(self) -> Result<(), ServiceError> {
        self.0.cancel(Some("the test cancels".to_owned())).await
    }
}

impl Client {
    /// Begins a call that is not waited for.
    ///
    /// # Errors
    /// Where the connection is gone.
    pub async fn begin(&self, tool: &str, arguments: Value) -> Result<Pending, ServiceError> {
        let request = ClientRequest::CallToolRequest(CallToolRequest::new(call(tool, arguments)));
        let options = PeerRequestOptions::no_options();
        self.peer.send_cancellable_request(request, options).await.map(Pending)
    }

    /// The contents of a resource, as they are on the wire.
    ///
    /// # Errors
    /// What the server answered in place of a result.
    pub async fn read(&self, uri: &str) -> Result<Value, ServiceError> {
        let read = self.peer.read_resource(ReadResourceRequestParams::new(uri)).await?;
        Ok(serde_json::to_value(read).unwrap())
    }

    /// A prompt, as it is on the wire.
    ///
    /// # Errors
    /// What the server answered in place of a result.
    pub async fn prompt(&self, name: &str, arguments: Value) -> Result<Value, ServiceError> {
        let Value::Object(arguments) = arguments else { panic!("arguments are an object") };
        let request = GetPromptRequestParams::new(name).with_arguments(arguments);
        Ok(serde_json::to_value(self.peer.get_prompt(request).await?).unwrap())
    }

    /// The names of all prompts.
    ///
    /// # Errors
    /// What the server answered in place of a list.
    pub async fn prompts(&self) -> Result<Vec<String>, ServiceError> {
        let prompts = self.peer.list_all_prompts().await?;
        Ok(prompts.into_iter().map(|prompt| prompt.name).collect())
    }

    /// The URIs of all resources.
    ///
    /// # Errors
    /// What the server answered in place of a list.
    pub async fn resources(&self) -> Result<Vec<String>, ServiceError> {
        let resources = self.peer.list_all_resources().await?;
        Ok(resources.into_iter().map(|resource| resource.uri.to_string()).collect())
    }

    /// The values that complete an argument of a prompt.
    ///
    /// # Errors
    /// What the server answered in place of a result.
    pub async fn complete(
        &self,
        prompt: &str,
        argument: &str,
        begins: &str,
    ) -> Result<Vec<String>, ServiceError> {
        self.peer.complete_prompt_simple(prompt, argument, begins).await
    }

    /// Watches a resource, in the way of the revision; changes are heard.
    ///
    /// # Errors
    /// What the server answered in place of a subscription.
    pub async fn watch(&self, uri: &str) -> Result<(), ServiceError> {
        if self.speaks == Speaks::Old {
            return self.peer.subscribe(SubscribeRequestParams::new(uri)).await;
        }
        let filter = serde_json::from_value(json!({"resourceSubscriptions": [uri]})).unwrap();
        let mut subscription = self.peer.listen(filter).await?;
        let heard = self.heard.clone();
        tokio::spawn(async move {
            while let Ok(Some(notification)) = subscription.next().await {
                let message = serde_json::to_value(notification).unwrap();
                heard.push(message["method"].as_str().unwrap(), message["params"].clone());
            }
        });
        Ok(())
    }
}

fn lifecycle(speaks: Speaks) -> ClientLifecycleMode {
    match speaks {
        Speaks::Old => ClientLifecycleMode::Initialize,
        Speaks::New => ClientLifecycleMode::Discover {
            preferred_versions: vec![ProtocolVersion::V_2026_07_28],
        },
    }
}

impl Handler {
    fn new(speaks: Speaks) -> Self {
        let fields = [("name", json!("Ada")), ("color", json!("blue")), ("ok", json!(true))];
        let fields = fields.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
        let version = match speaks {
            Speaks::Old => ProtocolVersion::V_2025_11_25,
            Speaks::New => ProtocolVersion::V_2026_07_28,
        };
        Self { fields, heard: Heard::default(), version }
    }

    fn fill(&self, schema: &Value) -> Value {
        let empty = serde_json::Map::new();
        let properties = schema["properties"].as_object().unwrap_or(&empty);
        let filled = properties.keys().map(|name| {
            let value = self.fields.get(name).cloned().unwrap_or_else(|| json!("something"));
            (name.clone(), value)
        });
        Value::Object(filled.collect())
    }
}

impl ClientHandler for Handler {
    fn get_info(&self) -> ClientConfig {
        let capabilities = ClientCapabilities::builder()
            .enable_elicitation()
            .enable_roots()
            .enable_sampling()
            .build();
        ClientConfig::new(capabilities, Implementation::new("peer", "1"))
            .with_protocol_version(self.version.clone())
    }

    async fn create_elicitation(
        &self,
        request: ElicitRequestParams,
        _cx: RequestContext<RoleClient>,
    ) -> Result<ElicitResult, ErrorData> {
        self.heard.push("elicitation/create", &request);
        let request = serde_json::to_value(request).unwrap();
        let content = self.fill(&request["requestedSchema"]);
        Ok(ElicitResult::new(ElicitationAction::Accept).with_content(content))
    }

    async fn create_message(
        &self,
        request: CreateMessageRequestParams,
        _cx: RequestContext<RoleClient>,
    ) -> Result<CreateMessageResult, ErrorData> {
        self.heard.push("sampling/createMessage", &request);
        let message = SamplingMessage::assistant_text("a model's answer");
        Ok(CreateMessageResult::new(message, "a model".to_owned()))
    }

    async fn list_roots(
        &self,
        _cx: RequestContext<RoleClient>,
    ) -> Result<ListRootsResult, ErrorData> {
        self.heard.push("roots/list", json!({}));
        Ok(ListRootsResult::new(vec![Root::new("file:///a/root")]))
    }

    async fn on_progress(
        &self,
        params: ProgressNotificationParam,
        _cx: NotificationContext<RoleClient>,
    ) {
        self.heard.push("notifications/progress", params);
    }

    async fn on_logging_message(
        &self,
        params: LoggingMessageNotificationParam,
        _cx: NotificationContext<RoleClient>,
    ) {
        self.heard.push("notifications/message", params);
    }

    async fn on_resource_updated(
        &self,
        params: ResourceUpdatedNotificationParam,
        _cx: NotificationContext<RoleClient>,
    ) {
        self.heard.push("notifications/resources/updated", params);
    }

    async fn on_tool_list_changed(&self, _cx: NotificationContext<RoleClient>) {
        self.heard.push("notifications/tools/list_changed", json!({}));
    }
}
