//! The shell: proxy-wasm's hooks in, host calls out. The only module that knows a proxy.
//!
//! A root context owns a [`Plugin`]; as an access logger Envoy calls its `on_log` for each finished request, as an HTTP
//! filter it calls the `on_log` of a stream context, which shares the plugin. Calls to the collector are made by the
//! root context only: a stream's calls die with it. What happens in every hook ends with the statistics told.

mod host;
mod lease;
mod plugin;

use std::cell::RefCell;
use std::rc::Rc;

use log::error;
use proxy_wasm::traits::{Context, HttpContext, RootContext};
use proxy_wasm::types::{ContextType, LogLevel};

use plugin::Plugin;

proxy_wasm::main! {{
    proxy_wasm::set_log_level(LogLevel::Info);
    proxy_wasm::set_root_context(|_| Box::new(Root::default()));
}}

/// What a root context and its streams share. Hooks never overlap, so the borrows cannot either; were the host to call
/// back into a hook all the same, the inner call would do nothing.
type Shared = Rc<RefCell<Option<Plugin>>>;

#[derive(Default)]
struct Root {
    plugin: Shared,
}

impl Root {
    fn with_plugin<T>(&self, act: impl FnOnce(&mut Plugin) -> T) -> Option<T> {
        with_plugin(&self.plugin, act)
    }
}

fn with_plugin<T>(shared: &Shared, act: impl FnOnce(&mut Plugin) -> T) -> Option<T> {
    shared.try_borrow_mut().ok()?.as_mut().map(act)
}

impl RootContext for Root {
    fn on_configure(&mut self, size: usize) -> bool {
        let configuration = host::plugin_configuration(size);
        match Plugin::configure(&configuration) {
            Ok(plugin) => {
                let Ok(mut shared) = self.plugin.try_borrow_mut() else {
                    return false;
                };
                if let Some(mut replaced) = shared.replace(plugin) {
                    replaced.end();
                }
                true
            }
            Err(reason) => {
                error!("{reason}");
                false
            }
        }
    }

    fn on_tick(&mut self) {
        self.with_plugin(|plugin| {
            plugin.tick();
            plugin.send();
            plugin.finish_drain();
        });
    }

    fn on_log(&mut self) {
        self.with_plugin(|plugin| {
            plugin.log();
            plugin.send();
        });
    }

    fn create_http_context(&self, _context_id: u32) -> Option<Box<dyn HttpContext>> {
        Some(Box::new(Stream { plugin: Rc::clone(&self.plugin) }))
    }

    fn get_type(&self) -> Option<ContextType> {
        Some(ContextType::HttpContext)
    }
}

impl Context for Root {
    /// The proxy wants this root context gone: `false` keeps it, ticking, until [`host::done`].
    fn on_done(&mut self) -> bool {
        self.with_plugin(|plugin| {
            plugin.drain();
            plugin.send();
            plugin.is_drained()
        })
        .unwrap_or(true)
    }

    fn on_http_call_response(&mut self, token: u32, headers: usize, body_size: usize, _trailers: usize) {
        self.with_plugin(|plugin| {
            plugin.answered(token, headers, body_size);
            plugin.send();
            plugin.finish_drain();
        });
    }
}

impl Drop for Root {
    /// `on_delete`: what is still here will never be sent.
    fn drop(&mut self) {
        self.with_plugin(Plugin::end);
    }
}

/// A request's stream, in a filter chain. It looks at nothing but the end, and never pauses or changes anything.
struct Stream {
    plugin: Shared,
}

impl Context for Stream {}

impl HttpContext for Stream {
    fn on_log(&mut self) {
        with_plugin(&self.plugin, Plugin::log);
    }
}
