//! Envoy's configuration for a run: a file of `envoy/`, as users copy it, with only ports and paths put in. What a test
//! needs beyond that it changes itself, by the place's JSON pointer.

use std::{fs, net::SocketAddr, path::Path};

use anyhow::{Context as _, ensure};
use serde_json::{Value, json};

use crate::{fetch::Release, project::Project};

/// How Envoy loads the plugin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// `envoy/access-logger.yaml`
    AccessLogger,
    /// `envoy/http-filter.yaml`
    HttpFilter,
    /// `envoy/dynamic-module.yaml`: not the wasm plugin, but the same core as a native library.
    DynamicModule,
}

impl Mode {
    /// Those of the wasm plugin.
    pub const WASM: [Self; 2] = [Self::AccessLogger, Self::HttpFilter];

    /// All.
    pub const ALL: [Self; 3] = [Self::AccessLogger, Self::HttpFilter, Self::DynamicModule];

    /// The shipped file.
    #[must_use]
    pub fn file(self) -> &'static str {
        match self {
            Self::AccessLogger => "access-logger.yaml",
            Self::HttpFilter => "http-filter.yaml",
            Self::DynamicModule => "dynamic-module.yaml",
        }
    }

    fn plugin_pointer(self) -> &'static str {
        match self {
            Self::AccessLogger => "/access_log/0/typed_config/config",
            Self::HttpFilter => "/http_filters/0/typed_config/config",
            Self::DynamicModule => "/access_log/0/typed_config",
        }
    }

    /// Within the plugin.
    fn configuration_pointer(self) -> &'static str {
        match self {
            Self::AccessLogger | Self::HttpFilter => "/configuration",
            Self::DynamicModule => "/logger_config",
        }
    }
}

/// The `HttpConnectionManager` of the shipped files' one listener.
pub const HTTP_CONNECTION_MANAGER: &str =
    "/static_resources/listeners/0/filter_chains/0/filters/0/typed_config";

/// How Envoy speaks to the collector.
pub const COLLECTOR_PROTOCOL: &str = "/static_resources/clusters/1/typed_extension_protocol_options\
                                      /envoy.extensions.upstreams.http.v3.HttpProtocolOptions";

/// A whole bootstrap, as a tree.
#[derive(Clone, Debug, PartialEq)]
pub struct Bootstrap {
    tree: Value,
    mode: Mode,
}

impl Bootstrap {
    /// The shipped file, listening on ports that the system chooses.
    ///
    /// # Errors
    /// When the file cannot be read, or a place in it that has to be set is not there.
    pub fn shipped(project: &Project, mode: Mode) -> anyhow::Result<Self> {
        let tree = read_yaml(&project.envoy_folder().join(mode.file()))?;
        let module = if mode == Mode::DynamicModule { project.dynamic_module() } else { project.plugin() };
        Self { tree, mode }.on_ports(0, 0)?.with_module(&module)
    }

    /// Where Envoy listens; 0 is any port.
    ///
    /// # Errors
    /// When the file has no such sockets.
    pub fn on_ports(mut self, admin: u16, listener: u16) -> anyhow::Result<Self> {
        let port = "address/socket_address/port_value";
        self.set(&format!("/admin/{port}"), json!(admin))?;
        self.set(&format!("/static_resources/listeners/0/{port}"), json!(listener))?;
        Ok(self)
    }

    /// Loads another build of the plugin.
    ///
    /// # Errors
    /// When the file has no plugin.
    pub fn with_module(mut self, module: &Path) -> anyhow::Result<Self> {
        if self.mode == Mode::DynamicModule {
            let file = "dynamic_module_config/module/local/filename";
            self.set(&format!("/bootstrap_extensions/0/typed_config/{file}"), json!(module))?;
            *self.plugin(&format!("/{file}"))? = json!(module);
        } else {
            *self.plugin("/vm_config/code/local/filename")? = json!(module);
        }
        Ok(self)
    }

