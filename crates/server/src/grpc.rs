//! The gRPC face of the services: the same handlers, on the same port.

use std::sync::Arc;

use axum::Router;
use proto::accounts::accounts_service_server::AccountsServiceServer;
use proto::actions::actions_service_server::ActionsServiceServer;
use proto::agents::agents_service_server::AgentsServiceServer;
use proto::approvals::approvals_service_server::ApprovalsServiceServer;
use proto::connectors::connectors_service_server::ConnectorsServiceServer;
use proto::evidence::evidence_service_server::EvidenceServiceServer;
use proto::identity::identity_service_server::IdentityServiceServer;
use proto::ledger::ledger_service_server::LedgerServiceServer;
use proto::me::me_service_server::MeServiceServer;
use proto::metering::metering_service_server::MeteringServiceServer;
use proto::policies::policies_service_server::PoliciesServiceServer;
use proto::receipts::receipts_service_server::ReceiptsServiceServer;
use proto::recovery::recovery_service_server::RecoveryServiceServer;
use proto::releases::releases_service_server::ReleasesServiceServer;
use proto::runs::runs_service_server::RunsServiceServer;
use proto::runtime::runtime_service_server::RuntimeServiceServer;
use proto::sandboxes::sandboxes_service_server::SandboxesServiceServer;
use proto::secrets::secrets_service_server::SecretsServiceServer;
use proto::system::system_service_server::SystemServiceServer;
use proto::tools::tools_service_server::ToolsServiceServer;
use proto::triggers::triggers_service_server::TriggersServiceServer;
use proto::upstreams::upstreams_service_server::UpstreamsServiceServer;
use proto::usecases::use_cases_service_server::UseCasesServiceServer;
use proto::workflows::workflows_service_server::WorkflowsServiceServer;
use tonic::server::NamedService;

use crate::limits;
use crate::start::Served;

/// Every service under its gRPC name.
pub(crate) fn router(services: &Served) -> Router {
    macro_rules! serve {
        ($router:expr, $server:ident, $service:ident) => {{
            let server = $server::from_arc(Arc::clone(&services.$service))
                .max_decoding_message_size(limits::RAW_BODY_BYTES_MAX);
            $router.route_service(&path_of(&server), server)
        }};
    }
    let router = Router::new();
    let router = serve!(router, AccountsServiceServer, accounts);
    let router = serve!(router, ActionsServiceServer, actions);
    let router = serve!(router, AgentsServiceServer, agents);
    let router = serve!(router, ApprovalsServiceServer, approvals);
    let router = serve!(router, ConnectorsServiceServer, connectors);
    let router = serve!(router, EvidenceServiceServer, evidence);
    let router = serve!(router, IdentityServiceServer, identity);
    let router = serve!(router, LedgerServiceServer, ledger);
    let router = serve!(router, MeServiceServer, me);
    let router = serve!(router, MeteringServiceServer, metering);
    let router = serve!(router, PoliciesServiceServer, policies);
    let router = serve!(router, ReceiptsServiceServer, receipts);
    let router = serve!(router, RecoveryServiceServer, recovery);
    let router = serve!(router, ReleasesServiceServer, releases);
    let router = serve!(router, RunsServiceServer, runs);
    let router = serve!(router, RuntimeServiceServer, runtime);
    let router = serve!(router, SandboxesServiceServer, sandboxes);
    let router = serve!(router, SecretsServiceServer, secrets);
    let router = serve!(router, SystemServiceServer, system);
    let router = serve!(router, ToolsServiceServer, tools);
    let router = serve!(router, TriggersServiceServer, triggers);
    let router = serve!(router, UpstreamsServiceServer, upstreams);
    let router = serve!(router, UseCasesServiceServer, usecases);
    serve!(router, WorkflowsServiceServer, workflows)
}

fn path_of<S: NamedService>(_: &S) -> String {
    format!("/{}/{{method}}", S::NAME)
}
