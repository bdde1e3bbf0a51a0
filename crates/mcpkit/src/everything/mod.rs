//! A server that offers everything there is in MCP: what the official conformance suite asks of a
//! server, and some tools of ours. Whatever asks the client does so on either revision: with
//! requests of its own up to 2025-11-25, with `input_required` since.

mod asking;
mod catalog;
mod jobs;
mod script;
mod tools;

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use rmcp::model::{
    CacheScope, CallToolRequestParams, CallToolResponse, CancelTaskParams, CompleteRequestParams,
    CompleteResult, GetPromptRequestParams, GetPromptResponse, GetTaskParams, GetTaskResult,
    Implementation, ListPromptsResult, ListResourceTemplatesResult, ListResourcesResult,
    ListToolsResult, LoggingLevel, PaginatedRequestParams, ProtocolVersion,
    ReadResourceRequestParams, ReadResourceResponse, RequestStateCodec, ResourceContents,
    ServerCapabilities, ServerConfig, SetLevelRequestParams, SubscribeRequestParams,
    SubscriptionFilter, Tool, UnsubscribeRequestParams, UpdateTaskParams,
};
use rmcp::service::{Peer, RequestContext, SubscriptionContext, SubscriptionSink};
use rmcp::task_manager::TaskManager;
use rmcp::transport::streamable_http_server::session::local::LocalSessionManager;
use rmcp::transport::{StreamableHttpServerConfig, StreamableHttpService};
use rmcp::{ErrorData, RoleServer, ServerHandler, ServiceExt as _};
use serde_json::json;
use tokio_util::sync::CancellationToken;

use self::catalog::catalog;
use crate::running::ANYWHERE;
use crate::{Revisions, Running};

/// How long what we list stays true.
const TTL_MS: u64 = 60_000;
/// Proves that a state is ours. It protects nothing: this is a fixture.
const STATE_KEY: &[u8] = b"the states of a fixture are no secret to anybody";

/// The server. Clones share what it keeps.
#[derive(Clone)]
pub struct Everything {
    revisions: Revisions,
    states: RequestStateCodec,
    tasks: TaskManager,
    kept: Arc<Kept>,
}

/// The tool and the prompt that come and go.
const FLEETING: &str = "fleeting";

/// What lasts as long as the server.
#[derive(Default)]
struct Kept {
    tool_gone: AtomicBool,
    prompt_gone: AtomicBool,
    notes: Mutex<Vec<String>>,
    cancelled: AtomicU64,
    level: Mutex<Option<LoggingLevel>>,
    /// Who of the older revisions subscribed to what.
    subscribers: Mutex<Vec<(String, Peer<RoleServer>)>>,
    /// Who of 2026-07-28 listens.
    listeners: Mutex<BTreeMap<u64, SubscriptionSink>>,
    next: AtomicU64,
}

impl std::fmt::Debug for Everything {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Everything").field("revisions", &self.revisions).finish_non_exhaustive()
    }
}

impl Everything {
    /// A server of these revisions, with no notes.
    #[must_use]
    pub fn new(revisions: Revisions) -> Self {
        Self {
            revisions,
            states: RequestStateCodec::new_unchecked(STATE_KEY),
            tasks: TaskManager::new(),
            kept: Arc::default(),
        }
    }

    /// The notes that the tool `write_note` has kept: the effects of this server.
    #[must_use]
    pub fn notes(&self) -> Vec<String> {
        self.kept.notes.lock().unwrap().clone()
    }

    /// How many calls of the tool `wait` were cancelled.
    #[must_use]
    pub fn cancelled(&self) -> u64 {
        self.kept.cancelled.load(Ordering::SeqCst)
    }

    /// Serves it over streamable HTTP on a free port.
    pub async fn http(&self) -> Running {
        self.http_at(ANYWHERE).await
    }

    /// The same at `address`, whose port may be 0.
    pub async fn http_at(&self, address: SocketAddr) -> Running {
        let end = CancellationToken::new();
        let config =
            StreamableHttpServerConfig::default().with_cancellation_token(end.child_token());
        let server = self.clone();
        let service = StreamableHttpService::new(
            move || Ok(server.clone()),
            LocalSessionManager::default().into(),
            config,
        );
        let router = axum::Router::new().nest_service("/mcp", service);
        Running::serve(address, end, router).await
    }

    /// Serves it over these two ends until the client closes them.
    ///
    /// # Panics
    /// Where the client breaks the protocol.
    pub async fn stdio<R, W>(self, read: R, write: W)
    where
        R: tokio::io::AsyncRead + Send + Unpin + 'static,
        W: tokio::io::AsyncWrite + Send + Unpin + 'static,
    {
        let service = self.serve((read, write)).await.unwrap();
        let _ended = service.waiting().await.unwrap();
    }
}

fn new_revision(cx: &RequestContext<RoleServer>) -> bool {
    cx.protocol_version().is_some_and(|version| version >= ProtocolVersion::V_2026_07_28)
}

impl ServerHandler for Everything {
    fn get_info(&self) -> ServerConfig {
        let capabilities = ServerCapabilities::builder()
            .enable_completions()
            .enable_logging()
            .enable_prompts()
            .enable_prompts_list_changed()
            .enable_resources()
            .enable_resources_list_changed()
            .enable_resources_subscribe()
            .enable_tasks()
            .enable_tools()
            .enable_tool_list_changed()
            .build();
        ServerConfig::new(capabilities)
            .with_server_info(Implementation::new("everything", env!("CARGO_PKG_VERSION")))
            .with_instructions("A fixture: it offers everything and means nothing by it.")
    }