    /// Where the application and the collector are.
    ///
    /// # Errors
    /// When the file has no such clusters.
    pub fn with_servers(mut self, application: SocketAddr, collector: SocketAddr) -> anyhow::Result<Self> {
        for (index, address) in [application, collector].into_iter().enumerate() {
            let socket = format!(
                "/static_resources/clusters/{index}/load_assignment/endpoints/0/lb_endpoints/0/endpoint/address/socket_address"
            );
            self.set(&socket, json!({"address": address.ip(), "port_value": address.port()}))?;
        }
        Ok(self)
    }

    /// Speaks HTTP/2 to the application.
    ///
    /// # Errors
    /// When the file has no clusters.
    pub fn with_http2_application(mut self) -> anyhow::Result<Self> {
        let cluster = self.at("/static_resources/clusters/0")?.as_object_mut().context("not an object")?;
        let options = json!({
            "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
                "explicit_http_config": {"http2_protocol_options": {}},
            },
        });
        cluster.insert("typed_extension_protocol_options".to_owned(), options);
        Ok(self)
    }

    /// As the comment in the file tells users of an older Envoy to do.
    ///
    /// # Errors
    /// When the file has no filters in the collector's cluster.
    pub fn for_release(self, release: Release) -> anyhow::Result<Self> {
        if release.compresses_upstream_requests { Ok(self) } else { self.without_compression() }
    }

    /// Sends calls to the collector as they are.
    ///
    /// # Errors
    /// When the file has no filters in the collector's cluster.
    pub fn without_compression(mut self) -> anyhow::Result<Self> {
        self.at(COLLECTOR_PROTOCOL)?.as_object_mut().context("not an object")?.remove("http_filters");
        Ok(self)
    }

    /// Leaves Envoy's tracer out, as the comment in the file tells: no spans, and each request's `traceparent` stays as
    /// the client sent it.
    ///
    /// # Errors
    /// When the file has no tracer.
    pub fn without_tracing(mut self) -> anyhow::Result<Self> {
        let manager = self.at(HTTP_CONNECTION_MANAGER)?.as_object_mut().context("not an object")?;
        manager.remove("tracing").context("there is no `tracing`")?;
        let layers = self.at("/layered_runtime/layers")?.as_array_mut().context("not a list")?;
        let before = layers.len();
        layers.retain(|layer| layer.get("name") != Some(&json!("tracing")));
        ensure!(layers.len() < before, "there is no runtime layer `tracing`");
        Ok(self)
    }

    /// Changes the plugin's configuration: each pair is a key with its parents, `metrics.interval`, and its value.
    ///
    /// # Errors
    /// When the file has no plugin, or its configuration is not JSON.
    pub fn with_plugin_keys(mut self, keys: &[(&str, Value)]) -> anyhow::Result<Self> {
        let text = self.plugin_configuration("/value")?;
        let mut configuration: Value =
            serde_json::from_str(text.as_str().context("the plugin's configuration is not a string")?)
                .context("the plugin's configuration is not JSON")?;
        for (path, value) in keys {
            let mut place = &mut configuration;
            for key in path.split('.') {
                place = place
                    .as_object_mut()
                    .with_context(|| format!("`{path}` leads through something that is no object"))?
                    .entry(key)
                    .or_insert_with(|| json!({}));
            }
            *place = value.clone();
        }
        *text = json!(configuration.to_string());
        Ok(self)
    }

    /// Puts Envoy's own OTLP/HTTP access logger in the plugin's place, sending to the same cluster at `collector`.
    ///
    /// # Errors
    /// When the file has no such cluster or no listener.
    pub fn with_native_logger(mut self, collector: SocketAddr) -> anyhow::Result<Self> {
        let attribute = |key: &str, value: &str| json!({"key": key, "value": {"string_value": value}});
        let logger = json!([{
            "name": "envoy.access_loggers.open_telemetry",
            "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.access_loggers.open_telemetry.v3.OpenTelemetryAccessLogConfig",
                "http_service": {"http_uri": {
                    "uri": format!("http://{collector}/v1/logs"),
                    "cluster": "offpath_collector",
                    "timeout": "1s",
                }},
                "body": {"string_value": "%PROTOCOL% %RESPONSE_CODE%"},
                "attributes": {"values": [
                    attribute("path", "%REQ(:PATH)%"),
                    attribute("response_code", "%RESPONSE_CODE%"),
                    attribute("duration", "%DURATION%"),
                    attribute("upstream_cluster", "%UPSTREAM_CLUSTER%"),
                ]},
                "resource_attributes": {"values": [attribute("service.name", "native")]},
            },
        }]);
        self.set(&format!("{HTTP_CONNECTION_MANAGER}/access_log"), logger)?;
        Ok(self)
    }

    /// Has these listeners instead of the shipped one.
    ///
    /// # Errors
    /// When the file has no listeners.
    pub fn with_listeners(mut self, listeners: Vec<Value>) -> anyhow::Result<Self> {
        self.set("/static_resources/listeners", Value::Array(listeners))?;
        Ok(self)
    }

    /// Takes the listener from `file`, as written by [`Bootstrap::write_listener`], and again whenever that is replaced.
    ///
    /// # Errors
    /// When the file has no listeners of its own.
    pub fn with_listener_from(mut self, file: &Path) -> anyhow::Result<Self> {
        let resources = self.at("/static_resources")?.as_object_mut().context("not an object")?;
        resources.remove("listeners");
        let source = json!({"lds_config": {
            "resource_api_version": "V3",
            "path_config_source": {"path": file},
        }});
        self.at("")?.as_object_mut().context("not an object")?.insert("dynamic_resources".to_owned(), source);
        Ok(self)
    }

    /// Writes the listener to `file` in one step, for an Envoy that watches it.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn write_listener(&self, file: &Path) -> anyhow::Result<()> {
        let mut listener =
            self.tree.pointer("/static_resources/listeners/0").context("there is no listener")?.clone();
        let listener_type = json!("type.googleapis.com/envoy.config.listener.v3.Listener");
        listener.as_object_mut().context("not an object")?.insert("@type".to_owned(), listener_type);
        let temporary = file.with_extension("new");
        let discovery = json!({"resources": [listener]}).to_string();
        fs::write(&temporary, discovery)
            .and_then(|()| fs::rename(&temporary, file))
            .with_context(|| format!("cannot write `{}`", file.display()))
    }

    /// The message that the plugin's configuration is in, at a JSON pointer within it.
    ///
    /// # Errors
    /// When there is no such place.
    pub fn plugin_configuration(&mut self, within: &str) -> anyhow::Result<&mut Value> {
        self.plugin(&format!("{}{within}", self.mode.configuration_pointer()))
    }

    /// The plugin's `PluginConfig`, or the dynamic module's `DynamicModuleAccessLog`, at a JSON pointer within it.
    ///
    /// # Errors
    /// When there is no such place.
    pub fn plugin(&mut self, within: &str) -> anyhow::Result<&mut Value> {
        let pointer = format!("{HTTP_CONNECTION_MANAGER}{}{within}", self.mode.plugin_pointer());
        self.at(&pointer)
    }

    /// The value at a JSON pointer.
    ///
    /// # Errors
    /// When there is no such place.
    pub fn at(&mut self, pointer: &str) -> anyhow::Result<&mut Value> {
        let file = self.mode.file();
        self.tree.pointer_mut(pointer).with_context(|| format!("envoy/{file} has nothing at `{pointer}`"))
    }

    fn set(&mut self, pointer: &str, value: Value) -> anyhow::Result<()> {
        *self.at(pointer)? = value;
        Ok(())
    }

    /// As JSON, which Envoy reads as well as YAML.
    #[must_use]
    pub fn to_json(&self) -> String {
        self.tree.to_string()
    }
}

/// A YAML file with one document, as a tree.
///
/// # Errors
/// When it cannot be read, or is not YAML.
pub fn read_yaml(path: &Path) -> anyhow::Result<Value> {
    let text = fs::read_to_string(path).with_context(|| format!("cannot read `{}`", path.display()))?;
    serde_saphyr::from_str(&text).with_context(|| format!("`{}` is not YAML", path.display()))
}
