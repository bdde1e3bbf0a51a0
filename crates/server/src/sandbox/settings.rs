//! The sections `sandbox` and `attestation` of `tally.yaml`.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::RangeInclusive;
use std::path::PathBuf;

use kernel::attestation::{Level, Limits, SandboxType};
use kernel::capability::{Capabilities, Network};
use kernel::values::Digest;
use serde::{Deserialize, Serialize};

use super::limits;
use crate::ConfigError;

/// The only engine.
const WASMTIME: &str = "wasmtime";
/// The runtimes that there can be.
const RUNTIMES: [&str; 2] = ["python", "javascript"];

/// The section `sandbox`: what untrusted code runs in, and the most that it may be granted.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SandboxConfig {
    /// What keeps code apart where a request does not say: `standard` or `light`.
    pub default_type: SandboxType,
    /// WebAssembly.
    pub wasm: WasmConfig,
    /// The most that any request or tool may be granted. Nothing where absent.
    pub capabilities: Capabilities,
    /// Trusted execution environments: there are none yet.
    pub tee: TeeConfig,
    /// What holds for every execution.
    pub policies: SandboxPolicies,
    /// How long an execution may take, in milliseconds. Waiting for people does not count.
    pub wall_ms: u64,
    /// Units of fuel of an execution, about one an instruction.
    pub fuel: u64,
    /// Bytes of a result, and of each file that is written.
    pub output_bytes: u64,
    /// Calls of tools that an execution may make.
    pub tool_calls: u32,
    /// How long a call out of a sandbox waits for people, in seconds.
    pub hold_s: u32,
    /// The folder of the interpreters, as `cargo xtask runtimes` makes it; the variable
    /// `TALLY_RUNTIMES` names it where absent.
    pub runtimes: Option<PathBuf>,
    /// The digests that interpreters must have: `python`, `javascript`.
    pub runtime_digests: BTreeMap<String, Digest>,
    /// The folder of compiled components; `sandbox/compiled` in `data` where absent.
    pub cache: Option<PathBuf>,
    /// Processes as sandboxes.
    pub light: LightConfig,
    /// The variables that exist for code, of which `capabilities.env` grants some. None of the
    /// server's own.
    pub env: Variables,
}

/// What executions by WebAssembly may use.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct WasmConfig {
    /// `wasmtime`.
    pub runtime: String,
    /// Memory of an execution, in MiB.
    pub memory_limit_mb: u32,
    /// How long its code may run, in milliseconds. Waiting does not count.
    pub cpu_quota_ms: u64,
}

impl Default for WasmConfig {
    fn default() -> Self {
        Self {
            runtime: WASMTIME.to_owned(),
            memory_limit_mb: limits::MEMORY_MB_DEFAULT,
            cpu_quota_ms: limits::CPU_MS_DEFAULT,
        }
    }
}

/// Trusted execution environments.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TeeConfig {
    /// Whether code may run in one. Refused as long as there is none.
    pub enabled: bool,
    /// Which: `intel_sgx`, `amd_sev`, `azure_cc`.
    pub provider: Option<String>,
}

/// What holds for every execution.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SandboxPolicies {
    /// Sandboxes of one tenant that live at once.
    pub max_sandboxes: u32,
    /// Whether each execution is attested, whatever its request says. It always is: `false` is
    /// refused.
    pub require_attestation: bool,
    /// Whether no code speaks to any host, whatever it is granted.
    pub network_isolation: bool,
}

impl Default for SandboxPolicies {
    fn default() -> Self {
        Self {
            max_sandboxes: limits::SANDBOXES_DEFAULT,
            require_attestation: true,
            network_isolation: false,
        }
    }
}

/// Processes as sandboxes: for development, never in `prod`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LightConfig {
    /// Whether there are any.
    pub enabled: bool,
    /// The program that runs Python.
    pub python: Option<PathBuf>,
    /// The program that runs JavaScript.
    pub node: Option<PathBuf>,
}

/// Variables by their names. Their values are not shown.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Variables(pub BTreeMap<String, String>);

impl fmt::Debug for Variables {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

/// The section `attestation`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct AttestationConfig {
    /// How much is attested where a request does not say: `basic` or `full`.
    pub level: Level,
    /// Where strangers look attestations up: this server, by its `public_url`.
    pub registry: Option<String>,
    /// How long an attestation is relied on, and what it discloses is kept, in days.
    pub retention_days: u32,
}

