//! How a finished request reaches the plugin: one hook as an access logger, a whole stream as a filter.

use std::rc::Rc;

use wasmtime::{Result, bail, format_err};

use super::{Mode, Proxy};
use crate::request::{Reached, Request};
use crate::stream_info::{Headers, StreamInfo};
use crate::vm::{Phase, Vm};
use crate::world::World;

impl Proxy {
    /// Has a worker end a request, as the mode demands.
    pub(crate) fn finish_request(&mut self, worker: usize, request: Request) -> Result<()> {
        let Request { mut info, reached } = request;
        if info.start_unix_nanos == 0 {
            let took =
                info.duration.map_or(0, |duration| u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX));
            info.start_unix_nanos = self.world.now_unix_nanos.saturating_sub(took);
        }
        let vm = self
            .vms
            .get_mut(worker.saturating_add(1))
            .ok_or_else(|| format_err!("there is no worker {worker}"))?;
        let world = &mut self.world;
        match (self.mode, reached) {
            (Mode::AccessLogger, _) => match vm.active_root() {
                Some(root) => vm.log(world, root, Rc::new(info)),
                None => Ok(()),
            },
            (Mode::HttpFilter, Reached::Codec) => Ok(()),
            (Mode::HttpFilter, Reached::EarlierFilter) => end_stream(vm, world, None, &Rc::new(info)),
            (Mode::HttpFilter, Reached::Plugin) => {
                let stream = pass_filter(vm, world, &info)?;
                end_stream(vm, world, stream, &Rc::new(info))
            }
        }
    }
}

/// The hooks of a stream up to its end, in Envoy's order.
fn pass_filter(vm: &mut Vm, world: &mut World, info: &StreamInfo) -> Result<Option<u32>> {
    let Some(stream) = vm.create_stream() else {
        return Ok(None);
    };
    vm.announce_stream(world, stream)?;
    let size = |bytes: u64| u32::try_from(bytes).unwrap_or(u32::MAX);
    let count = |headers: &Headers| u32::try_from(headers.len()).unwrap_or(u32::MAX);

    let unanswered =
        StreamInfo { duration: None, response_code: None, response_code_details: None, ..info.clone() };
    let unanswered =
        Rc::new(StreamInfo { backend_latency: None, bytes_sent: 0, response_flags: 0, ..unanswered });
    if let Some(headers) = &info.request_headers {
        let only_headers = u32::from(info.bytes_received == 0);
        let scope = (Rc::clone(&unanswered), Phase::RequestHeaders);
        must_continue(vm.in_stream(
            world,
            stream,
            scope,
            "proxy_on_request_headers",
            &[count(headers), only_headers],
        )?)?;
    }
    if info.bytes_received > 0 {
        let scope = (unanswered, Phase::Other);
        must_continue(vm.in_stream(
            world,
            stream,
            scope,
            "proxy_on_request_body",
            &[size(info.bytes_received), 1],
        )?)?;
    }

    let unended = Rc::new(StreamInfo { duration: None, ..info.clone() });
    let last = u32::from(info.response_trailers.is_none());
    if let Some(headers) = &info.response_headers {
        let only_headers = if info.bytes_sent == 0 { last } else { 0 };
        let scope = (Rc::clone(&unended), Phase::ResponseHeaders);
        must_continue(vm.in_stream(
            world,
            stream,
            scope,
            "proxy_on_response_headers",
            &[count(headers), only_headers],
        )?)?;
    }
    if info.bytes_sent > 0 {
        let scope = (Rc::clone(&unended), Phase::Other);
        must_continue(vm.in_stream(
            world,
            stream,
            scope,
            "proxy_on_response_body",
            &[size(info.bytes_sent), last],
        )?)?;
    }
    if let Some(trailers) = &info.response_trailers {
        let scope = (unended, Phase::ResponseTrailers);
        must_continue(vm.in_stream(
            world,
            stream,
            scope,
            "proxy_on_response_trailers",
            &[count(trailers)],
        )?)?;
    }
    Ok(Some(stream))
}

/// `on_log`, `on_done`, `on_delete`. A stream that the guest has not heard of is announced to it first.
fn end_stream(vm: &mut Vm, world: &mut World, stream: Option<u32>, info: &Rc<StreamInfo>) -> Result<()> {
    let stream = match stream {
        Some(stream) => stream,
        None => {
            let Some(stream) = vm.create_stream() else {
                return Ok(());
            };
            vm.announce_stream(world, stream)?;
            stream
        }
    };
    vm.log(world, stream, Rc::clone(info))?;
    vm.destroy_stream(world, stream, Rc::clone(info))
}

/// A hook that returns anything but `Continue` would hold the request up.
fn must_continue(action: Option<u32>) -> Result<()> {
    match action {
        None | Some(0) => Ok(()),
        Some(action) => bail!("the plugin returned action {action} and would hold the request up"),
    }
}
