//! What the pipelines of one configuration have in common. Whatever can be wrong with a configuration that was read is found here, so
//! that a pipeline can be made at any time, as often as one is needed.

use std::sync::Arc;

use uuid::Uuid;

use super::Pipeline;
use crate::capture::Plan;
use crate::config::{Config, ConfigError};
use crate::otlp::envelope::Envelope;
use crate::redact::Redactor;
use crate::route::Routes;

/// The name of the instrumentation scope, and of the product.
const SCOPE_NAME: &str = "offpath";

/// The plugin's version.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// The least that a record must be able to occupy, whatever the resource takes of a batch: what is always told fits.
const MIN_RECORD_BYTES: usize = 256;

/// A record's tag and length in a batch.
const RECORD_OVERHEAD_BYTES: usize = 4;

/// What the proxy says of itself.
#[derive(Debug, Clone, Default)]
pub struct Node {
    /// `node.id`; empty when unknown.
    pub id: String,
    /// `node.cluster`; empty when unknown.
    pub cluster: String,
}

/// What the pipelines of one configuration have in common.
#[derive(Debug, Clone)]
pub struct Definition {
    pub(super) config: Config,
    node: Node,
    pub(super) plan: Arc<Plan>,
    pub(super) routes: Arc<Routes>,
    pub(super) max_record_bytes: usize,
}

impl Definition {
    /// For a configuration on this node.
    ///
    /// # Errors
    /// When the resource leaves no room for a record in a batch, the routes contradict each other, or what is to be redacted
    /// is in none of them.
    pub fn new(config: Config, node: &Node) -> Result<Self, ConfigError> {
        // All instances' names are equally long.
        let overhead = envelope(&config, node, Uuid::nil()).encoded_len() + RECORD_OVERHEAD_BYTES;
        let max_record_bytes =
            config.logs.max_record_bytes.min(config.batch.max_bytes.saturating_sub(overhead));
        if max_record_bytes < MIN_RECORD_BYTES {
            return Err(ConfigError::new(format!(
                "configuration: `resource`: takes {overhead} of the `batch.max_bytes` of {}, allowed is what leaves {MIN_RECORD_BYTES} for a record",
                config.batch.max_bytes
            )));
        }
        let routes = Arc::new(Routes::new(&config.routes)?);
        Redactor::check(&config.redact, &routes)?;
        Ok(Self { plan: Arc::new(Plan::new(&config)), routes, node: node.clone(), max_record_bytes, config })
    }

    /// What is asked of the host about each request.
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// A pipeline without data. `random` names this instance and spreads its exports over the interval.
    pub fn pipeline(&self, random: [u8; 16], now_unix_nano: u64) -> Pipeline {
        Pipeline::of(self.clone(), random, now_unix_nano)
    }

    pub(super) fn envelope(&self, instance_id: Uuid) -> Envelope {
        envelope(&self.config, &self.node, instance_id)
    }
}

/// The resource: what the user says, what the proxy says, and which instance this is, which nobody else may say: two
/// writers of one stream would spoil it.
fn envelope(config: &Config, node: &Node, instance_id: Uuid) -> Envelope {
    let mut resource = config.resource.clone();
    let service_name = if node.cluster.is_empty() { "envoy" } else { &node.cluster };
    resource.entry("service.name".to_owned()).or_insert_with(|| service_name.to_owned());
    if !node.id.is_empty() {
        resource.entry("envoy.node.id".to_owned()).or_insert_with(|| node.id.clone());
    }
    resource.insert("service.instance.id".to_owned(), instance_id.to_string());
    Envelope::new(resource.iter().map(|(key, value)| (key.as_str(), value.as_str())), SCOPE_NAME, VERSION)
}
