//! The shell: proxy-wasm's hooks in, host calls out. The only module that knows a proxy.
//!
//! A root context owns a [`Plugin`] (and those that it has replaced, until they have sent everything); as an access logger Envoy calls its `on_log` for each finished request, as an HTTP
//! filter it calls the `on_log` of a stream context, which shares the plugin. Calls to the collector are made by the
//! root context only: a stream's calls die with it. What happens in every hook ends with the statistics told.

mod fetch;
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
type Shared = Rc<RefCell<Plugins>>;

/// The configured plugin, and those that it has replaced in this root context as long as they have something to send.
#[derive(Default)]
struct Plugins {
    current: Option<Plugin>,
    replaced: Vec<Plugin>,
    /// Whether the host knows that this root context may go.
    is_gone: bool,
}

impl Plugins {
    fn each(&mut self) -> impl Iterator<Item = &mut Plugin> {
        self.replaced.iter_mut().chain(&mut self.current)
    }

    /// Ends those that have sent everything.
    fn end_replaced(&mut self) {
        for mut plugin in self.replaced.extract_if(.., |plugin| plugin.is_drained()) {
            plugin.end();
        }
    }

    fn are_drained(&mut self) -> bool {
        self.end_replaced();
        self.replaced.is_empty() && self.current.as_ref().is_none_or(Plugin::is_drained)
    }

    /// Tells the host once that it may delete this root context, after a drain that took longer than `on_done`.
    fn finish_drain(&mut self) {
        if !self.is_gone && self.are_drained() {
            self.is_gone = true;
            host::done();
        }
    }
}

#[derive(Default)]
struct Root {
    plugins: Shared,
    is_draining: bool,
}

impl Root {
    fn with_plugins(&self, act: impl FnOnce(&mut Plugins)) {
        if let Ok(mut plugins) = self.plugins.try_borrow_mut() {
            act(&mut plugins);
        }
    }
}

fn log(shared: &Shared) {
    if let Ok(mut plugins) = shared.try_borrow_mut()
        && let Some(plugin) = &mut plugins.current
    {
        plugin.log();
    }
}

impl RootContext for Root {
    fn on_configure(&mut self, size: usize) -> bool {
        match Plugin::configure(&host::plugin_configuration(size)) {
            Ok(plugin) => {
                self.with_plugins(|plugins| {
                    if let Some(mut replaced) = plugins.current.replace(plugin) {
                        replaced.drain();
                        replaced.send();
                        plugins.replaced.push(replaced);
                    }
                    plugins.end_replaced();
                });
                true
            }
            Err(reason) => {
                error!("{reason}");
                false
            }
        }
    }

    fn on_tick(&mut self) {
        self.with_plugins(|plugins| {
            for plugin in plugins.each() {
                plugin.tick();
                plugin.send();
            }
        });
        self.go_on();
    }

    fn on_log(&mut self) {
        log(&self.plugins);
        self.with_plugins(|plugins| plugins.each().for_each(Plugin::send));
    }

    fn create_http_context(&self, _context_id: u32) -> Option<Box<dyn HttpContext>> {
        Some(Box::new(Stream { plugins: Rc::clone(&self.plugins) }))
    }

    fn get_type(&self) -> Option<ContextType> {
        Some(ContextType::HttpContext)
    }
}

impl Context for Root {
    /// The proxy wants this root context gone: `false` keeps it, ticking, until [`host::done`].
    fn on_done(&mut self) -> bool {
        self.is_draining = true;
        self.with_plugins(|plugins| {
            for plugin in plugins.each() {
                plugin.drain();
                plugin.send();
            }
            // The answer says it; the host must not be told a second time.
            plugins.is_gone = plugins.are_drained();
        });
        self.plugins.try_borrow().is_ok_and(|plugins| plugins.is_gone)
    }

    fn on_http_call_response(&mut self, token: u32, headers: usize, body_size: usize, _trailers: usize) {
        self.with_plugins(|plugins| {
            // The token is one plugin's; the others do not know it.
            for plugin in plugins.each() {
                plugin.answered(token, headers, body_size);
                plugin.send();
            }
        });
        self.go_on();
    }
}

impl Root {
    /// After what may have been the last thing to wait for.
    fn go_on(&self) {
        self.with_plugins(|plugins| {
            plugins.end_replaced();
            if self.is_draining {
                plugins.finish_drain();
            }
        });
    }
}

impl Drop for Root {
    /// `on_delete`: what is still here will never be sent.
    fn drop(&mut self) {
        self.with_plugins(|plugins| plugins.each().for_each(Plugin::end));
    }
}

/// A request's stream, in a filter chain. It looks at nothing but the end, and never pauses or changes anything.
struct Stream {
    plugins: Shared,
}

impl Context for Stream {}

impl HttpContext for Stream {
    fn on_log(&mut self) {
        log(&self.plugins);
    }
}