    fn supported_protocol_versions(&self) -> Cow<'static, [ProtocolVersion]> {
        Cow::Borrowed(self.revisions.versions())
    }

    fn get_tool(&self, name: &str) -> Option<Tool> {
        catalog().tools.iter().find(|tool| tool.name == name).cloned()
    }

    async fn list_tools(
        &self,
        _request: Option<PaginatedRequestParams>,
        _cx: RequestContext<RoleServer>,
    ) -> Result<ListToolsResult, ErrorData> {
        let gone = self.kept.tool_gone.load(Ordering::SeqCst);
        let mut tools = catalog().tools.clone();
        tools.retain(|tool| !gone || tool.name != FLEETING);
        let listed = ListToolsResult { tools, ..Default::default() };
        Ok(listed.with_ttl_ms(TTL_MS).with_cache_scope(CacheScope::Public))
    }

    async fn call_tool(
        &self,
        request: CallToolRequestParams,
        cx: RequestContext<RoleServer>,
    ) -> Result<CallToolResponse, ErrorData> {
        self.tool(request, &cx).await
    }

    async fn list_resources(
        &self,
        _request: Option<PaginatedRequestParams>,
        _cx: RequestContext<RoleServer>,
    ) -> Result<ListResourcesResult, ErrorData> {
        let resources = catalog().resources.clone();
        let listed = ListResourcesResult { resources, ..Default::default() };
        Ok(listed.with_ttl_ms(TTL_MS).with_cache_scope(CacheScope::Public))
    }

    async fn list_resource_templates(
        &self,
        _request: Option<PaginatedRequestParams>,
        _cx: RequestContext<RoleServer>,
    ) -> Result<ListResourceTemplatesResult, ErrorData> {
        let resource_templates = catalog().templates.clone();
        let listed = ListResourceTemplatesResult { resource_templates, ..Default::default() };
        Ok(listed.with_ttl_ms(TTL_MS).with_cache_scope(CacheScope::Public))
    }

    async fn read_resource(
        &self,
        request: ReadResourceRequestParams,
        _cx: RequestContext<RoleServer>,
    ) -> Result<ReadResourceResponse, ErrorData> {
        let uri = request.uri.as_str();
        let contents: ResourceContents = catalog().contents(uri).ok_or_else(|| {
            ErrorData::resource_not_found("there is no such resource", Some(json!({"uri": uri})))
        })?;
        let read = rmcp::model::ReadResourceResult::new(vec![contents]);
        Ok(read.with_ttl_ms(TTL_MS).with_cache_scope(CacheScope::Public).into())
    }

    async fn subscribe(
        &self,
        request: SubscribeRequestParams,
        cx: RequestContext<RoleServer>,
    ) -> Result<(), ErrorData> {
        self.kept.subscribers.lock().unwrap().push((request.uri.to_string(), cx.peer));
        Ok(())
    }

    async fn unsubscribe(
        &self,
        request: UnsubscribeRequestParams,
        _cx: RequestContext<RoleServer>,
    ) -> Result<(), ErrorData> {
        self.kept.subscribers.lock().unwrap().retain(|(uri, _)| *uri != *request.uri);
        Ok(())
    }

    fn accepted_subscription_filter(
        &self,
        requested: &SubscriptionFilter,
    ) -> Option<SubscriptionFilter> {
        Some(requested.supported_by(&self.get_info().capabilities))
    }

    async fn listen(&self, context: SubscriptionContext) -> Result<(), ErrorData> {
        let number = self.kept.next.fetch_add(1, Ordering::SeqCst);
        self.kept.listeners.lock().unwrap().insert(number, context.sink().clone());
        context.cancelled().await;
        self.kept.listeners.lock().unwrap().remove(&number);
        Ok(())
    }

    async fn list_prompts(
        &self,
        _request: Option<PaginatedRequestParams>,
        _cx: RequestContext<RoleServer>,
    ) -> Result<ListPromptsResult, ErrorData> {
        let gone = self.kept.prompt_gone.load(Ordering::SeqCst);
        let mut prompts = catalog().prompts.clone();
        prompts.retain(|prompt| !gone || prompt.name != FLEETING);
        let listed = ListPromptsResult { prompts, ..Default::default() };
        Ok(listed.with_ttl_ms(TTL_MS).with_cache_scope(CacheScope::Public))
    }

    async fn get_prompt(
        &self,
        request: GetPromptRequestParams,
        cx: RequestContext<RoleServer>,
    ) -> Result<GetPromptResponse, ErrorData> {
        self.prompt(request, &cx).await
    }

    async fn complete(
        &self,
        request: CompleteRequestParams,
        _cx: RequestContext<RoleServer>,
    ) -> Result<CompleteResult, ErrorData> {
        catalog::complete(&request)
    }

    async fn set_level(
        &self,
        request: SetLevelRequestParams,
        _cx: RequestContext<RoleServer>,
    ) -> Result<(), ErrorData> {
        *self.kept.level.lock().unwrap() = Some(request.level);
        Ok(())
    }

    async fn get_task(
        &self,
        request: GetTaskParams,
        _cx: RequestContext<RoleServer>,
    ) -> Result<GetTaskResult, ErrorData> {
        self.tasks.get_task(&request.task_id).map(GetTaskResult::new)
    }

    async fn update_task(
        &self,
        request: UpdateTaskParams,
        _cx: RequestContext<RoleServer>,
    ) -> Result<(), ErrorData> {
        self.tasks.update_task(&request.task_id, request.input_responses)
    }

    async fn cancel_task(
        &self,
        request: CancelTaskParams,
        _cx: RequestContext<RoleServer>,
    ) -> Result<(), ErrorData> {
        self.tasks.cancel_task(&request.task_id)
    }
}
