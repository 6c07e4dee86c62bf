//! The probe in the SDK's dispatcher, with all of the SDK's exports: as an access logger its root context is entered, as
//! an HTTP filter a stream's.
#![allow(unsafe_code, reason = "the SDK's macro exports by name")]

use std::rc::Rc;

use proxy_wasm::{
    traits::{Context, HttpContext, RootContext},
    types::ContextType,
};

use crate::{host, probe::Probe};

proxy_wasm::main! {{
    proxy_wasm::set_root_context(|_| Box::new(Root::default()));
}}

#[derive(Default)]
struct Root {
    probe: Rc<Probe>,
}

impl Context for Root {}

impl RootContext for Root {
    fn on_configure(&mut self, size: usize) -> bool {
        match Probe::configure(&host::configuration(size)) {
            Ok(probe) => {
                self.probe = Rc::new(probe);
                true
            }
            Err(reason) => {
                host::log_error(&reason);
                false
            }
        }
    }

    fn on_log(&mut self) {
        self.probe.log();
    }

    fn create_http_context(&self, _context_id: u32) -> Option<Box<dyn HttpContext>> {
        Some(Box::new(Stream { probe: Rc::clone(&self.probe) }))
    }

    fn get_type(&self) -> Option<ContextType> {
        Some(ContextType::HttpContext)
    }
}

struct Stream {
    probe: Rc<Probe>,
}

impl Context for Stream {}

impl HttpContext for Stream {
    fn on_log(&mut self) {
        self.probe.log();
    }
}