impl Default for AttestationConfig {
    fn default() -> Self {
        let retention_days = limits::RETENTION_DAYS_DEFAULT;
        Self { level: Level::Full, registry: None, retention_days }
    }
}

impl Default for SandboxConfig {
    fn default() -> Self {
        Self {
            default_type: SandboxType::Standard,
            wasm: WasmConfig::default(),
            capabilities: Capabilities::default(),
            tee: TeeConfig::default(),
            policies: SandboxPolicies::default(),
            wall_ms: limits::WALL_MS_DEFAULT,
            fuel: limits::FUEL_DEFAULT,
            output_bytes: limits::OUTPUT_BYTES_DEFAULT,
            tool_calls: limits::TOOL_CALLS_DEFAULT,
            hold_s: limits::HOLD_S_DEFAULT,
            runtimes: None,
            runtime_digests: BTreeMap::new(),
            cache: None,
            light: LightConfig::default(),
            env: Variables::default(),
        }
    }
}

type Checked = Result<(), ConfigError>;

fn refuse(key: &'static str, reason: impl Into<String>) -> Checked {
    Err(ConfigError::Value { key, reason: reason.into() })
}

fn within<T: PartialOrd + fmt::Display>(
    key: &'static str,
    value: T,
    range: RangeInclusive<T>,
) -> Checked {
    match range.contains(&value) {
        true => Ok(()),
        false => refuse(key, format!("{} to {}", range.start(), range.end())),
    }
}

impl SandboxConfig {
    /// Checks what serde cannot.
    pub(crate) fn check(&self) -> Checked {
        self.check_types()?;
        let Self { wasm, policies, .. } = self;
        if wasm.runtime != WASMTIME {
            return refuse("sandbox.wasm.runtime", "there is one: `wasmtime`");
        }
        let memory = 1..=limits::MEMORY_MB_MAX;
        within("sandbox.wasm.memory_limit_mb", wasm.memory_limit_mb, memory)?;
        within("sandbox.wasm.cpu_quota_ms", wasm.cpu_quota_ms, 1..=limits::CPU_MS_MAX)?;
        within("sandbox.wall_ms", self.wall_ms, 1..=limits::WALL_MS_MAX)?;
        within("sandbox.fuel", self.fuel, 1..=limits::FUEL_MAX)?;
        within("sandbox.output_bytes", self.output_bytes, 1..=limits::OUTPUT_BYTES_MAX)?;
        within("sandbox.tool_calls", self.tool_calls, 0..=limits::TOOL_CALLS_MAX)?;
        within("sandbox.hold_s", self.hold_s, 0..=limits::HOLD_S_MAX)?;
        let most = 1..=limits::SANDBOXES_MAX;
        within("sandbox.policies.max_sandboxes", policies.max_sandboxes, most)?;
        if !policies.require_attestation {
            let reason = "every execution is attested, in the receipt of its outcome: leave it \
                          true; `attestation.level: basic` tells the least";
            return refuse("sandbox.policies.require_attestation", reason);
        }
        let known = |name: &&String| !RUNTIMES.contains(&name.as_str());
        if let Some(name) = self.runtime_digests.keys().find(known) {
            return refuse("sandbox.runtime_digests", format!("there is no runtime `{name}`"));
        }
        self.check_capabilities()?;
        self.check_env()
    }

    /// What is not there is refused, and nothing weaker takes its place.
    fn check_types(&self) -> Checked {
        if self.tee.enabled {
            let reason = "no trusted execution environment can be used yet: leave it false";
            return refuse("sandbox.tee.enabled", reason);
        }
        let key = "sandbox.default_type";
        match self.default_type {
            SandboxType::Standard => {}
            SandboxType::Light if self.light.enabled => {}
            SandboxType::Light => {
                return refuse(key, "`light` takes `sandbox.light.enabled: true`");
            }
            SandboxType::Hardened | SandboxType::Tee => {
                return refuse(key, "not available yet: write `standard`");
            }
        }
        let programs = [&self.light.python, &self.light.node];
        if programs.into_iter().flatten().any(|path| !path.is_absolute()) {
            return refuse("sandbox.light", "python and node: absolute paths of programs");
        }
        if self.light.enabled && self.light.python.is_none() && self.light.node.is_none() {
            return refuse("sandbox.light", "name the program `python` or `node`, or both");
        }
        Ok(())
    }

