//! What a lane's application and Envoy are told.

use std::{net::SocketAddr, path::Path};

use anyhow::{Context as _, bail};
use serde_json::json;

use crate::{
    fetch::ENVOY_1_40,
    harness::{
        bootstrap::{Bootstrap, HTTP_CONNECTION_MANAGER, Mode},
        collector::{self, Collector},
        process::Process,
        wait,
    },
    incident::{
        form::{Form, Setup},
        postgres::Database,
    },
    project::Project,
};

/// Starts the application, and says where it listens.
///
/// # Errors
/// When it ends instead; the error holds its output.
pub(super) async fn application(
    binary: &Path,
    folder: &Path,
    setup: &Setup,
    database: Option<&Database>,
    collector: Option<&Collector>,
) -> anyhow::Result<(Process, SocketAddr)> {
    let mut arguments = vec!["serve".to_owned()];
    let mut set = |name: &str, value: String| arguments.extend([format!("--{name}"), value]);
    set("log", setup.form.application_log().to_owned());
    set("median-ms", setup.service_times.median_ms.to_string());
    set("mean-ms", setup.service_times.mean_ms.to_string());
    set("seed", setup.service_times.seed.to_string());
    set("queue-entries", setup.queue_entries.to_string());
    if let Some(database) = database {
        set("database", database.url_file().display().to_string());
    }
    if let Some(collector) = collector {
        set("collector", collector.otlp().to_string());
        set("collector-api", collector.api().address().to_string());
    }
    let mut process = Process::start("application", binary, arguments, folder)?;
    let address = wait::until("the application listens", async || {
        if let Some(status) = process.ended()? {
            bail!("the application did not start ({status}):\n{}", process.output()?);
        }
        Ok(collector::listening(&process.output()?, "application"))
    })
    .await?;
    Ok((process, address))
}

/// The shipped configuration without its tracer; but for the edge form without the plugin, and everywhere without bounds on
/// how many requests there are at once and how long they take: what is shown is the application's doing, not Envoy's.
///
/// # Errors
/// When the shipped configuration is not as it is known here.
pub(super) fn bootstrap(
    project: &Project,
    setup: &Setup,
    application: SocketAddr,
    collector: Option<&Collector>,
) -> anyhow::Result<Bootstrap> {
    let nowhere = SocketAddr::from(([127, 0, 0, 1], 9));
    let mut bootstrap = Bootstrap::shipped(project, Mode::AccessLogger)?
        .for_release(ENVOY_1_40)?
        .without_tracing()?
        .with_servers(application, collector.map_or(nowhere, Collector::otlp))?
        .with_plugin_keys(&setup.plugin_keys)?;
    if setup.form != Form::Edge {
        *bootstrap.at(&format!("{HTTP_CONNECTION_MANAGER}/access_log"))? = json!([]);
    }
    let routes = format!("{HTTP_CONNECTION_MANAGER}/route_config/virtual_hosts/0/routes");
    *bootstrap.at(&routes)? = json!([
        {"name": "task", "match": {"prefix": "/"}, "route": {"cluster": "app", "timeout": "0s"}}
    ]);
    let many = 1_000_000;
    bootstrap.at("/static_resources/clusters/0")?.as_object_mut().context("not an object")?.insert(
        "circuit_breakers".to_owned(),
        json!({"thresholds": [{
            "max_connections": many, "max_pending_requests": many, "max_requests": many,
        }]}),
    );
    Ok(bootstrap)
}