    fn check_capabilities(&self) -> Checked {
        if let Err(invalid) = self.capabilities.validate() {
            return refuse("sandbox.capabilities", invalid.to_string());
        }
        if self.policies.network_isolation && !self.capabilities.network.allowlist.is_empty() {
            let reason = "`sandbox.policies.network_isolation` refuses every host: take one out";
            return refuse("sandbox.capabilities.network.allowlist", reason);
        }
        Ok(())
    }

    fn check_env(&self) -> Checked {
        let key = "sandbox.env";
        if self.env.0.len() > limits::VARIABLES_MAX {
            return refuse(key, format!("at most {} variables", limits::VARIABLES_MAX));
        }
        for (name, value) in &self.env.0 {
            let plain = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
            let digit = name.bytes().next().is_none_or(|b| b.is_ascii_digit());
            if digit || !name.bytes().all(plain) {
                return refuse(key, format!("`{name}`: letters, digits and `_`"));
            }
            if value.len() > limits::VARIABLE_BYTES_MAX || value.contains('\0') {
                let most = limits::VARIABLE_BYTES_MAX;
                return refuse(key, format!("`{name}`: at most {most} bytes, none of them zero"));
            }
        }
        Ok(())
    }

    /// What an execution may use where its request does not say, and at most.
    pub(crate) fn limits(&self) -> Limits {
        Limits {
            memory_bytes: u64::from(self.wasm.memory_limit_mb) << 20,
            cpu_ms: self.wasm.cpu_quota_ms,
            wall_ms: self.wall_ms,
            fuel: self.fuel,
            output_bytes: self.output_bytes,
            tool_calls: self.tool_calls,
        }
    }

    /// The most that may be granted.
    pub(crate) fn ceiling(&self) -> Capabilities {
        let mut ceiling = self.capabilities.clone();
        if self.policies.network_isolation {
            let denylist = std::mem::take(&mut ceiling.network.denylist);
            ceiling.network = Network { allowlist: Vec::new(), denylist };
        }
        ceiling
    }
}

impl AttestationConfig {
    /// Checks what serde cannot. `public_url` is where the server says that it is.
    pub(crate) fn check(&self, public_url: Option<&str>) -> Checked {
        if self.registry.is_some() && self.registry.as_deref() != public_url {
            let reason = "attestations are looked up at this server: write its `public_url`, or \
                          leave it out";
            return refuse("attestation.registry", reason);
        }
        let days = 1..=limits::RETENTION_DAYS_MAX;
        within("attestation.retention_days", self.retention_days, days)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Config;

    fn checked(text: &str) -> Result<Config, String> {
        let config: Config = serde_yaml_ng::from_str(text).map_err(|e| e.to_string())?;
        config.check().map_err(|e| e.to_string())?;
        Ok(config)
    }

    /// The example of the configuration reference, as far as it can be had here.
    const REFERENCE: &str = "
public_url: https://oacp-registry.example.com
sandbox:
  default_type: standard
  wasm: {runtime: wasmtime, memory_limit_mb: 256, cpu_quota_ms: 2000}
  capabilities:
    file_read: ['/data/*']
    file_write: ['/tmp/*']
    network: {allowlist: ['*.trusted.com'], denylist: ['169.254.0.0/16']}
    env: [USER, HOME, 'OACP_*']
  tee: {enabled: false, provider: intel_sgx}
attestation: {level: basic, registry: 'https://oacp-registry.example.com', retention_days: 30}
";

    #[test]
    fn the_reference_is_read() {
        let Config { sandbox, attestation, .. } = checked(REFERENCE).unwrap();
        assert_eq!((sandbox.limits().memory_bytes, sandbox.limits().cpu_ms), (256 << 20, 2000));
        assert_eq!(sandbox.ceiling().network.allowlist, ["*.trusted.com"]);
        assert_eq!(sandbox.ceiling().env, ["USER", "HOME", "OACP_*"]);
        assert_eq!((attestation.level, attestation.retention_days), (Level::Basic, 30));
    }

    #[test]
    fn nothing_is_granted_by_default() {
        let Config { sandbox, attestation, .. } = checked("{}").unwrap();
        assert_eq!(sandbox.ceiling(), Capabilities::default());
        assert!(sandbox.env.0.is_empty() && !sandbox.light.enabled);
        assert!(sandbox.policies.require_attestation);
        assert_eq!(sandbox.policies.max_sandboxes, 10);
        assert_eq!((attestation.level, attestation.retention_days), (Level::Full, 90));
    }

    #[test]
    fn bad_values_are_refused_by_their_keys() {
        for (bad, key) in [
            ("sandbox: {tee: {enabled: true, provider: intel_sgx}}", "`sandbox.tee.enabled`"),
            ("sandbox: {default_type: hardened}", "`sandbox.default_type`"),
            ("sandbox: {default_type: tee}", "`sandbox.default_type`"),
            ("sandbox: {default_type: light}", "`sandbox.light.enabled: true`"),
            ("sandbox: {default_type: loose}", "loose"),
            ("sandbox: {light: {enabled: true}}", "`sandbox.light`"),
            ("sandbox: {light: {enabled: true, python: python3}}", "`sandbox.light`"),
            ("sandbox: {wasm: {runtime: wasmer}}", "`sandbox.wasm.runtime`"),
            ("sandbox: {wasm: {memory_limit_mb: 0}}", "`sandbox.wasm.memory_limit_mb`: 1 to 4096"),
            ("sandbox: {wasm: {memory_limit_mb: 4097}}", "`sandbox.wasm.memory_limit_mb`"),
            ("sandbox: {wasm: {cpu_quota_ms: 0}}", "`sandbox.wasm.cpu_quota_ms`"),
            ("sandbox: {wall_ms: 0}", "`sandbox.wall_ms`"),
            ("sandbox: {fuel: 0}", "`sandbox.fuel`"),
            ("sandbox: {output_bytes: 0}", "`sandbox.output_bytes`"),
            ("sandbox: {tool_calls: 10001}", "`sandbox.tool_calls`"),
            ("sandbox: {hold_s: 86401}", "`sandbox.hold_s`"),
            ("sandbox: {policies: {max_sandboxes: 0}}", "`sandbox.policies.max_sandboxes`"),
            ("sandbox: {policies: {max_sandbox: 1}}", "max_sandbox"),
            (
                "sandbox: {policies: {require_attestation: false}}",
                "`sandbox.policies.require_attestation`",
            ),
            ("sandbox: {runtime_digests: {python: abc}}", "runtime_digests"),
            ("sandbox: {env: {'A-B': x}}", "`sandbox.env`"),
            ("sandbox: {env: {'1A': x}}", "`sandbox.env`"),
            ("sandbox: {env: {'': x}}", "`sandbox.env`"),
            ("sandbox: {env: {A: \"x\\0\"}}", "`sandbox.env`"),
            ("sandbox: {capabilities: {files: []}}", "files"),
            ("sandbox: {capabilities: {file_read: ['../x']}}", "`sandbox.capabilities`"),
            ("sandbox: {capabilities: {network: {denylist: [x]}}}", "network.denylist"),
            ("attestation: {level: some}", "some"),
            ("attestation: {registry: 'https://elsewhere.example'}", "`attestation.registry`"),
            ("attestation: {retention_days: 0}", "`attestation.retention_days`"),
            (
                "sandbox: {policies: {network_isolation: true}, \
                 capabilities: {network: {allowlist: [a.example]}}}",
                "`sandbox.capabilities.network.allowlist`",
            ),
        ] {
            let said = checked(bad).unwrap_err();
            assert!(said.contains(key), "{bad}: {said}");
        }
        let digest = "a".repeat(64);
        let ruby = checked(&format!("sandbox: {{runtime_digests: {{ruby: {digest}}}}}"));
        assert!(ruby.unwrap_err().contains("`sandbox.runtime_digests`"));
    }

    #[test]
    fn values_of_variables_are_not_shown() {
        let config = checked("sandbox: {env: {TOKEN: hush}}").unwrap();
        let shown = format!("{config:?}");
        assert!(shown.contains("TOKEN") && !shown.contains("hush"), "{shown}");
    }
}
